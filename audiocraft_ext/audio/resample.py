"""Samples at another rate and in another number of channels. Knows nothing of files."""

from fractions import Fraction

import torch
from torch import Tensor

from audiocraft_ext.audio.read import Clip

_LARGEST_FILTER_BANK = 1_000_000


def resample(clip: Clip, sample_rate: int, channels: int) -> Tensor:
    """The clip's samples [channels, N] at another rate, by audiocraft's `convert_audio`.

    The size of its filter bank is the product of the reduced ratio of the rates: 441 times 320 from 44.1 to 32 kHz, but
    5 GB for an odd rate such as 44,099 Hz. soxr converts such rates. A clip of less than one sample at the new rate
    becomes one of silence: a codec needs one.
    """
    from audiocraft_ext.upstream import convert_audio

    samples, ratio = clip.samples, Fraction(clip.sample_rate, sample_rate)
    if ratio.numerator * ratio.denominator > _LARGEST_FILTER_BANK:
        import soxr

        samples = torch.from_numpy(soxr.resample(samples.t().numpy(), clip.sample_rate, sample_rate)).t()
        ratio = Fraction(1)
    resampled: Tensor = convert_audio(samples, ratio.numerator, ratio.denominator, channels)
    return resampled.contiguous() if resampled.shape[-1] else samples.new_zeros(channels, 1)
