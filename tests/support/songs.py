"""Data sets of short songs, for training tests."""

import zipfile
from pathlib import Path

import torch

from tests.support.audio_files import write


def write_songs(folder: Path, n: int = 4, seconds: float = 6.0, rate: int = 32_000) -> Path:
    """Songs of one swelling tone each, with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    t = torch.arange(round(seconds * rate)) / rate
    for number in range(n):
        tone = 0.3 * torch.sin(2 * torch.pi * (220 + 90 * number) * t) * (0.5 + 0.5 * torch.sin(9 * t))
        write(folder / f"{number}.wav", tone[None], rate)
        (folder / f"{number}.txt").write_text(f"a tone, number {number}")
    return folder


def zip_songs(folder: Path) -> Path:
    """A zip of a folder's files, beside it."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.iterdir()):
            opened.write(file, file.name)
    return archive
