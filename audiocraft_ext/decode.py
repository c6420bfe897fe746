"""Any audio file that a caller may send, to the samples of a window of it.

What a caller sends is never read by native code in this process. ffmpeg reads it in a child that is handed one open
file as its standard input, is told which container to expect from the file's own first bytes (so that a playlist, a
concat script or a renamed archive is never interpreted), may open local files only and follows no references in them,
may use a short list of audio decoders, and is held to limits of time, memory and output. Its samples come back as
floats, so a source above full scale keeps its peaks.
"""

import logging
import math
import os
import selectors
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from audiocraft_ext.errors import InputError
from audiocraft_ext.sniff import container_of

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.1
FIELD = "input_audio"
_SUPPORTED = "Send a wav, mp3, flac, ogg, opus, m4a, mp4, aac, aiff or webm file."


@dataclass(frozen=True)
class Limits:
    """What one file may cost; over any of these it is refused with an `InputError` that names the limit."""

    file_bytes: int = 200_000_000
    clip_s: float = 30 * 60  # decoded from the start of the file; nothing past the end of the window is decoded
    window_bytes: int = 512 << 20  # of float32 samples: 23 minutes of stereo at 48 kHz
    wall_s: float = 60.0
    memory_bytes: int = 1 << 30  # the child's address space; 256 MB is enough for the common formats
    largest_sample: float = 100.0  # full scale is 1; beyond 40 dB above it, these are integers stored as floats


@dataclass(frozen=True)
class Clip:
    """Decoded audio: samples [C, N] float32, C 1 or 2, full scale ±1 (a float source may exceed it)."""

    samples: Tensor
    sample_rate: int

    @property
    def duration_s(self) -> float:
        return self.samples.shape[-1] / self.sample_rate


