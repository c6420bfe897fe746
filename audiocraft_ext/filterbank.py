"""Samples in bands: how loud each is, and each times its gain, without splitting the samples into any.

Knows nothing of what made the samples. The bands are julius' (``SplitBands``): band i is low-pass i minus low-pass
i - 1, and together they are the signal. So a weighted sum of bands is one filter, and a band's power follows from the
signal's autocorrelation.
"""

import julius
import torch
from torch import Tensor
from torch.nn import functional

# Of all power. Less than this in a band is what rounding leaves of the others.
_SILENCE = 1e-12
# Longer ones spend more time on their tables than on the samples.
_SHORTEST_FFT = 1 << 14
_FRAMES_AT_ONCE = 64


class FilterBank:
    """The bands that ``split`` makes, two at least, on a device."""

    def __init__(self, split: julius.SplitBands, device: torch.device) -> None:
        lowpass = split.lowpass.to(device)
        self._half = lowpass.half_size
        self._reach = 2 * self._half
        all_pass = functional.pad(torch.ones(1, 1, device=device), (self._half, self._half))
        self._lows = torch.cat([lowpass.filters[:, 0], all_pass]).double()  # [bands, taps]
        self._bands = self._lows.diff(dim=0, prepend=torch.zeros_like(self._lows[:1]))
        self._autocorrelation = _autocorrelation(self._bands, self._reach)

    def scaled(self, samples: Tensor, gains: Tensor) -> Tensor:
        """The sum [B, 1, N] of the bands of samples [B, 1, N], each times its gain [B, bands]."""
        # Of low i, band i holds all, and band i + 1 takes it away again.
        taps = ((gains - functional.pad(gains[:, 1:], (0, 1))).double() @ self._lows).to(samples.dtype)
        ratio = (_fft_size(self._reach) + 0.5) / taps.shape[-1]  # julius rounds down
        rows = zip(self._padded(samples), taps, strict=True)
        return torch.cat([julius.fft_conv1d(row[None], its[None, None], block_ratio=ratio) for row, its in rows])

    def equalised(self, samples: Tensor, reference: Tensor) -> Tensor:
        """Samples [B, 1, N] as loud in each band as the reference [B, 1, N]; each row on its own.

        A band that is silent in the samples stays silent, where upstream divides by zero. Source:
        ``MultiBandDiffusion.re_eq``.
        """
        own = self.deviation(samples)
        return self.scaled(samples, torch.where(own > 0, self.deviation(reference) / own, 0))

    def deviation(self, samples: Tensor) -> Tensor:
        """The standard deviation of each band [B, bands] of samples [B, 1, N], in double precision."""
        n, reach = samples.shape[-1], self._reach
        padded = self._padded(samples)[:, 0].double()
        # The square sum of all that a filter makes of the padded samples: both autocorrelations, lag by lag and to
        # either side. The first and last `reach` of these numbers are not to count: there the filter, which is
        # symmetric, hears less than it is long.
        sides = torch.full_like(self._autocorrelation[0], 2.0)
        sides[0] = 1
        square = _autocorrelation(padded, reach) @ (sides * self._autocorrelation).T
        n_fft = _fft_size(reach)
        for end in (padded[:, :reach], padded[:, -reach:].flip(-1)):
            spectrum = torch.fft.rfft(end, n_fft)[:, None] * torch.fft.rfft(self._bands, n_fft)
            square -= torch.fft.irfft(spectrum, n_fft)[..., :reach].square().sum(-1)
        # What each tap hears in all: the samples that begin as many later.
        heard = functional.pad((padded[:, n:] - padded[:, :reach]).cumsum(-1), (1, 0)) + padded[:, None, :n].sum(-1)
        power = square / n - (heard @ self._bands.T / n).square()
        return torch.where(power > _SILENCE * power.sum(-1, keepdim=True), power, 0).sqrt()

    def _padded(self, samples: Tensor) -> Tensor:
        """With their first and last sample repeated, as far as a filter reaches."""
        return functional.pad(samples, (self._half, self._half), mode="replicate")


def _fft_size(reach: int) -> int:
    """A size of FFT of which a filter of this reach wastes little on overlap."""
    return max(_SHORTEST_FFT, 1 << (2 * reach).bit_length())


def _autocorrelation(signal: Tensor, reach: int) -> Tensor:
    """Sums [B, reach + 1] of the products of a signal's [B, N] numbers that lie so far apart; some frames at once."""
    n_fft = _fft_size(reach)
    hop = n_fft - reach
    lags = signal.new_zeros(len(signal), reach + 1)
    for start in range(0, signal.shape[-1], _FRAMES_AT_ONCE * hop):
        heard = signal[:, start : start + _FRAMES_AT_ONCE * hop + reach]
        n_frames = -(-(min(signal.shape[-1] - start, _FRAMES_AT_ONCE * hop)) // hop)
        frames = functional.pad(heard, (0, n_frames * hop + reach - heard.shape[-1])).unfold(-1, n_fft, hop)
        product = torch.fft.rfft(frames[..., :hop], n_fft).conj() * torch.fft.rfft(frames, n_fft)
        lags += torch.fft.irfft(product.sum(1), n_fft)[:, : reach + 1]
    return lags
