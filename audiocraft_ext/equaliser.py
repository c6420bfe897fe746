"""Samples made as loud in each of 32 bands as a reference is. Knows nothing of what made either.

Source: ``MultiBandDiffusion.re_eq``, which splits both into all their bands. Neither has to be split: how loud a band
is follows from the samples' autocorrelation, and the sum of all bands, each times its gain, is one filter.
"""

import julius
import torch
from torch import Tensor
from torch.nn import functional

N_BANDS = 32
# Of all power. Less than this in a band is what rounding leaves of the others.
_SILENCE = 1e-12
_LARGEST_FFT = 1 << 17


class Equaliser:
    """The bands of a sample rate. One is what a low-pass leaves of the next: together they are the signal."""

    def __init__(self, sample_rate: int, device: torch.device) -> None:
        lowpass = julius.SplitBands(sample_rate, n_bands=N_BANDS).lowpass.to(device)
        self._half = lowpass.half_size
        all_pass = functional.pad(torch.ones(1, 1, device=device), (self._half, self._half))
        self._lows = torch.cat([lowpass.filters[:, 0], all_pass]).double()  # [bands, taps]
        self._bands = self._lows.diff(dim=0, prepend=torch.zeros_like(self._lows[:1]))
        self._autocorrelation = _autocorrelation(self._bands, 2 * self._half)

    def __call__(self, samples: Tensor, reference: Tensor) -> Tensor:
        """Samples [B, 1, N] as loud in each band as the reference [B, 1, N]; each row on its own.

        A band that is silent in the samples stays silent, where upstream divides by zero.
        """
        own = self._deviation(samples)
        gains = torch.where(own > 0, self._deviation(reference) / own, 0)  # [B, bands]
        # Of low i, band i holds all, and band i + 1 takes it away again.
        taps = (gains - functional.pad(gains[:, 1:], (0, 1))) @ self._lows
        rows = zip(self._padded(samples), taps.to(samples.dtype), strict=True)
        return torch.cat([julius.fft_conv1d(row[None], its_taps[None, None]) for row, its_taps in rows])

    def _padded(self, samples: Tensor) -> Tensor:
        """With their first and last sample repeated, as far as a filter reaches."""
        return functional.pad(samples, (self._half, self._half), mode="replicate")

    def _deviation(self, samples: Tensor) -> Tensor:
        """The standard deviation of each band [B, bands] of samples [B, 1, N]."""
        n, reach = samples.shape[-1], 2 * self._half
        padded = self._padded(samples)[:, 0].double()
        # The square sum of all that a filter makes of the padded samples: both autocorrelations, lag by lag and to
        # either side. The first and last `reach` of these numbers are not to count: there the filter, which is
        # symmetric, hears less than it is long.
        sides = torch.full_like(self._autocorrelation[0], 2.0)
        sides[0] = 1
        square = _autocorrelation(padded, reach) @ (sides * self._autocorrelation).T
        n_fft = _fft_size(2 * reach)
        for end in (padded[:, :reach], padded[:, -reach:].flip(-1)):
            spectrum = torch.fft.rfft(end, n_fft)[:, None] * torch.fft.rfft(self._bands, n_fft)
            square -= torch.fft.irfft(spectrum, n_fft)[..., :reach].square().sum(-1)
        # What each tap hears in all: the samples that begin as many later.
        heard = functional.pad((padded[:, n:] - padded[:, :reach]).cumsum(-1), (1, 0)) + padded[:, None, :n].sum(-1)
        power = square / n - (heard @ self._bands.T / n).square()
        return torch.where(power > _SILENCE * power.sum(-1, keepdim=True), power, 0).sqrt()


def _fft_size(n: int) -> int:
    return 1 << n.bit_length()


def _autocorrelation(signal: Tensor, reach: int) -> Tensor:
    """Sums [B, reach + 1] of the products of a signal's [B, N] numbers that lie so far apart; piece by piece."""
    n_fft = min(_fft_size(signal.shape[-1] + reach), max(_LARGEST_FFT, _fft_size(2 * reach)))
    lags = signal.new_zeros(len(signal), reach + 1)
    for start in range(0, signal.shape[-1], n_fft - reach):
        here = torch.fft.rfft(signal[:, start : start + n_fft - reach], n_fft)
        ahead = torch.fft.rfft(signal[:, start : start + n_fft], n_fft)
        lags += torch.fft.irfft(here.conj() * ahead, n_fft)[:, : reach + 1]
    return lags
