"""Valid files that few readers expect, with the real ffmpeg, against soundfile and ffmpeg's own tool."""

import struct
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiocraft_ext.audio.read import read
from audiocraft_ext.errors import InputError
from tests.support.audio_files import RATE, chords, correlation, ffmpeg, snr_db, write
from tests.support.odd_files import ape, atoms, id3, layer_1, pcm, riff, wave64, wave_format

pytestmark = pytest.mark.usefixtures("one_thread")

NOISE = np.random.default_rng(0).bytes(150_000)  # as compressed pictures in tags are; it has sync words


def by_soundfile(path: Path) -> Tensor:
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T)


def by_ffmpeg(path: Path, *arguments: object) -> Tensor:
    """Samples [2, N] of a stereo file."""
    samples = ffmpeg("-i", path, "-map", "0:a:0", *arguments, "-f", "f32le", "-")
    return torch.frombuffer(bytearray(samples), dtype=torch.float32).reshape(-1, 2).T


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of one second of chords in the format of the name."""
    folder = tmp_path_factory.mktemp("plain")
    sound = write(folder / "sound.wav", chords(1.0), subtype="FLOAT")

    def encode(name: str) -> Path:
        if not (folder / name).exists():
            ffmpeg("-i", sound, *(["-id3v2_version", "0"] if name.endswith("mp3") else []), folder / name)
        return folder / name

    return encode


def assert_is(path: Path, expected: Tensor, least_snr_db: float = 80) -> None:
    samples = read(path).samples
    assert samples.shape == expected.shape
    assert snr_db(samples, expected) > least_snr_db


# Wav


@pytest.mark.parametrize(
    ("valid_bits", "bits"),
    [(16, 24), (24, 32), (20, 24), (12, 16), (20, 32), (16, 32), (8, 16), (8, 24), (6, 8), (32, 16), (24, 24), (0, 24)],
)
def test_valid_bits_of_a_wav_do_not_change_its_samples(tmp_path: Path, valid_bits: int, bits: int) -> None:
    samples = pcm(chords(1.0), bits, min(valid_bits or bits, bits))
    (tmp_path / "a.wav").write_bytes(riff(wave_format(bits, valid_bits), samples))
    assert_is(tmp_path / "a.wav", by_soundfile(tmp_path / "a.wav"))
    assert snr_db(read(tmp_path / "a.wav").samples, chords(1.0)) > (10 if min(valid_bits, bits) in (6, 8) else 40)


@pytest.mark.parametrize("valid_bits", [0, 24, 32])
def test_valid_bits_of_a_float_wav_do_not_change_its_samples(tmp_path: Path, valid_bits: int) -> None:
    data = chords(1.0).T.numpy().astype("<f4").tobytes()
    (tmp_path / "a.wav").write_bytes(riff(wave_format(32, valid_bits, tag=3), data))
    assert torch.equal(read(tmp_path / "a.wav").samples, chords(1.0))


def test_a_64_bit_wav_with_24_valid_bits_is_read_and_48_bits_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(riff(wave_format(64, 24), pcm(chords(1.0), 64, 24)))
    assert_is(tmp_path / "a.wav", chords(1.0))
    (tmp_path / "b.wav").write_bytes(riff(wave_format(48, 24), pcm(chords(1.0), 48, 24)))
    with pytest.raises(InputError, match="not audio that can be decoded"):
        read(tmp_path / "b.wav")


@pytest.mark.parametrize(
    "before",
    [
        [(b"JUNK", bytes(28_000))],
        [(b"bext", b"Take 1, fmt 24 bit".ljust(603))],
        [(b"LIST", b"INFOINAM\3\0\0\0abc\0"), (b"note", b"odd")],
        [(b"JUNK", bytes(3_000_000))],
    ],
    ids=["junk", "bext", "odd sizes", "3 MB"],
)
@pytest.mark.parametrize(("valid_bits", "bits"), [(16, 24), (24, 32)])
def test_valid_bits_are_found_behind_other_chunks(
    tmp_path: Path, before: list[tuple[bytes, bytes]], valid_bits: int, bits: int
) -> None:
    (tmp_path / "a.wav").write_bytes(
        riff(wave_format(bits, valid_bits), pcm(chords(1.0), bits, valid_bits), before=before)
    )
    assert_is(tmp_path / "a.wav", by_soundfile(tmp_path / "a.wav"))


@pytest.mark.parametrize(("valid_bits", "bits"), [(16, 24), (24, 32), (24, 24)])
def test_valid_bits_of_wave64_and_rf64_do_not_change_their_samples(tmp_path: Path, valid_bits: int, bits: int) -> None:
    data = pcm(chords(1.0), bits, valid_bits)
    ds64 = (b"ds64", struct.pack("<QQQI", len(data) + 100, len(data), RATE, 0))
    (tmp_path / "a.w64").write_bytes(wave64(wave_format(bits, valid_bits), data))
    (tmp_path / "a.wav").write_bytes(riff(wave_format(bits, valid_bits), data, before=[ds64], magic=b"RF64"))
    for path in (tmp_path / "a.w64", tmp_path / "a.wav"):
        assert_is(path, by_soundfile(path))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_a_big_endian_wav_is_read(tmp_path: Path, subtype: str) -> None:
    path = write(tmp_path / "a.wav", chords(1.0), subtype=subtype, endian="BIG")
    assert path.read_bytes()[:4] == b"RIFX"
    assert_is(path, by_soundfile(path))


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "IMA_ADPCM"), ("a.wav", "PCM_U8"), ("a.w64", "PCM_24"), ("a.aiff", "PCM_S8")]
)
def test_older_encodings_of_pcm_are_read(tmp_path: Path, name: str, subtype: str) -> None:
    path = write(tmp_path / name, chords(1.0), subtype=subtype)
    assert_is(path, by_soundfile(path))


def test_little_endian_aiff_and_mp3_in_a_wav_are_read(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    path = write(tmp_path / "a.aifc", chords(1.0), format="AIFF", subtype="PCM_16", endian="LITTLE")
    assert b"sowt" in path.read_bytes()[:64]
    assert_is(path, by_soundfile(path))
    ffmpeg("-i", plain("a.flac"), "-c:a", "libmp3lame", tmp_path / "a.wav")
    assert (tmp_path / "a.wav").read_bytes()[20] == 0x55
    assert_is(tmp_path / "a.wav", by_soundfile(tmp_path / "a.wav"))


# Tags

TAGS = {
    "ID3": id3(bytes(300)),
    "two ID3": id3(bytes(1000)) + id3(bytes(77)),
    "ID3 with a picture": id3(NOISE),
    "ID3 2.4 with a footer": id3(bytes(300), version=4, flags=0x10) + b"3DI" + id3(bytes(300))[3:10],
    "ID3 2.3 with an unknown flag": id3(bytes(300), flags=0x10),
    "APE": ape(b"text" * 30),
    "APE with a picture": ape(NOISE),
    "ID3, then APE": id3(bytes(300)) + ape(bytes(3000)),
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["a.wav", "a.w64", "a.aiff", "a.flac", "a.ogg", "a.m4a", "a.webm", "a.aac", "a.mp3"])
def test_a_tag_in_front_changes_no_sample(tmp_path: Path, plain: Callable[[str], Path], name: str, tag: str) -> None:
    (tmp_path / name).write_bytes(TAGS[tag] + plain(name).read_bytes())
    assert_is(tmp_path / name, by_ffmpeg(plain(name)))


# MPEG audio


@pytest.mark.parametrize(
    "junk",
    [
        *(bytes(8), bytes(15), bytes(4096), bytes(700_000), b" " * 3000, b"TAGsome song".ljust(128)),
        id3(bytes(1000))[:6] + bytes(4) + bytes(1000),  # a tag that says it is empty
        ape(b"text" * 30, has_header=False),
    ],
    ids=["8", "15", "4096", "700000", "spaces", "TAG", "false size", "APE without a header"],
)
def test_junk_before_an_mp3_does_not_shift_it(tmp_path: Path, plain: Callable[[str], Path], junk: bytes) -> None:
    expected = by_soundfile(plain("a.mp3"))
    assert expected.shape[-1] == RATE
    (tmp_path / "a.mp3").write_bytes(junk + plain("a.mp3").read_bytes())
    assert_is(tmp_path / "a.mp3", expected)


def test_a_false_size_of_a_picture_before_an_mp3_loses_nothing(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    """ffmpeg's own tool reads the Info frame as silence here: 45 ms in front."""
    (tmp_path / "a.mp3").write_bytes(id3(bytes(128)) + NOISE + plain("a.mp3").read_bytes())
    samples = read(tmp_path / "a.mp3").samples
    assert RATE <= samples.shape[-1] <= RATE + 2 * 1152
    assert correlation(samples, by_soundfile(plain("a.mp3"))) > 0.99


