"""Sounds, files of them, and similarity measures, for tests of reading and of writing."""

import functools
import subprocess
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from audiocraft_ext.audio.ffmpeg import ffmpeg_path

RATE = 44_100


def ffmpeg(*arguments: object) -> bytes:
    command = [ffmpeg_path(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


@functools.cache
def chords(duration_s: float = 2.0, channels: int = 2, rate: int = RATE) -> Tensor:
    """Three swelling tones with some noise [C, N]; left and right differ."""
    t = torch.arange(round(duration_s * rate)) / rate
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    swell = 0.5 + 0.5 * torch.sin(2 * torch.pi * 1.5 * t)
    sides = [sum(torch.sin(2 * torch.pi * hz * (1 + 0.5 * side) * t) for hz in (220, 331, 612)) for side in (0, 1)]
    return torch.stack([0.15 * swell * torch.as_tensor(side) + 0.005 * noise for side in sides])[:channels]


def write(path: Path, samples: Tensor, rate: int = RATE, **kwargs: str) -> Path:
    soundfile.write(path, samples.T.numpy(), rate, **kwargs)
    return path


def snr_db(got: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(expected.square().mean() / (got - expected).square().mean().clamp(min=1e-20)))


def correlation(got: Tensor, expected: Tensor) -> float:
    """Largest normalised cross-correlation of two signals [C, N] over all shifts, the worse channel's."""
    size = got.shape[-1] + expected.shape[-1]
    product = torch.fft.rfft(got, size) * torch.fft.rfft(expected, size).conj()
    peaks = torch.fft.irfft(product, size).amax(dim=-1)
    return float((peaks / (got.norm(dim=-1) * expected.norm(dim=-1))).min())
