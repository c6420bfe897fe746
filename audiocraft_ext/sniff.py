"""Which audio container a file is, from its first bytes. Knows neither its name nor how to decode it."""

from collections.abc import Callable
from typing import BinaryIO

_HEAD_BYTES = 32 * 1024  # three of the longest AAC frames, 8 KB each, and one to find the first
_MOST_TAGS = 16  # two are seen in use; of empty ones, a file within the limits has room for millions
_SCAN_BYTES = 2048  # more than the longest mp3 frame: a stream that was cut begins within one
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_MPEG1_HZ = (44_100, 48_000, 32_000)


def container_of(file: BinaryIO) -> str | None:
    """ffmpeg's name for the container of an open file, None if it is not one of audio; moves the position.

    ID3v2 tags, which may hold a cover of megabytes, are stepped over. mp3 and raw AAC have no magic number: three
    frames in a row, each where the one before it ends, are taken as proof.
    """
    offset = 0
    for _ in range(_MOST_TAGS + 1):
        file.seek(offset)
        head = file.read(_HEAD_BYTES)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        offset += 10 + size + (10 if head[5] & 0x10 else 0)
    return _by_magic(head) or _by_frames(head)


def _by_magic(head: bytes) -> str | None:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp":
        return "mov"
    return {b"fLaC": "flac", b"OggS": "ogg", b"\x1a\x45\xdf\xa3": "matroska"}.get(head[:4])


def _by_frames(head: bytes) -> str | None:
    if head[:2] == b"PK":  # an archive may store an mp3 as it is
        return None
    if _run_of_frames(head, 0, _adts_frame_bytes):
        return "aac"
    if any(_run_of_frames(head, start, _mp3_frame_bytes) for start in range(min(len(head), _SCAN_BYTES))):
        return "mp3"
    return None


def _run_of_frames(head: bytes, start: int, frame_bytes: Callable[[bytes], int]) -> bool:
    for _ in range(3):
        n_bytes = frame_bytes(head[start : start + 7])
        if not n_bytes:
            return False
        start += n_bytes
    return True


def _mp3_frame_bytes(header: bytes) -> int:
    """Length of the MPEG audio layer III frame that begins so; 0 if none does (ISO/IEC 11172-3, 2.4.1.3)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, kbps_index, rate_index = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or rate_index == 3:
        return 0
    mpeg1 = version == 3
    rate = _MPEG1_HZ[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    kbps = (_MPEG1_KBPS if mpeg1 else _MPEG2_KBPS)[kbps_index]
    return (144_000 if mpeg1 else 72_000) * kbps // rate + (header[2] >> 1 & 1) if kbps else 0


def _adts_frame_bytes(header: bytes) -> int:
    """Length of the ADTS frame that begins so; 0 if none does (ISO/IEC 13818-7, 6.2)."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 0xF > 12:
        return 0
    n_bytes = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return n_bytes if n_bytes > 7 else 0
