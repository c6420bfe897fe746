"""Files to tensors and back: decode, cut, resample, normalise, encode, tag. Knows nothing of models."""

import json
import os
import re
import selectors
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from audiocraft_ext.decode import Clip, Limits, decode, ffmpeg_path
from audiocraft_ext.request import NormalizationStrategy, OutputFormat

__all__ = [
    "Clip",
    "Limits",
    "decode",
    "encode",
    "ffmpeg_path",
    "normalise",
    "resample",
]

_LARGEST_FILTER_BANK = 1_000_000
_CODEC = {
    "wav": ["-c:a", "pcm_s16le", "-f", "wav"],
    "mp3": ["-c:a", "libmp3lame", "-b:a", "320k", "-id3v2_version", "3", "-f", "mp3"],
}
_TAGS_OF_BOTH = frozenset({"title", "artist", "album", "genre", "date", "copyright", "comment"})
_ENCODE_TIMEOUT_S, _CHECK_EVERY_S, _PIPE_BYTES = 600.0, 0.1, 1 << 20


def resample(clip: Clip, sample_rate: int, channels: int) -> Tensor:
    """The clip's samples [channels, N] at another rate, by audiocraft's `convert_audio`.

    Its filter bank has the product of the reduced ratio of the rates as its size: 441 times 320 from 44.1 to 32 kHz,
    but 5 GB for an odd rate such as 44,099 Hz. Such rates are converted by Fourier transform. A clip of less than one
    sample at the new rate becomes one of silence: no codec takes none.
    """
    from audiocraft_ext.upstream import convert_audio

    samples, ratio = clip.samples, Fraction(clip.sample_rate, sample_rate)
    if ratio.numerator * ratio.denominator > _LARGEST_FILTER_BANK:
        samples, ratio = _resample_by_fft(samples, clip.sample_rate, sample_rate), Fraction(1)
    resampled: Tensor = convert_audio(samples, ratio.numerator, ratio.denominator, channels)
    return resampled.contiguous() if resampled.shape[-1] else samples.new_zeros(channels, 1)


def _resample_by_fft(samples: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Samples [C, N] at any other rate; over whole seconds, of which a transform has whole numbers of both rates."""
    n_seconds = -(-samples.shape[-1] // from_hz) + 1  # at least one of silence, as the transform joins end to start
    spectrum = torch.fft.rfft(samples, n_seconds * from_hz)
    resampled = torch.fft.irfft(spectrum[..., : n_seconds * to_hz // 2 + 1], n_seconds * to_hz) * (to_hz / from_hz)
    return resampled[..., : samples.shape[-1] * to_hz // from_hz]


def normalise(samples: Tensor, sample_rate: int, strategy: NormalizationStrategy) -> Tensor:
    """Samples [C, N] as audiocraft's `audio_write` scales them by default; float32 on the CPU, within ±1.

    Loudness: -14 LUFS, no compressor, then clipped. Peak and clip: -1 dB. RMS: -18 dB of the mono mix, then clipped.
    Where upstream divides by zero or fails, the samples come back as they are, clipped: silence, which is less than
    half a step of 16 bits (for RMS, of the mono mix), and sound that the loudness meter gates away as inaudible. Less
    than the 400 ms that this meter needs is measured as if it were repeated.
    """
    from audiocraft_ext.upstream import normalize_audio

    samples = samples.detach().float().cpu()
    assert samples.isfinite().all(), "samples to write must be finite"
    measured = samples.mean(dim=0) if strategy == "rms" else samples
    if measured.abs().max() < 2**-16:
        return samples.clamp(-1, 1)
    n_samples = samples.shape[-1]
    n_repeats = -(-round(0.4 * sample_rate) // n_samples) if strategy == "loudness" else 1
    # A copy (by `repeat`): upstream clips in place.
    looped = samples.repeat(1, n_repeats)
    try:
        scaled: Tensor = normalize_audio(looped, strategy=strategy, sample_rate=sample_rate)[:, :n_samples]
    except AssertionError:  # upstream's way to say that the gain is not finite
        scaled = samples
    return (scaled if scaled.isfinite().all() else samples).clamp(-1, 1)


def encode(
    samples: Tensor,
    sample_rate: int,
    path: Path,
    format: OutputFormat,
    tags: Mapping[str, str],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write samples [C, N] within ±1 as 16-bit wav or 320 kbit/s mp3, by the ffmpeg call of audiocraft's `audio_write`.

    The bytes of the audio are those of `audio_write`; the file is there whole or not at all. Tags that wav (RIFF INFO)
    and mp3 (ID3v2) both know go under their own names; all others together, as one JSON object, into the comment.
    Below 32 kHz the mp3 format itself ends at 160 kbit/s. `check` is called every tenth of a second, and what it raises
    ends the writing. RuntimeError when ffmpeg fails.
    """
    frames = samples.detach().float().cpu().t().contiguous().numpy().astype("<f4", copy=False)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    with tempfile.TemporaryFile() as metadata:
        # Not on the command line: that ends at 128 KB an argument, and shows the prompt to everyone on the machine.
        metadata.write(_ffmetadata(tags))
        metadata.flush()
        metadata.seek(0)
        command = [ffmpeg_path(), "-v", "error", "-f", "f32le", "-ar", str(sample_rate), "-ac", str(samples.shape[0])]
        command += ["-i", "pipe:0", "-f", "ffmetadata", "-i", f"file:/dev/fd/{metadata.fileno()}"]
        command += ["-map", "0:a", "-map_metadata", "1", *_CODEC[format], f"file:{part.absolute()}"]
        try:
            complaint = _run(command, frames.tobytes(), metadata.fileno(), check)
            if complaint is not None:
                raise RuntimeError(f"ffmpeg could not write the {format}: {complaint}")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _run(command: list[str], given: bytes, open_file: int, check: Callable[[], None]) -> str | None:
    """What a command that is given these bytes complains of, if it fails."""
    deadline, left = time.monotonic() + _ENCODE_TIMEOUT_S, memoryview(given)
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints, pass_fds=[open_file]
        ) as child,
        selectors.DefaultSelector() as ready,
    ):
        assert child.stdin is not None
        pipe = child.stdin.fileno()
        os.set_blocking(pipe, False)  # a command that reads no more must not hold up whoever looks at `check`
        ready.register(pipe, selectors.EVENT_WRITE)
        try:
            with suppress(BrokenPipeError):  # it has ended, and says why
                while left and time.monotonic() < deadline:
                    check()
                    if ready.select(_CHECK_EVERY_S):
                        left = left[os.write(pipe, left[:_PIPE_BYTES]) :]
            ready.unregister(pipe)
            child.stdin.close()
            while time.monotonic() < deadline:
                check()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_CHECK_EVERY_S)
                    complaints.seek(0)
                    return complaints.read()[-500:].decode(errors="replace") if child.returncode else None
            return f"it took longer than {_ENCODE_TIMEOUT_S:g} s"
        finally:
            child.kill()


def _ffmetadata(tags: Mapping[str, str]) -> bytes:
    """Tags in ffmpeg's metadata format."""
    known = {name: value for name, value in tags.items() if name in _TAGS_OF_BOTH}
    if len(known) < len(tags):
        others = {name: value for name, value in tags.items() if name not in known or name == "comment"}
        known["comment"] = json.dumps(others, ensure_ascii=False)
    lines = [";FFMETADATA1"]
    for name, value in known.items():
        lines.append(f"{name}=" + re.sub(r"([=;#\\\r\n])", r"\\\1", value.replace("\0", "")))
    return "\n".join([*lines, ""]).encode("utf-8", errors="replace")
