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

from audiocraft_ext.audio.ffmpeg import ffmpeg_path, stream_output
from audiocraft_ext.errors import InputError
from audiocraft_ext.progress import Progress

log = logging.getLogger(__name__)

FIELD = "input_audio"
_SUPPORTED = "Send a wav, mp3, flac, ogg, opus, m4a, mp4, aac, aiff or webm file."
_NOT_AUDIO = "the file is not audio that can be decoded (its content counts, not its name)."
_CONTAINERS = "wav,w64,aiff,flac,ogg,mov,matroska,mp3,aac"
_DECODERS = (
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_s64be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,"
    "mp3,mp3float,mp2,mp2float,mp1,mp1float,flac,alac,vorbis,opus,speex,aac,ac3,eac3"
)
_ZIP = b"PK"  # the mp3 demuxer would find an mp3 stored in one
_MAX_TAGS = 16  # two are seen in use
_CONTAINER = re.compile(rb"RIF[FX]|RF64|BW64|riff|FORM|fLaC|OggS|\x1aE\xdf\xa3|.{4}[a-z]{4}", re.DOTALL)
_FRAGMENT = re.compile(rb".{4}(styp|sidx|moof)|\x1fC\xb6u", re.DOTALL)  # of an mp4; of a webm
_SYNC, _ADTS_SYNC = re.compile(rb"\xff[\xe0-\xff]"), re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")  # of MPEG audio; of AAC
_INFO_FRAME = re.compile(rb"....\0{9,32}(Info|Xing)", re.DOTALL)  # an mp3's first: its length, the encoder's delay
_MAX_JUNK_BYTES, _MAX_ADTS_FRAME_BYTES = 1 << 20, 1 << 13
_WAVS = {b"RIFF": "<4sI", b"RF64": "<4sI", b"BW64": "<4sI", b"RIFX": ">4sI", b"riff": "<16sQ"}  # the last is Wave64
_MAX_CHUNKS = 64
_EXTENSIBLE, _PCM, _FLOAT = 0xFFFE, 1, 3  # format tags of a wav
_OGG_START = b"OggS\0\2"  # of a stream's first page
_OGG_PAGE_HEAD_BYTES, _MAX_OGG_STREAMS = 27, 16
_READ_BYTES = 1 << 20
_AU_HEAD_BYTES = 24  # magic, data offset, size, encoding, rate, channels

@dataclass(frozen=True)
class ReadLimits:
    """The cost limits of one file; over any of these it is refused with an `InputError` that names the limit."""

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

    More than two channels are mixed down to stereo. `end_s` None is the end of the clip; one past it is clamped, and
    logged. Of a window longer than `max_s`, that much is read. A truncated file is read as far as it goes. Raises
    `Cancelled`; `InputError` that names `input_audio`, `continuation_start` if the window begins past the end of the
    clip, `continuation_end` if it ends by its start.
    """
    if not (path.is_file() and os.access(path, os.R_OK)):  # a pipe or a device would block, or never end
        raise InputError(FIELD, "the file cannot be read.", "Send it again.")
    # Opened once: the bytes examined here are the bytes decoded, whatever happens to the name meanwhile.
    with path.open("rb", buffering=0) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes == 0:
            raise InputError(FIELD, "the file is empty.", _SUPPORTED)
        if n_bytes > limits.file_bytes:
            problem = f"the file has {n_bytes / 1e6:.1f} MB; the limit is {limits.file_bytes / 1e6:g} MB."
            raise InputError(FIELD, problem, "Cut it, or send it as mp3.")
        if os.pread(file.fileno(), len(_ZIP), 0) == _ZIP:
            raise InputError(FIELD, _NOT_AUDIO, _SUPPORTED)
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

    The links of a chained Ogg are decoded one by one, all as the first: ffmpeg would read no further than to a change of
    channels, rate or codec.
    """
    deadline = time.monotonic() + limits.wall_s
    start, head, n_links = _audio_offset(file.fileno()), b"", 0
    while start or not n_links:
        end = _next_link(file.fileno(), start)
        command = _command(file.fileno(), start, end, head, limits)
        wall_s = max(0.0, deadline - time.monotonic())
        output = stream_output(command, file, progress, timeout_s=wall_s, memory_bytes=limits.memory_bytes)
        n_chunks = 0
        with closing(output) as chunks:
            for n_chunks, chunk in enumerate(chunks, 1):
                head = (head + chunk)[:_AU_HEAD_BYTES]
                yield chunk
        if not n_chunks:
            break
        start, n_links = end, n_links + 1
    if not n_links and _FRAGMENT.match(os.pread(file.fileno(), 8, start)):
        problem = "the file is one part of a stream, and cannot be decoded without the first part (init, moov)."
        raise InputError(FIELD, problem, "Send it with that part in front.")
    if n_links and start:
        log.warning("input_audio: cannot decode the Ogg file from byte %d on: using what is before.", start)


