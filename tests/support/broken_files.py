"""Audio files that are broken, or are something else, from a seed. Knows no reader.

A few are readable: the rest of a truncated file, or the mp3 in front of a script.
"""

import gzip
import io
import struct
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from audiocraft_ext.audio.ffmpeg import ffmpeg_path

_ENCODERS: dict[str, list[str]] = {
    "s16.wav": ["-c:a", "pcm_s16le", "-f", "wav"],
    "float.wav": ["-c:a", "pcm_f32le", "-f", "wav"],
    "rf64.wav": ["-rf64", "always", "-f", "wav"],
    "adpcm.wav": ["-c:a", "adpcm_ms", "-f", "wav"],
    "s16.aiff": ["-f", "aiff"],
    "a.flac": ["-f", "flac"],
    "tagged.mp3": ["-b:a", "96k", "-f", "mp3"],
    "bare.mp3": ["-b:a", "64k", "-id3v2_version", "0", "-write_xing", "0", "-f", "mp3"],
    "vorbis.ogg": ["-c:a", "libvorbis", "-f", "ogg"],
    "opus.ogg": ["-c:a", "libopus", "-ar", "48000", "-f", "ogg"],
    "flac.ogg": ["-c:a", "flac", "-f", "ogg"],
    "aac.m4a": ["-c:a", "aac", "-f", "ipod"],
    "alac.m4a": ["-c:a", "alac", "-f", "ipod"],
    "fragmented.mp4": ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"],
    "a.aac": ["-c:a", "aac", "-f", "adts"],
    "opus.webm": ["-c:a", "libopus", "-ar", "48000", "-f", "webm"],
    "s24.mka": ["-c:a", "pcm_s24le", "-f", "matroska"],
}
_SOUND = ["-f", "lavfi", "-i", "sine=f=330:r=22050:d=0.4"]
_COVER = ["-f", "lavfi", "-i", "testsrc2=s=64x64:d=0.04:r=25", "-map", "0", "-map", "1", "-c:v", "png"]
_COVERED = {"cover.mp3": "mp3", "cover.flac": "flac", "cover.m4a": "ipod"}
NAMES = (
    "song.mp3",
    "song.wav",
    "song.m3u8",
    "song.sh",
    "song",
    "..wav",
    "$(id).ogg",
    "-i.mp3",
    "a" * 200,
    "%2e%2e.flac",
)


@dataclass(frozen=True)
class BrokenFile:
    kind: str
    name: str
    data: bytes