def ffmpeg_path() -> str:
    """The ffmpeg to run: ``IMAGEIO_FFMPEG_EXE``, else the pinned wheel's own, else the one on PATH.

    Not PATH first: what strangers send is parsed by it, and a distribution's may be years behind. RuntimeError where
    there is none.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        pass
    if found := shutil.which("ffmpeg"):
        return found
    raise RuntimeError("There is no ffmpeg: pip install imageio-ffmpeg, or put one on PATH.")


_DECODERS = (
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_s64be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,"
    "mp3,mp3float,mp2,mp2float,flac,alac,vorbis,opus,speex,aac,ac3,eac3"
)
# The child gets no other part of our environment: a token in it is none of a decoder's business.
_CHILD_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def decode(
    path: Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    at_most_s: float = math.inf,
    check: Callable[[], None] = lambda: None,
    limits: Limits = Limits(),
) -> Clip:
    """The window [start_s, end_s) of any audio file, exact to the sample, at the file's own sample rate.

    More than two channels are mixed down to stereo. `end_s` None is the end of the clip; one past it is clamped, and
    logged. Of a window longer than `at_most_s`, that much is read. `check` is called every tenth of a second, and what
    it raises ends the reading. A file that is cut off is read as far as it goes. Raises `InputError` that names
    `input_audio`; `continuation_start` when the window begins past the end of the clip, `continuation_end` when it ends
    by its start.
    """
    if not (path.is_file() and os.access(path, os.R_OK)):  # a pipe or a device would block, or never end
        raise InputError(FIELD, "the file cannot be read.", "Send it again.")
    # Opened once: what is sniffed is what is decoded, whatever happens to the name meanwhile.
    with path.open("rb", buffering=0) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes == 0:
            raise InputError(FIELD, "the file is empty.", _SUPPORTED)
        if n_bytes > limits.file_bytes:
            problem = f"the file has {n_bytes / 1e6:.1f} MB; the limit is {limits.file_bytes / 1e6:g} MB."
            raise InputError(FIELD, problem, "Cut it, or send it as mp3.")
        container = container_of(file)
        if container is None:
            problem = "the file is not audio in a format that can be read (its name is not looked at)."
            raise InputError(FIELD, problem, _SUPPORTED)
        with closing(_decoder_output(file, container, check, limits)) as chunks:
            sample_rate, n_channels, data = _au_stream(chunks)
            return _window(data, sample_rate, n_channels, start_s, end_s, at_most_s, limits)


def _decoder_output(file: BinaryIO, container: str, check: Callable[[], None], limits: Limits) -> Generator[bytes]:
    """ffmpeg's output, an AU stream of big-endian float32, piece by piece. Closing the generator kills the child."""
    file.seek(0)  # where /dev/fd/0 is a duplicate instead of opening the file anew, it shares the position
    command = [ffmpeg_path(), "-nostdin", "-v", "quiet", "-max_alloc", str(limits.memory_bytes // 4)]
    command += ["-threads", "1", "-protocol_whitelist", "file", "-codec_whitelist", _DECODERS]
    command += ["-f", container, "-i", "file:/dev/fd/0", "-map", "0:a:0", "-map_metadata", "-1", "-vn", "-sn", "-dn"]
    command += ["-af", "aresample=rematrix_maxval=1,aformat=sample_fmts=flt:channel_layouts=mono|stereo|downmix|FL|FR"]
    command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    environment = {name: os.environ[name] for name in _CHILD_ENVIRONMENT if name in os.environ}
    deadline = time.monotonic() + limits.wall_s
    child = subprocess.Popen(
        command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    assert child.stdout is not None
    try:
        _confine(child.pid, limits)
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                check()
                if not ready.select(_CHECK_EVERY_S):
                    continue
                chunk = os.read(child.stdout.fileno(), 1 << 20)
                if not chunk:
                    break
                yield chunk
            else:
                raise InputError(FIELD, f"decoding took longer than {limits.wall_s:g} s.", "Send a plain wav or mp3.")
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=1)
        # An error code alone is no failure: ffmpeg returns one, too, after playing all that a damaged file holds.
        if (child.returncode or 0) < 0:
            raise InputError(FIELD, "decoding took too much memory or time.", "Send a plain wav or mp3.")
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


def _confine(pid: int, limits: Limits) -> None:
    """Limit a child that has just started: address space, CPU time, and no writing to any file at all. Linux only.

    From outside and after the start, since `preexec_fn` is not safe in a process with threads: the child has begun
    its own start-up by then, but a whole file is not decoded that fast, and what it has already is counted.
    """
    if sys.platform != "linux":
        return
    import resource

    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: int(limits.wall_s) + 1,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    with suppress(ProcessLookupError):
        for kind, value in wanted.items():
            _, hard = resource.prlimit(pid, kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, kind, (value, value))


def _au_stream(chunks: Iterator[bytes]) -> tuple[int, int, Iterator[bytes]]:
    """Sample rate, channels and data of an AU stream: magic, data offset, size, encoding, rate, channels, a comment."""
    head = bytearray()
    while len(head) < 24 or len(head) < struct.unpack_from(">I", head, 4)[0]:
        chunk = next(chunks, b"")
        if not chunk:
            raise InputError(FIELD, "the file holds no audio that can be decoded.", _SUPPORTED)
        head += chunk
    data_offset, _, _, sample_rate, n_channels = struct.unpack_from(">5I", head, 4)
    if not 1_000 <= sample_rate <= 768_000:
        raise InputError(FIELD, f"the sample rate, {sample_rate} Hz, is not between 1 and 768 kHz.", "Resample it.")
    return sample_rate, n_channels, chain([bytes(head[data_offset:])], chunks)


def _window(
    data: Iterator[bytes],
    sample_rate: int,
    n_channels: int,
    start_s: float,
    end_s: float | None,
    at_most_s: float,
    limits: Limits,
) -> Clip:
    """Cut [start_s, end_s) out of big-endian float32 frames as they arrive; reading stops at the end of the window."""
    frame_bytes = 4 * n_channels
    first = round(start_s * sample_rate) * frame_bytes
    # A start may be beyond sys.maxsize itself: the end lies past it all the same.
    last = first + sys.maxsize if end_s is None else round(end_s * sample_rate) * frame_bytes
    if at_most_s < math.inf:
        last = min(last, first + math.ceil(at_most_s * sample_rate) * frame_bytes)
    if last <= first:
        problem = f"the window from {start_s:g} to {end_s:g} s holds no sample."
        raise InputError("continuation_end", problem, "Choose one after continuation_start.")
    window = bytearray()
    seen = 0
    for chunk in data:
        window += chunk[max(0, first - seen) : max(0, last - seen)]
        seen += len(chunk)
        if seen >= last:
            break
        if seen > limits.clip_s * sample_rate * frame_bytes:
            problem = f"the clip is longer than {limits.clip_s / 60:g} minutes."
            raise InputError(FIELD, problem, "Cut it, or choose an earlier continuation_end.")
        if len(window) > limits.window_bytes:
            problem = f"the window holds more than {limits.window_bytes / 1e6:g} MB of samples."
            raise InputError(FIELD, problem, "Choose a shorter one with continuation_start and continuation_end.")
    clip_s = seen / frame_bytes / sample_rate
    if not seen:
        raise InputError(FIELD, "the file holds no audio that can be decoded.", _SUPPORTED)
    if first >= seen:
        problem = f"{start_s:g} s is not before the end of the clip, which lasts {clip_s:.2f} s."
        raise InputError("continuation_start", problem, "Choose an earlier start.")
    if end_s is not None and seen < last:
        log.warning("continuation_end, %g s, is past the end of the clip: using its end, %.2f s.", end_s, clip_s)
    return Clip(_samples(window, n_channels, limits), sample_rate)


def _samples(window: bytearray, n_channels: int, limits: Limits) -> Tensor:
    """Whole frames of big-endian float32 as samples [C, N]."""
    n_frames = len(window) // (4 * n_channels)
    frames = np.frombuffer(window, ">f4", count=n_frames * n_channels).reshape(n_frames, n_channels)
    samples = torch.from_numpy(np.ascontiguousarray(frames.T, dtype=np.float32))
    # One NaN would spread over the whole of what a codec or a filter makes of the clip, and a zero in its place would
    # be a click in music that is broken anyway: say so. The comparison is false for NaN and infinity too.
    if not samples.abs().max().item() <= limits.largest_sample:
        problem = "the file has samples that are not numbers, or are far outside ±1, the full scale of float audio."
        raise InputError(FIELD, problem, "Export it again, as 16- or 24-bit wav.")
    return samples
