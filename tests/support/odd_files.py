"""Files that no common writer makes, byte by byte. Knows no reader."""

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from tests.support.audio_files import RATE

_GUID = bytes.fromhex("000000001000800000aa00389b71")  # of an extensible format, after its tag
_WAVE64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of a Wave64 chunk, after its name


def pcm(samples: Tensor, bits: int, valid_bits: int) -> bytes:
    """Samples [C, N] as little-endian integers of `bits`, of which the upper `valid_bits` are used."""
    scale = 2.0 ** (valid_bits - 1)
    values = np.clip(np.round(samples.T.double().numpy() * scale), -scale, scale - 1).astype("<i8") << bits - valid_bits
    if bits == 8:
        return (values + 128).astype(np.uint8).tobytes()
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()


def wave_format(bits: int, valid_bits: int, tag: int = 1) -> bytes:
    """An extensible format chunk's content: stereo at `RATE`."""
    size = 2 * bits // 8
    head = struct.pack("<HHIIHHHHI", 0xFFFE, 2, RATE, RATE * size, size, bits, 22, valid_bits, 3)
    return head + struct.pack("<H", tag) + _GUID


def riff(format: bytes, data: bytes, before: Sequence[tuple[bytes, bytes]] = (), magic: bytes = b"RIFF") -> bytes:
    """A wav with other chunks (name, content) before its format."""
    body = b"WAVE"
    for name, content in [*before, (b"fmt ", format), (b"data", data)]:
        body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return magic + struct.pack("<I", len(body) if magic == b"RIFF" else 0xFFFFFFFF) + body


def wave64(format: bytes, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return name + _WAVE64 + struct.pack("<Q", 24 + len(content)) + content + bytes(-len(content) % 8)

    body = b"wave" + _WAVE64 + chunk(b"fmt ", format) + chunk(b"data", data)
    return b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000") + struct.pack("<Q", 24 + len(body)) + body


def id3(content: bytes, version: int = 3, flags: int = 0) -> bytes:
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3" + bytes([version, 0, flags]) + size + content


def ape(value: bytes, has_header: bool = True) -> bytes:
    """An APEv2 tag of one item."""
    item = struct.pack("<II", len(value), 2) + b"Cover Art (Front)\0" + value

    def end(flags: int) -> bytes:
        return b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags) + bytes(8)

    return (end(0xA0000000) if has_header else b"") + item + end(0x80000000)


def atoms(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and whole of each top-level atom of a QuickTime file."""
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, data[at : at + size]
        at += size


def layer_1(n_frames: int) -> bytes:
    """MPEG-1 layer I in mono, 256 kbit/s at 44.1 kHz: a tone in the lowest subband."""
    n_slots = 12 * 256_000 // 44_100
    allocation = [7] + 31 * [0]  # 8 bits a sample
    frames = []
    for frame in range(n_frames):
        bits = "1" * 16 + "1000" + "00" + "00" + "11" + "000000"  # sync, 256 kbit/s, 44.1 kHz, mono
        bits += "".join(f"{width:04b}" for width in allocation) + f"{20:06b}"
        for i in range(12):
            bits += f"{127 + round(100 * np.sin(0.7 * (12 * frame + i))):08b}"
        frames.append(int(bits.ljust(32 * n_slots, "0"), 2).to_bytes(4 * n_slots))
    return b"".join(frames)
