"""Peek at an untrusted file for what ffmpeg must be given to read it right. Decodes nothing; searches are bounded.

`file` is the number of an open one; offsets are bytes from its start.
"""

import os
import re
import struct

_MAX_TAGS = 16  # two are seen in use
_ATOMS = rb"ftyp|moov|mdat|wide|free|skip|styp|sidx|moof|pnot|udta|uuid|junk|pict|prfl"  # ffmpeg's, of mp4 and mov
_CONTAINER = re.compile(rb"RIF[FX]|RF64|BW64|riff|FORM|fLaC|OggS|\x1aE\xdf\xa3|.{4}(%b)" % _ATOMS, re.DOTALL)
_SYNC, _ADTS_SYNC = re.compile(rb"\xff[\xe0-\xff]"), re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")  # of MPEG audio; of AAC
_INFO_FRAME = re.compile(rb"....\0{9,32}(Info|Xing)", re.DOTALL)  # an mp3's first: its length, the encoder's delay
_MAX_JUNK_BYTES, _MAX_ADTS_FRAME_BYTES = 1 << 20, 1 << 13
_WAVS = {b"RIFF": "<4sI", b"RF64": "<4sI", b"BW64": "<4sI", b"RIFX": ">4sI", b"riff": "<16sI4x"}  # riff: Wave64
_MAX_CHUNKS = 64
_EXTENSIBLE, _KINDS = 0xFFFE, {1: "s", 3: "f"}  # format tags of a wav: integers, floats
_OGG_START = b"OggS\0\2"  # of a stream's first page
_OGG_PAGE_HEAD_BYTES, _MAX_OGG_STREAMS = 27, 16
_READ_BYTES = 1 << 20


def audio_offset(file: int) -> int:
    """Bytes before the container: ID3v2 and APE tags; before mp3 and AAC also padding, or the rest of a tag.

    A container's own offsets count from its first byte; ffmpeg misses an mp3's Info frame behind anything but ID3v2.
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


def codec_of_wav(file: int, start: int) -> list[str]:
    """ffmpeg's input options for a wav whose samples it takes for others.

    Of an extensible one it takes the valid bits for the width; a big-endian one it reads as little-endian.
    """
    magic = os.pread(file, 4, start)
    layout = _WAVS.get(magic, "")
    n_bytes, is_wave64 = struct.calcsize(layout), magic == b"riff"
    at = start + (40 if is_wave64 else 12)
    for _ in range(_MAX_CHUNKS if layout else 0):
        head = os.pread(file, n_bytes + 26, at).ljust(n_bytes + 26, b"\0")
        name, size = struct.unpack_from(layout, head)
        if name[:4] == b"fmt ":
            tag, bits, valid_bits, subformat = struct.unpack_from(f"{layout[0]}H12xH2xH4xH", head, n_bytes)
            if tag != _EXTENSIBLE:
                subformat, valid_bits = tag, bits
            if subformat not in _KINDS or bits <= 8 or (valid_bits in (0, bits) and layout[0] == "<"):
                break
            return ["-c:a", f"pcm_{_KINDS[subformat]}{bits + -bits % 8}{'le' if layout[0] == '<' else 'be'}"]
        at += size + -size % 8 if is_wave64 else n_bytes + size + size % 2
    return []


def next_link(file: int, start: int) -> int:
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
