"""Write samples as a wav or mp3 whose tags say how they were made. Knows nothing of models or requests.

pydub writes the file, and encodes mp3 with the ffmpeg that imageio-ffmpeg brings. The tags are added here: pydub writes
none into a wav, and ffmpeg writes an mp3's comment into a frame (TXXX) that players do not show. So the prompt is not
on a command line either, where every user of the machine could see it.
"""

import io
import json
import os
import struct
import traceback
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from audiocraft_ext.audio.ffmpeg import child_killer, ffmpeg_path, kill_on_cancel
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import OutputFormat

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it looks for ffmpeg on PATH, and needs none there
    from pydub import AudioSegment

_MP3_TIMEOUT_S = 600.0
_MAX_TITLE_CHARACTERS = 100
_WAV_HEADER_BYTES = 36  # RIFF and fmt, before data


def write(
    samples: Tensor,
    sample_rate: int,
    path: Path,
    format: OutputFormat,
    inputs: Mapping[str, Any],
    progress: Progress = Progress(),
) -> None:
    """Write samples [C, N], clipped to ±1, as 16-bit wav or 320 kbit/s mp3; the file appears complete or not at all.

    The samples of a wav are those of audiocraft's `audio_write`, bit for bit. An mp3 below 32 kHz has 160 kbit/s, the
    format's maximum there. Its title is the beginning of the prompt among `inputs`, if there is one; its comment is all
    of `inputs` as JSON. Raises `Cancelled`; pydub's CouldntEncodeError if ffmpeg fails; OSError if the disk is full.
    """
    title = _tag(str(inputs.get("prompt") or "").strip()[:_MAX_TITLE_CHARACTERS])
    comment = _tag(json.dumps(dict(inputs), ensure_ascii=False, separators=(",", ":")))
    array = samples.detach().float().cpu().numpy()
    if format == "wav":
        data = _wav(array, sample_rate, title, comment)
    else:
        data = _mp3(array, sample_rate, title, comment, progress)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        progress.check()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _tag(text: str) -> str:
    """Text without the zeros that end it in a tag, and the lone surrogates that UTF-8 does not have."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _segment(samples: np.ndarray, sample_rate: int, n_bytes: int) -> Any:
    """pydub's segment of samples [C, N], as integers of ``n_bytes``, rounded and clipped as ffmpeg does."""
    full_scale = np.float32(2 ** (8 * n_bytes - 1))
    largest = np.nextafter(full_scale, np.float32(0))  # the largest float32 below; `astype` drops its fraction
    frames = np.clip(np.rint(samples.T * full_scale), -full_scale, largest).astype(f"<i{n_bytes}")
    return AudioSegment(frames.tobytes(), sample_width=n_bytes, frame_rate=sample_rate, channels=len(samples))


def _wav(samples: np.ndarray, sample_rate: int, title: str, comment: str) -> bytes:
    wav = _segment(samples, sample_rate, 2).export(io.BytesIO(), format="wav").getvalue()
    texts = [(b"INAM", title), (b"ICMT", comment)] if title else [(b"ICMT", comment)]
    info = b"".join(_riff_chunk(name, text.encode(), b"\0") for name, text in texts)
    # Some players read the one, some the other.
    tags = _riff_chunk(b"LIST", b"INFO", info) + _riff_chunk(b"id3 ", _id3(title, comment))
    return _riff_chunk(b"RIFF", wav[8:_WAV_HEADER_BYTES], tags, memoryview(wav)[_WAV_HEADER_BYTES:])


def _riff_chunk(name: bytes, *parts: bytes | memoryview) -> bytes:
    size = sum(map(len, parts))
    return b"".join((name, struct.pack("<I", size), *parts, bytes(size % 2)))


def _mp3(samples: np.ndarray, sample_rate: int, title: str, comment: str, progress: Progress) -> bytes:
    # The difference from `audio_write`'s mp3 is 80 dB below the signal, r.m.s.; from 16 bits it would be 50 dB.
    segment = _segment(samples, sample_rate, 4)
    segment.converter = ffmpeg_path()  # of this object, not of pydub
    with kill_on_cancel(child_killer(), progress, _MP3_TIMEOUT_S):
        try:
            mp3 = segment.export(io.BytesIO(), format="mp3", bitrate="320k", parameters=["-id3v2_version", "0"])
        except Exception as error:
            _remove_temporary_files(error)
            progress.check()
            raise
    return b"".join((_id3(title, comment), mp3.getvalue()))


def _remove_temporary_files(error: Exception) -> None:
    """Delete the files that pydub's `export` leaves behind when it fails; its frame still has their names."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is AudioSegment.export.__code__:
            for name in {"data", "output"} & frame.f_locals.keys():
                Path(frame.f_locals[name].name).unlink(missing_ok=True)


def _id3(title: str, comment: str) -> bytes:
    frames = _id3_frame(b"TIT2", title, b"") if title else b""
    frames += _id3_frame(b"COMM", comment, b"eng\xff\xfe\0\0")  # language, and no description: the main comment
    size = bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"".join((b"ID3\3\0\0", size, frames))


def _id3_frame(name: bytes, text: str, prefix: bytes) -> bytes:
    """A text frame of ID3v2.3 (https://id3.org/id3v2.3.0), in UTF-16."""
    data = b"\1" + prefix + b"\xff\xfe" + text.encode("utf-16-le")
    return name + struct.pack(">IH", len(data), 0) + data