def test_a_later_info_frame_does_not_hide_earlier_frames(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    ffmpeg("-i", plain("a.flac"), "-write_xing", "0", "-id3v2_version", "0", tmp_path / "bare.mp3")
    bare = (tmp_path / "bare.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(bare[100:] + plain("a.mp3").read_bytes())
    assert read(tmp_path / "a.mp3").duration_s > 2


def test_mpeg_layers_1_and_2_are_read(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    assert_is(plain("a.mp2"), by_soundfile(plain("a.mp2")), 70)
    (tmp_path / "tagged.mp2").write_bytes(TAGS["APE with a picture"] + plain("a.mp2").read_bytes())
    assert_is(tmp_path / "tagged.mp2", by_soundfile(plain("a.mp2")), 70)
    (tmp_path / "a.mp1").write_bytes(layer_1(n_frames=100))
    assert_is(tmp_path / "a.mp1", by_soundfile(tmp_path / "a.mp1"), 50)


def test_an_mp3_of_few_frames_is_read_and_one_frame_refused(tmp_path: Path) -> None:
    """soundfile and ffmpeg's own tool refuse a single frame too."""
    sound = write(tmp_path / "a.wav", chords(1.0, rate=48_000), 48_000)
    ffmpeg("-i", sound, "-b:a", "128k", "-write_xing", "0", "-id3v2_version", "0", tmp_path / "a.mp3")
    frames, size = (tmp_path / "a.mp3").read_bytes(), 384  # 144 * 128,000 / 48,000
    for n in (2, 3):
        (tmp_path / "b.mp3").write_bytes(frames[: n * size])
        assert_is(tmp_path / "b.mp3", by_soundfile(tmp_path / "b.mp3"))
    (tmp_path / "b.mp3").write_bytes(frames[:size])
    with pytest.raises(InputError, match="not audio that can be decoded"):
        read(tmp_path / "b.mp3")
    free = bytearray(frames)
    free[2::size] = bytes(byte & 0x0F for byte in free[2::size])  # a bit rate of the encoder's own, unknown to ffmpeg
    (tmp_path / "free.mp3").write_bytes(free)
    with pytest.raises(InputError, match="not audio that can be decoded"):
        read(tmp_path / "free.mp3")


@pytest.mark.parametrize("tag", [b"", id3(bytes(300))])
def test_aac_cut_within_a_frame_is_read_from_the_next_one(
    tmp_path: Path, plain: Callable[[str], Path], tag: bytes
) -> None:
    data, starts, whole = plain("a.aac").read_bytes(), [0], by_ffmpeg(plain("a.aac"))
    while starts[-1] < len(data):
        starts.append(starts[-1] + (int.from_bytes(data[starts[-1] + 3 : starts[-1] + 6]) >> 5 & 0x1FFF))
    for cut in range(1, starts[4], 61):
        (tmp_path / "a.aac").write_bytes(tag + data[cut:])
        samples = read(tmp_path / "a.aac").samples
        assert samples.shape[-1] == 1024 * sum(start >= cut for start in starts[:-1]), cut
        assert snr_db(samples[:, 2048:], whole[:, 2048 - samples.shape[-1] :]) > 25, cut  # its noise is random
    (tmp_path / "a.aac").write_bytes(tag + data[: starts[20] + 50])
    assert snr_db(read(tmp_path / "a.aac").samples[:, : 20 * 1024], whole[:, : 20 * 1024]) > 25


@pytest.mark.parametrize("size", [500, 2000, 8000])
def test_a_false_sync_word_in_a_cut_frame_of_aac_hides_nothing(
    tmp_path: Path, plain: Callable[[str], Path], size: int
) -> None:
    data = plain("a.aac").read_bytes()
    false = bytearray(data[:7])
    false[3:6] = (int.from_bytes(data[3:6]) & ~(0x1FFF << 5) | size << 5).to_bytes(3)
    (tmp_path / "a.aac").write_bytes(b"the rest of a frame" + false + b"and more" + data)
    assert_is(tmp_path / "a.aac", by_ffmpeg(plain("a.aac")))


# QuickTime, mp4, webm


@pytest.mark.parametrize("first", ["wide", "mdat", "free", "skip", "pnot", "moov"])
@pytest.mark.parametrize("codec", ["pcm_s16le", "aac"])
def test_quicktime_without_ftyp_is_read(tmp_path: Path, plain: Callable[[str], Path], first: str, codec: str) -> None:
    faststart = ["-movflags", "faststart"] if first == "moov" else []
    ffmpeg("-i", plain("a.flac"), "-c:a", codec, *faststart, tmp_path / "whole.mov")
    whole = (tmp_path / "whole.mov").read_bytes()
    kept = {name: atom for name, atom in atoms(whole) if name in (b"mdat", b"moov")}
    padding = b"" if first in ("mdat", "moov") else struct.pack(">I4s", 24, first.encode()) + bytes(16)
    moved = len(padding) + (len(kept[b"moov"]) if first == "moov" else 0) + 8
    moov = bytearray(kept[b"moov"])
    at = moov.index(b"stco") + 8
    [n] = struct.unpack_from(">I", moov, at)
    offsets = struct.unpack_from(f">{n}I", moov, at + 4)
    shift = moved - (whole.index(b"mdat") + 4)
    struct.pack_into(f">{n}I", moov, at + 4, *(offset + shift for offset in offsets))
    parts = [bytes(moov), kept[b"mdat"]] if first == "moov" else [padding, kept[b"mdat"], bytes(moov)]
    (tmp_path / "a.mov").write_bytes(b"".join(parts))
    assert (tmp_path / "a.mov").read_bytes()[4:8] == first.encode()
    assert_is(tmp_path / "a.mov", by_ffmpeg(tmp_path / "whole.mov"))


def test_a_fragment_of_a_stream_is_read_with_its_first_part_only(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    arguments = ["-c:a", "aac", "-frag_duration", 200_000, "-movflags", "empty_moov+default_base_moof"]
    ffmpeg("-i", plain("a.flac"), *arguments, tmp_path / "a.mp4")
    whole = (tmp_path / "a.mp4").read_bytes()
    styp = struct.pack(">I", 24) + b"stypmsdh" + bytes(4) + b"msdhmsix"
    moof = whole.index(b"moof") - 4
    (tmp_path / "b.mp4").write_bytes(styp + whole)
    assert_is(tmp_path / "b.mp4", by_ffmpeg(tmp_path / "a.mp4"))
    ffmpeg("-i", plain("a.flac"), "-c:a", "libopus", "-f", "webm", "-live", 1, tmp_path / "a.webm")
    webm = (tmp_path / "a.webm").read_bytes()
    assert_is(tmp_path / "a.webm", by_ffmpeg(tmp_path / "a.webm"))  # as browsers record: without a duration
    for fragment in (styp + whole[moof:], whole[moof:], webm[webm.index(b"\x1fC\xb6u") :]):
        (tmp_path / "c.mp4").write_bytes(fragment)
        with pytest.raises(InputError, match="one part of a stream, and cannot be decoded without the first part"):
            read(tmp_path / "c.mp4")


def test_edit_lists_and_the_first_of_two_tracks_are_read(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    other = write(tmp_path / "other.wav", chords(1.5).flip(0))
    both = ["-i", plain("a.flac"), "-i", other, "-map", "0", "-map", "1", "-c:a", "aac"]
    ffmpeg(*both, tmp_path / "two.m4a")
    ffmpeg("-ss", 0.3, "-i", plain("a.m4a"), "-c", "copy", tmp_path / "cut.m4a")
    for path in (tmp_path / "two.m4a", tmp_path / "cut.m4a"):
        assert_is(path, by_ffmpeg(path))


# Chained Ogg

LINKS: dict[str, list[object]] = {
    "vorbis": ["-c:a", "libvorbis", "-q:a", 8],
    "vorbis mono": ["-c:a", "libvorbis", "-q:a", 8, "-ac", 1],
    "vorbis 22050": ["-c:a", "libvorbis", "-q:a", 8, "-ar", 22_050],
    "opus": ["-c:a", "libopus", "-b:a", "192k"],
    "opus mono": ["-c:a", "libopus", "-ac", 1],
    "flac": ["-c:a", "flac"],
    "flac mono 22050": ["-c:a", "flac", "-ac", 1, "-ar", 22_050],
}


def links(folder: Path, sound: Path, *kinds: str) -> list[Path]:
    paths = [folder / f"{i}.ogg" for i in range(len(kinds))]
    for i, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        ffmpeg("-i", sound, *LINKS[kind], "-serial_offset", i, path)
    (folder / "chained.ogg").write_bytes(b"".join(path.read_bytes() for path in paths))
    return paths


@pytest.mark.parametrize(
    "kinds",
    [
        ("vorbis", "vorbis"),
        ("vorbis", "vorbis mono"),
        ("vorbis", "vorbis 22050"),
        ("opus", "opus"),
        ("opus", "opus mono"),
        ("flac", "flac mono 22050"),
        ("flac", "vorbis"),
        ("vorbis", "opus", "vorbis mono"),
    ],
    ids="+".join,
)
def test_every_link_of_a_chained_ogg_is_read(tmp_path: Path, source: Path, kinds: tuple[str, ...]) -> None:
    paths = links(tmp_path, source, *kinds)
    clip = read(tmp_path / "chained.ogg")
    lengths = [by_ffmpeg(path, "-ac", 2, "-ar", clip.sample_rate).shape[-1] for path in paths]
    assert clip.samples.shape == (2, sum(lengths))
    ends = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    for path, kind, (start, end) in zip(paths, kinds, pairwise(ends), strict=True):
        filters = ["-af", "pan=stereo|c0=c0|c1=c0"] if "mono" in kind else []
        expected = by_ffmpeg(path, *filters, "-ar", clip.sample_rate)
        assert snr_db(clip.samples[:, start:end], expected) > 60, path
    window = read(tmp_path / "chained.ogg", 1.5, 2.5)
    assert torch.equal(window.samples, clip.samples[:, round(1.5 * clip.sample_rate) : round(2.5 * clip.sample_rate)])


def test_later_links_follow_the_first_in_rate_and_channels(tmp_path: Path, source: Path) -> None:
    links(tmp_path, source, "flac mono 22050", "flac")
    clip = read(tmp_path / "chained.ogg")
    assert (clip.sample_rate, clip.samples.shape) == (22_050, (1, 4 * 22_050))
    assert correlation(clip.samples[:, 2 * 22_050 :], clip.samples[:, : 2 * 22_050]) > 0.999


def test_streams_side_by_side_in_an_ogg_are_one_link(tmp_path: Path, source: Path) -> None:
    ffmpeg("-i", source, "-map", "0", "-map", "0", "-c:a", "libvorbis", tmp_path / "a.ogg")
    assert (tmp_path / "a.ogg").read_bytes().count(b"OggS\0\2") == 2
    assert_is(tmp_path / "a.ogg", by_ffmpeg(tmp_path / "a.ogg"))


def test_the_rest_of_an_ogg_that_cannot_be_decoded_is_logged(
    tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = links(tmp_path, source, "flac")
    first = read(path).samples
    assert not caplog.text
    page = struct.pack("<4sBBQIIIB", b"OggS", 0, 2, 0, 9, 0, 0, 0)
    path.write_bytes((data := path.read_bytes()) + (page + b"not a page") * 200_000)
    start = time.monotonic()
    assert torch.equal(read(path).samples, first)
    assert time.monotonic() - start < 5
    assert f"the rest of the Ogg file, from byte {len(data)} on, cannot be decoded" in caplog.text
