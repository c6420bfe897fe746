"""A filter bank, held to splitting signals into all their bands, as audiocraft's ``re_eq`` and processors do."""

import julius
import pytest
import torch
from torch import Tensor

from audiocraft_ext.diffusion import N_BANDS_OF_EQUALISER
from audiocraft_ext.filterbank import FilterBank

SAMPLE_RATE = 32_000
SPLIT = julius.SplitBands(SAMPLE_RATE, n_bands=N_BANDS_OF_EQUALISER)
BANK = FilterBank(SPLIT, torch.device("cpu"))


def noise(n_rows: int, n_samples: int, seed: int) -> Tensor:
    return 0.1 * torch.randn(n_rows, 1, n_samples, generator=torch.Generator().manual_seed(seed))


def music(n_rows: int, n_samples: int, seed: int) -> Tensor:
    """Noise that falls by 6 dB an octave, beginning and ending anywhere, around a mean that is not 0."""
    return 0.02 + 0.1 * julius.highpass_filter(noise(n_rows, n_samples, seed).cumsum(-1), 30 / SAMPLE_RATE)


def in_bands(samples: Tensor) -> Tensor:
    """[32, B, 1, N]"""
    return SPLIT(samples)


def upstream(samples: Tensor, reference: Tensor) -> Tensor:
    own, wanted = in_bands(samples), in_bands(reference)
    return sum(band * (other.std() / band.std()) for band, other in zip(own, wanted, strict=True))


# The largest difference measured: 4e-6 of the loudest sample. The longest clip takes several pieces.
@pytest.mark.parametrize("n_samples", [20_000, 32_000, 127_564, 300_000])
def test_it_gives_what_splitting_into_bands_gives(n_samples: int) -> None:
    for samples, reference in (
        (noise(1, n_samples, 0), music(1, n_samples, 1)),
        (music(1, n_samples, 2), noise(1, n_samples, 3)),
    ):
        expected = upstream(samples, reference)
        assert (BANK.equalised(samples, reference) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("n_samples", [100, 20_000, 300_000])
def test_gains_scale_the_bands_of_each_row(n_samples: int) -> None:
    samples = music(2, n_samples, 0)
    gains = torch.rand(2, N_BANDS_OF_EQUALISER, generator=torch.Generator().manual_seed(1))
    expected = (in_bands(samples) * gains.T[..., None, None]).sum(0)
    assert (BANK.scaled(samples, gains) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_each_row_is_equalised_on_its_own() -> None:
    samples, reference = noise(2, 40_000, 0), music(2, 40_000, 1)
    both = BANK.equalised(samples, reference)
    for row in range(2):
        alone = BANK.equalised(samples[row : row + 1], reference[row : row + 1])
        assert (both[row] - alone[0]).abs().max() < 1e-6


def test_what_is_silent_stays_silent() -> None:
    silence, sound = torch.zeros(1, 1, 32_000), noise(1, 32_000, 0)
    assert BANK.equalised(silence, sound).abs().max() == 0
    assert BANK.equalised(sound, silence).abs().max() == 0


def test_a_band_that_is_silent_stays_silent() -> None:
    seconds = torch.arange(64_000, dtype=torch.double) / SAMPLE_RATE
    tone = (torch.sin(2 * torch.pi * 440 * seconds) * torch.hann_window(64_000, dtype=torch.double)).float()[None, None]
    equalised = in_bands(BANK.equalised(tone, noise(1, 64_000, 0)))
    assert equalised[:8].std() > 1e-3
    assert equalised[8:28].std() < 1e-4  # what rounding left there would be as loud as the noise, 0.02