@cache
def sources() -> dict[str, bytes]:
    """A short sound in every supported format, and with a cover in those that have one; the same on every call."""

    def encode(*arguments: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:  # mp4 needs a seekable file
            path = Path(folder, "out")
            command = [ffmpeg_path(), "-nostdin", "-v", "error", *_SOUND, *arguments, "-bitexact", str(path)]
            subprocess.run(command, check=True, timeout=60)
            return path.read_bytes()

    files = {name: encode(*arguments) for name, arguments in _ENCODERS.items()}
    for name, format in _COVERED.items():
        files[name] = encode(*_COVER, "-disposition:v", "attached_pic", "-f", format)
    return files


def wav(
    data: bytes = bytes(4000), rate: int = 8000, channels: int = 1, bits: int = 16, tag: int = 1, claim: int = -1
) -> bytes:
    """A wav with any numbers in its header; ``claim`` is the length of data in its header, -1 the true one."""
    block = channels * bits // 8
    header = struct.pack("<HHIIHH", tag, channels, rate, rate * block % 2**32, block % 2**16, bits)
    length = struct.pack("<I", len(data) if claim < 0 else claim)
    return b"RIFF" + length + b"WAVEfmt \x10\0\0\0" + header + b"data" + length + data


def truncation(random: Random) -> bytes:
    data = random.choice(list(sources().values()))
    in_header, anywhere, near_end = random.randrange(64), random.randrange(len(data)), -random.randrange(1, 40)
    return data[: random.choice((in_header, anywhere, near_end))]


def without_its_start(random: Random) -> bytes:
    data = random.choice(list(sources().values()))
    return data[random.randrange(1, 2000) :]


def bits_flipped(random: Random) -> bytes:
    """In the header, or anywhere."""
    data = bytearray(random.choice(list(sources().values())))
    end = random.choice((200, len(data)))
    for _ in range(random.choice((1, 2, 8, 64))):
        data[random.randrange(min(end, len(data)))] ^= 1 << random.randrange(8)
    return bytes(data)


def numbers_replaced(random: Random) -> bytes:
    """Lengths, counts and rates that no file has, at random places."""
    data = bytearray(random.choice(list(sources().values())))
    for _ in range(random.choice((1, 1, 3))):
        at = random.randrange(4, min(len(data) - 8, random.choice((100, 1000))))
        number = random.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff" * 8, b"\0\0\0\1"))
        data[at : at + len(number)] = number
    return bytes(data)


def parts_shuffled(random: Random) -> bytes:
    """Pieces of one or two files, repeated and in another order."""
    first, second = random.choices(list(sources().values()), k=2)
    pieces = [first[:200]]
    for _ in range(random.randrange(2, 12)):
        data = random.choice((first, first, second))
        start = random.randrange(len(data))
        pieces.append(data[start : start + random.randrange(2000)])
    return b"".join(pieces)


def absurd_header(random: Random) -> bytes:
    rate = random.choice((0, 1, 7, 999, 1000, 11, 44_099, 767_999, 768_000, 768_001, 2**31 - 1, 2**32 - 1))
    channels = random.choice((0, 1, 2, 3, 6, 8, 9, 64, 255, 65_535))
    claim = random.choice((0, 1, 3, 2**31 - 1, 2**31, 2**32 - 1, -1))
    bits = random.choice((0, 1, 7, 8, 16, 24, 32, 64, 65_535))
    usual = random.random() < 0.6  # one odd number at a time gets further
    data = random.randbytes(random.choice((0, 1, 2, 3, 4, 7, 5000)))
    tag = random.choice((1, 1, 2, 3, 6, 0x11, 0x55, 0xFFFE, 0x2000, 0xFFFF))
    if usual:
        one: dict[str, int] = random.choice(({"rate": rate}, {"channels": channels}, {"claim": claim}, {"bits": bits}))
        return wav(data, **one)
    return wav(data, rate, channels, bits, tag, claim)


def hardly_any_sound(random: Random) -> bytes:
    """A few samples, at any supported rate."""
    n = random.choice((1, 1, 2, 3, 5, 10, 50, 200, 700))
    return wav(random.randbytes(2 * n), random.choice((1000, 3000, 8000, 31_999, 32_000, 44_100, 192_000, 768_000)))


def claims_hours(random: Random) -> bytes:
    """A false length in the header, in formats that have one."""
    flac = bytearray(sources()["a.flac"])
    flac[21:26] = bytes([flac[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # STREAMINFO: 2^36 - 1 samples
    aiff = sources()["s16.aiff"]
    at = aiff.index(b"COMM") + 10
    aiff = aiff[:at] + b"\x7f\xff\xff\xff" + aiff[at + 4 :]
    mp4 = bytearray(sources()["aac.m4a"])
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        at = mp4.index(box) + (24 if box == b"tkhd" else 20)
        mp4[at : at + 4] = b"\x7f\xff\xff\xff"
    ogg = bytearray(sources()["vorbis.ogg"])
    last = ogg.rindex(b"OggS") + 6
    ogg[last : last + 8] = b"\xff\xff\xff\xff\xff\xff\xff\x7f"  # the last page's position
    xing = sources()["tagged.mp3"]
    at = max(xing.find(b"Xing"), xing.find(b"Info")) + 8
    xing = xing[:at] + b"\xff" * 8 + xing[at + 8 :]
    return bytes(random.choice((flac, aiff, mp4, ogg, xing, wav(claim=2**32 - 1))))


def odd_rate_in_aiff(random: Random) -> bytes:
    """AIFF writes its rate as an 80-bit float: infinite, negative, not a number, or next to nothing."""
    data = sources()["s16.aiff"]
    at = data.index(b"COMM") + 16
    exponent = random.choice((0x7FFF, 0xFFFF, 0xC00D, 0, 1, 0x3FFF, 0x401E, 0x7FFE))
    return data[:at] + struct.pack(">HQ", exponent, random.choice((0, 1, 1 << 63, 2**64 - 1))) + data[at + 10 :]


def magic_and_noise(random: Random) -> bytes:
    magics = (
        b"RIFF\xff\xff\xff\xffWAVE", b"RF64\xff\xff\xff\xffWAVEds64", b"FORM\0\0\x10\0AIFF", b"fLaC\0\0\0\x22",
        b"\x1a\x45\xdf\xa3\x9f", b"\0\0\0\x18ftypM4A ", b"\xff\xfb\x90\x00", b"\xff\xf1\x50\x80", b"OggS\0\2",
        b"\0\0\0\x08ftyp\xff\xff\xff\xffmoov", b"RIFX\0\0\0\0WAVEfmt ", b"BW64\0\0\0\0WAVE", b"FORM\0\0\0\0AIFC",
        b"ID3\3\0\0\0\0\0\x0a",
    )  # fmt: skip
    filler = random.choice((random.randbytes, bytes, lambda n: b"\xff" * n))
    return random.choice(magics) + filler(random.randrange(4000))


def many_tags(random: Random) -> bytes:
    """ID3 tags that never end, or contain each other, before any sound."""
    n = random.choice((1, 20, 1000, 400_000))
    empty = b"ID3\3\0\0\0\0\0\0"
    with_footer = b"ID3\4\0\x10\0\0\0\0" + b"3DI\4\0\x10\0\0\0\0"
    tag = random.choice((empty, with_footer, b"ID3\3\0\0\0\0\0\x0a" + empty))
    return tag * n + random.choice((b"", sources()["bare.mp3"], sources()["s16.wav"]))


def container_in_container(random: Random) -> bytes:
    inner, outer = random.choices(list(sources().values()), k=2)
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as file:
        file.writestr("../../song.wav", inner)
    with tarfile.open(fileobj=tar, mode="w") as tape:
        member = tarfile.TarInfo("song.wav")
        member.size = len(inner)
        tape.addfile(member, io.BytesIO(inner))
    nested = inner
    for _ in range(random.choice((1, 2, 100))):
        nested = wav(nested)
    mpeg_in_riff = wav(inner, tag=0x55, bits=0)
    return random.choice(
        (
            archive.getvalue(),
            tar.getvalue(),
            gzip.compress(inner),
            nested,
            mpeg_in_riff,
            outer + inner,
            outer[:400] + inner,
        )
    )


KINDS: dict[Callable[[Random], bytes], int] = {
    truncation: 110,
    without_its_start: 30,
    bits_flipped: 160,
    numbers_replaced: 100,
    parts_shuffled: 40,
    absurd_header: 80,
    hardly_any_sound: 60,
    claims_hours: 15,
    odd_rate_in_aiff: 15,
    magic_and_noise: 50,
    many_tags: 12,
    container_in_container: 40,
}


def broken_files(n: int, seed: int) -> Iterator[BrokenFile]:
    """``n`` files, the kinds by their share; the same for the same seed."""
    random = Random(seed)
    for _ in range(n):
        [make] = random.choices(list(KINDS), list(KINDS.values()))
        yield BrokenFile(make.__name__.replace("_", " "), random.choice(NAMES), make(random))
