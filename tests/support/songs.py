"""Short songs for data sets, each of its own noise."""

from pathlib import Path

import torch

from tests.support.audio_files import write

RATE = 8000


def song(path: Path, duration_s: float = 6.0, *, seed: int | None = None, channels: int = 1, gain: float = 0.1) -> Path:
    """Write noise in the format of the suffix, by default another one for each name."""
    generator = torch.Generator().manual_seed(sum(path.name.encode()) if seed is None else seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = gain * torch.randn(channels, round(duration_s * RATE), generator=generator)
    return write(path, samples, RATE, format="flac" if path.suffix == ".flac" else "wav")
