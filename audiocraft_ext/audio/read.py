"""Read a window of any audio file, untrusted, as samples. Knows neither the model nor where the file came from.

The file is never parsed by native code in this process. ffmpeg reads it in a confined child that has it as standard
input and may open local files only. The child detects the container by content, and refuses all that are not on a short
list before a demuxer reads a header: playlists, scripts, images. The list has no container that refers to other files
but mov, whose references are off. It returns floats, so a source above full scale keeps its peaks.
"""

import logging
import math
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from audiocraft_ext.audio.container import audio_offset, codec_of_wav, next_link
from audiocraft_ext.audio.ffmpeg import ffmpeg_path, stream_output
from audiocraft_ext.audio.source import FIELD, MAX_FILE_BYTES, SUPPORTED, check_size
from audiocraft_ext.errors import InputError
from audiocraft_ext.progress import Progress

log = logging.getLogger(__name__)

_NOT_AUDIO = "the file is not audio that can be decoded (its content counts, not its name)."
_CONTAINERS = "wav,w64,aiff,flac,ogg,mov,matroska,mp3,aac"
_DECODERS = (
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_s64be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,"
    "mp3,mp3float,mp2,mp2float,mp1,mp1float,flac,alac,vorbis,opus,speex,aac,ac3,eac3"
)
_ZIP = b"PK"  # the mp3 demuxer would find an mp3 stored in one
_FRAGMENT = re.compile(rb".{4}(styp|sidx|moof)|\x1fC\xb6u", re.DOTALL)  # of an mp4; of a webm
_AU_HEAD_BYTES = 24  # magic, data offset, size, encoding, rate, channels


@dataclass(frozen=True)
class ReadLimits:
    """The cost limits of one file; over any of these it is refused with an `InputError` that names the limit."""

    file_bytes: int = MAX_FILE_BYTES
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


def read(
    path: Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    max_s: float = math.inf,
    progress: Progress = Progress(),
    limits: ReadLimits = ReadLimits(),
) -> Clip:
    """The window [start_s, end_s) of any audio file, exact to the sample, at the file's own sample rate.

    More than two channels are mixed down to stereo; of those without a layout, as nine are, the first two are read.
    `end_s` None is the end of the clip; one past it is clamped, and logged. Of a window longer than `max_s`, that much
    is read. A truncated file is read as far as it goes. Raises `Cancelled`; `InputError` that names `input_audio`,
    `continuation_start` if the window begins past the end of the clip, `continuation_end` if it ends by its start.
    """
    if not (path.is_file() and os.access(path, os.R_OK)):  # a pipe or a device would block, or never end
        raise InputError(FIELD, "the file cannot be read.", "Send it again.")
    # Opened once: the bytes examined here are the bytes decoded, whatever happens to the name meanwhile.
    with path.open("rb", buffering=0) as file:
        check_size(os.fstat(file.fileno()).st_size, limits.file_bytes)
        if os.pread(file.fileno(), len(_ZIP), 0) == _ZIP:
            raise InputError(FIELD, _NOT_AUDIO, SUPPORTED)
        try:
            with closing(_decode(file, progress, limits)) as chunks:
                return _window(*_au_stream(chunks), start_s, end_s, max_s, limits)
        except TimeoutError:
            problem = f"decoding took longer than {limits.wall_s:g} s."
        except subprocess.CalledProcessError:
            problem = "decoding took too much memory or time."
        raise InputError(FIELD, problem, "Send a plain wav or mp3.")


def _decode(file: BinaryIO, progress: Progress, limits: ReadLimits) -> Generator[bytes]:
    """Yield an AU stream of big-endian float32, by ffmpeg from an open file.

    The links of a chained Ogg are decoded one by one, all as the first: ffmpeg itself stops where channels,
    rate or codec change.
    """
    deadline = time.monotonic() + limits.wall_s
    start, au_head, has_layout = audio_offset(file.fileno()), b"", True
    while True:
        end = next_link(file.fileno(), start)
        command = _command(file.fileno(), start, end, au_head, has_layout, limits)
        wall_s, n_bytes = max(0.0, deadline - time.monotonic()), 0
        output = stream_output(command, file, progress, timeout_s=wall_s, memory_bytes=limits.memory_bytes)
        with closing(output) as chunks:
            for chunk in chunks:
                n_bytes += len(chunk)
                au_head += chunk[: _AU_HEAD_BYTES - len(au_head)]
                yield chunk
        if not au_head and has_layout:
            has_layout = False  # or it is not audio, as the next attempt shows
            continue
        if not n_bytes:
            break
        if not end:
            return
        start = end
    if au_head:
        log.warning("input_audio: the rest of the Ogg file, from byte %d on, cannot be decoded: it is left out.", start)
    elif _FRAGMENT.match(os.pread(file.fileno(), 8, start)):
        problem = "the file is one part of a stream, and cannot be decoded without the first part (init, moov)."
        raise InputError(FIELD, problem, "Send it with that part in front.")