def _command(file: int, start: int, end: int, au_head: bytes, limits: ReadLimits) -> list[str]:
    """ffmpeg, from bytes [start, end) of its standard input to an AU stream, or to raw samples like those of `au_head`.

    `end` 0 is the end of the file.
    """
    command = [ffmpeg_path(), "-nostdin", "-v", "quiet", "-max_alloc", str(limits.memory_bytes // 4), "-threads", "1"]
    command += ["-protocol_whitelist", "file,subfile", "-format_whitelist", _CONTAINERS, "-codec_whitelist", _DECODERS]
    command += [*_codec_of_wav(file, start), "-i", f"subfile,,start,{start},end,{end},,:file:/dev/fd/0"]
    command += ["-map", "0:a:0", "-map_metadata", "-1", "-vn", "-sn", "-dn", "-c:a", "pcm_f32be", "-af"]
    filters = "aresample=rematrix_maxval=1,aformat=sample_fmts=flt:channel_layouts="
    if not au_head:
        return [*command, f"{filters}mono|stereo|downmix|FL|FR", "-f", "au", "pipe:1"]
    sample_rate, n_channels = struct.unpack_from(">2I", au_head, 16)
    return [*command, f"{filters}{n_channels}c:sample_rates={sample_rate}", "-f", "f32be", "pipe:1"]


def _audio_offset(file: int) -> int:
    """Bytes before the container: ID3v2 and APE tags; before mp3 and AAC also padding, and what a tag's size leaves out.

    A container's own offsets count from its first byte, and ffmpeg misses an mp3's Info frame behind anything but ID3v2.
    """
    offset = 0
    for _ in range(_MAX_TAGS):
        head = os.pread(file, 32, offset)
        if head[:3] == b"ID3" and len(head) >= 10:
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            offset += 10 + size + (10 if head[3] >= 4 and head[5] & 0x10 else 0)
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            offset += 32 + int.from_bytes(head[12:16], "little")
        else:
            break
    head = os.pread(file, _MAX_JUNK_BYTES, offset)
    return offset + (0 if _CONTAINER.match(head) else _first_frame(head))


def _first_frame(head: bytes) -> int:
    """Offset of an mp3's Info frame or of AAC's first whole frame, 0 if neither is certain: then ffmpeg searches.

    AAC's sync word also occurs within frames: the first that another frame follows is right.
    """
    for sync in _ADTS_SYNC.finditer(head, 0, 2 * _MAX_ADTS_FRAME_BYTES):
        at = sync.start()
        end = at + (int.from_bytes(head[at + 3 : at + 6]) >> 5 & _MAX_ADTS_FRAME_BYTES - 1)
        if end > at and head[at : at + 3] == head[end : end + 3]:
            return at
    first = _SYNC.search(head)
    return first.start() if first and _INFO_FRAME.match(head, first.start()) else 0


def _codec_of_wav(file: int, start: int) -> list[str]:
    """Input options for a wav whose samples ffmpeg takes for others: by their valid bits, or in the wrong byte order."""
    magic = os.pread(file, 4, start)
    if not (layout := _WAVS.get(magic)):
        return []
    n_bytes, is_wave64 = struct.calcsize(layout), magic == b"riff"
    at = start + (40 if is_wave64 else 12)
    for _ in range(_MAX_CHUNKS):
        head = os.pread(file, n_bytes + 26, at).ljust(n_bytes + 26, b"\0")
        name, size = struct.unpack_from(layout, head)
        if name[:4] == b"fmt ":
            break
        at += size + -size % 8 if is_wave64 else n_bytes + size + size % 2
    else:
        return []
    tag, bits, valid_bits, subformat = struct.unpack_from(f"{layout[0]}H12xH2xH4xH", head, n_bytes)
    if tag != _EXTENSIBLE:
        subformat, valid_bits = tag, bits
    kind = {_PCM: "s", _FLOAT: "f"}.get(subformat)
    if kind is None or bits <= 8 or (valid_bits in (0, bits) and layout[0] == "<"):
        return []
    return ["-c:a", f"pcm_{kind}{bits + -bits % 8}{'le' if layout[0] == '<' else 'be'}"]


def _next_link(file: int, start: int) -> int:
    """Offset of the link of a chained Ogg that follows the one at `start`, 0 if none does."""
    at = start
    for _ in range(_MAX_OGG_STREAMS):  # side by side in one link, their first pages together
        page = os.pread(file, _OGG_PAGE_HEAD_BYTES + 255, at)
        if page[:6] != _OGG_START or len(page) < _OGG_PAGE_HEAD_BYTES:
            break
        at += _OGG_PAGE_HEAD_BYTES + page[26] + sum(page[_OGG_PAGE_HEAD_BYTES:][: page[26]])
    while at > start and len(block := os.pread(file, _READ_BYTES, at)) >= len(_OGG_START):
        if (found := block.find(_OGG_START)) >= 0:
            return at + found
        at += len(block) - len(_OGG_START) + 1
    return 0


def _au_stream(chunks: Iterator[bytes]) -> tuple[Iterator[bytes], int, int]:
    """Data, sample rate and channels of an AU stream: magic, data offset, size, encoding, rate, channels, a comment."""
    head = b""
    while len(head) < _AU_HEAD_BYTES or len(head) <= struct.unpack_from(">I", head, 4)[0]:
        chunk = next(chunks, b"")
        if not chunk:
            raise InputError(FIELD, _NOT_AUDIO, _SUPPORTED)
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
