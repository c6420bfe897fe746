"""One audio file of a data set, decoded block by block and measured. Knows no captions."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audiocraft_ext.audio.read import Clip, ReadLimits, read
from audiocraft_ext.errors import InputError

MAX_SONG_S = 30 * 60.0
MIN_SONG_S = 5.0
SILENCE = 1e-3  # -60 dB of full scale
# A block is decoded from the file's start: long enough that a song is one, short enough for its 100 MB.
BLOCK_S = 300.0
LIMITS = ReadLimits(file_bytes=2_000_000_000, clip_s=2 * MAX_SONG_S, window_bytes=1 << 30, wall_s=600.0)
_FULL_SCALE = 0.999


@dataclass(frozen=True)
class Song:
    """A decoded file's properties. ``peaks`` are the largest samples of each second; hashes are SHA-256.

    ``audio_hash`` is the samples': that of a file with other tags, or in another lossless format, is the same.
    """

    name: str
    path: Path
    duration_s: float
    channels: int
    peaks: list[float]
    clipped: float
    file_hash: str
    audio_hash: str

    def silent_share(self, start_s: float = 0.0, end_s: float = math.inf) -> float:
        """The share of a window's seconds that are silent."""
        seconds = self.peaks[int(start_s) : math.ceil(min(end_s, self.duration_s))]
        return sum(peak < SILENCE for peak in seconds) / len(seconds)


def read_song(name: str, path: Path) -> Song:
    """Decode a file and measure it; raises ``InputError`` for one that is not audio, or too large to decode."""
    digest, peaks, n_clipped, n_samples, n_read_s = hashlib.sha256(), [], 0, 0, 0.0
    for clip in blocks(path):
        magnitude = clip.samples.abs()
        digest.update(f"{clip.sample_rate} {len(clip.samples)}".encode())
        digest.update(clip.samples.numpy().tobytes())
        peaks += [float(second.max()) for second in magnitude.split(clip.sample_rate, dim=-1)]
        n_clipped += int((magnitude >= _FULL_SCALE).sum())
        n_samples, n_read_s, channels = n_samples + magnitude.numel(), n_read_s + clip.duration_s, len(magnitude)
    return Song(name, path, n_read_s, channels, peaks, n_clipped / n_samples, file_hash(path), digest.hexdigest())


def blocks(path: Path) -> Iterator[Clip]:
    """A file's first ``MAX_SONG_S`` seconds in blocks of ``BLOCK_S``, the last one shorter."""
    start_s = 0.0
    while start_s < MAX_SONG_S:
        try:
            clip = read(path, start_s, max_s=min(BLOCK_S, MAX_SONG_S - start_s), limits=LIMITS)
        except InputError as error:
            if start_s and error.field == "continuation_start":  # the file ended with the last block
                return
            raise
        yield clip
        if clip.duration_s < BLOCK_S:
            return
        start_s += BLOCK_S


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