def _command(file: int, start: int, end: int, au_head: bytes, has_layout: bool, limits: ReadLimits) -> list[str]:
    """ffmpeg, from bytes [start, end) of its standard input to an AU stream, or to raw samples like those of `au_head`.

    `end` 0 is the end of the file.
    """
    command = [ffmpeg_path(), "-nostdin", "-v", "quiet", "-max_alloc", str(limits.memory_bytes // 4), "-threads", "1"]
    command += ["-protocol_whitelist", "file,subfile", "-format_whitelist", _CONTAINERS, "-codec_whitelist", _DECODERS]
    command += [*codec_of_wav(file, start), "-i", f"subfile,,start,{start},end,{end},,:file:/dev/fd/0"]
    command += ["-map", "0:a:0", "-map_metadata", "-1", "-vn", "-sn", "-dn", "-c:a", "pcm_f32be", "-af"]
    filters = "aresample=rematrix_maxval=1,aformat=sample_fmts=flt:channel_layouts="
    if not au_head:
        mix = f"{filters}mono|stereo|downmix|FL|FR" if has_layout else "pan=stereo|c0=c0|c1=c1,aformat=sample_fmts=flt"
        return [*command, mix, "-f", "au", "pipe:1"]
    sample_rate, n_channels = struct.unpack_from(">2I", au_head, 16)
    # aresample would lower mono by 3 dB in stereo; val(1) of mono is val(0).
    filters += "mono" if n_channels == 1 else "mono|stereo|downmix|FL|FR,aeval=val(0)|val(1):c=stereo"
    return [*command, f"{filters},aformat=sample_fmts=flt:sample_rates={sample_rate}", "-f", "f32be", "pipe:1"]


def _au_stream(chunks: Iterator[bytes]) -> tuple[Iterator[bytes], int, int]:
    """Data, sample rate and channels of an AU stream: magic, data offset, size, encoding, rate, channels, a comment."""
    head = b""
    while len(head) < _AU_HEAD_BYTES or len(head) <= struct.unpack_from(">I", head, 4)[0]:
        chunk = next(chunks, b"")
        if not chunk:
            raise InputError(FIELD, _NOT_AUDIO, SUPPORTED)
        head += chunk
    data_offset, _, _, sample_rate, n_channels = struct.unpack_from(">5I", head, 4)
    if not 1_000 <= sample_rate <= 768_000:
        raise InputError(FIELD, f"the sample rate, {sample_rate} Hz, is not between 1 and 768 kHz.", "Resample it.")
    return chain([head[data_offset:]], chunks), sample_rate, n_channels


def _window(
    data: Iterator[bytes],
    sample_rate: int,
    n_channels: int,
    start_s: float,
    end_s: float | None,
    max_s: float,
    limits: ReadLimits,
) -> Clip:
    """Cut [start_s, end_s) out of big-endian float32 frames as they arrive; reading stops at the end of the window."""
    frame_bytes = 4 * n_channels
    first = round(start_s * sample_rate) * frame_bytes
    # A start may be beyond sys.maxsize itself: the end is past it all the same.
    last = first + (sys.maxsize if max_s == math.inf else math.ceil(max_s * sample_rate) * frame_bytes)
    if end_s is not None:
        last = min(last, round(end_s * sample_rate) * frame_bytes)
    if last <= first:
        problem = f"the window from {start_s:g} to {end_s:g} s contains no sample."
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
            problem = f"the window contains more than {limits.window_bytes / 1e6:g} MB of samples."
            raise InputError(FIELD, problem, "Choose a shorter one with continuation_start and continuation_end.")
    clip_s = seen / frame_bytes / sample_rate
    if first >= seen:
        problem = f"{start_s:g} s is not before the end of the clip, which lasts {clip_s:.2f} s."
        raise InputError("continuation_start", problem, "Choose an earlier start.")
    if end_s is not None and seen < last:
        log.warning("continuation_end, %g s, is past the end of the clip: using its end, %.2f s.", end_s, clip_s)
    return Clip(_samples(window, n_channels, limits), sample_rate)


def _samples(window: bytearray, n_channels: int, limits: ReadLimits) -> Tensor:
    """Whole frames of big-endian float32 as samples [C, N]."""
    n_frames = len(window) // (4 * n_channels)
    frames = np.frombuffer(window, ">f4", count=n_frames * n_channels).reshape(n_frames, n_channels)
    samples = torch.from_numpy(np.ascontiguousarray(frames.T, dtype=np.float32))
    # One NaN would spread over all that a codec or a filter makes of the clip, and a zero in its place would be a click
    # in music that is broken anyway: refuse it. The comparison is false for NaN and infinity too.
    if not samples.abs().max().item() <= limits.largest_sample:
        problem = "the file has samples that are not numbers, or are far outside ±1, the full scale of float audio."
        raise InputError(FIELD, problem, "Export it again, as 16- or 24-bit wav.")
    return samples
