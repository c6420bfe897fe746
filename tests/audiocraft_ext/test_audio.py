"""Files in and out, with the real ffmpeg: every format, the exact cut, every refusal, what is written."""

import functools
import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiocraft_ext.audio import Clip, Limits, OutputFormat, decode, encode, ffmpeg_path, normalise, resample
from audiocraft_ext.errors import InputError

RATE = 44_100
LEVEL_OF = {"pcm_u8": 25, "pcm_alaw": 25, "pcm_mulaw": 25}  # dB of signal over error; all other PCM is better than 80


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Short tensors only: on a busy machine torch's threads wait for each other longer than they work."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def ffmpeg(*arguments: object) -> bytes:
    command = [ffmpeg_path(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


@functools.cache
def chords(duration_s: float = 2.0, channels: int = 2, rate: int = RATE) -> Tensor:
    """Three swelling tones with some noise [C, N]; left and right differ."""
    t = torch.arange(round(duration_s * rate)) / rate
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    swell = 0.5 + 0.5 * torch.sin(2 * torch.pi * 1.5 * t)
    sides = [sum(torch.sin(2 * torch.pi * hz * (1 + 0.5 * side) * t) for hz in (220, 331, 612)) for side in (0, 1)]
    return torch.stack([0.15 * swell * torch.as_tensor(side) + 0.005 * noise for side in sides])[:channels]


def write(path: Path, samples: Tensor, rate: int = RATE, **kwargs: str) -> Path:
    soundfile.write(path, samples.T.numpy(), rate, **kwargs)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "source.wav", chords(), subtype="FLOAT")


def snr_db(got: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(expected.square().mean() / (got - expected).square().mean().clamp(min=1e-20)))


def likeness(got: Tensor, expected: Tensor) -> float:
    """Largest normalised cross-correlation of two signals [C, N] over all shifts, the worse channel's."""
    size = got.shape[-1] + expected.shape[-1]
    product = torch.fft.rfft(got, size) * torch.fft.rfft(expected, size).conj()
    peaks = torch.fft.irfft(product, size).amax(dim=-1)
    return float((peaks / (got.norm(dim=-1) * expected.norm(dim=-1))).min())


def refusal(path: Path, *window: float, **limits: float) -> InputError:
    with pytest.raises(InputError) as caught:
        decode(path, *window, limits=Limits(**limits))  # type: ignore[arg-type]
    message = str(caught.value)
    assert str(path) not in message
    assert path.name not in message
    assert "ffmpeg" not in message
    with pytest.raises(ChildProcessError):  # no child is left behind
        os.waitpid(-1, os.WNOHANG)
    return caught.value


# Reading


@pytest.mark.parametrize("codec", ["u8", "s16le", "s24le", "s32le", "f32le", "f64le", "alaw", "mulaw"])
@pytest.mark.parametrize("name", ["plain.wav", "rf64.wav"])
def test_every_sample_format_of_wav_is_read(tmp_path: Path, source: Path, codec: str, name: str) -> None:
    rf64 = ["-rf64", "always"] if name == "rf64.wav" else []
    ffmpeg("-i", source, "-c:a", f"pcm_{codec}", *rf64, tmp_path / name)
    clip = decode(tmp_path / name)
    assert clip.sample_rate == RATE
    assert clip.samples.shape == chords().shape
    assert snr_db(clip.samples, chords()) > LEVEL_OF.get(f"pcm_{codec}", 65)


def test_an_extensible_wav_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", chords(), format="WAVEX", subtype="PCM_24")
    assert path.read_bytes()[20:22] == b"\xfe\xff"
    assert snr_db(decode(path).samples, chords()) > 80


def test_a_mono_wav_that_calls_itself_left_keeps_its_level(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", chords(channels=1), format="WAVEX", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", 1)  # channel mask: front left
    path.write_bytes(data)
    assert snr_db(decode(path).samples, chords(channels=1)) > 65


@pytest.mark.parametrize(
    ("name", "arguments", "largest_excess_samples"),
    [
        ("a.mp3", ["-c:a", "libmp3lame", "-b:a", "192k"], 0),
        ("no-tag.mp3", ["-c:a", "libmp3lame", "-b:a", "192k", "-id3v2_version", "0", "-write_xing", "0"], 3 * 1152),
        ("a.flac", [], 0),
        ("vorbis.ogg", ["-c:a", "libvorbis", "-q:a", "8"], 0),
        ("flac-in.ogg", ["-c:a", "flac"], 0),
        ("a.opus", ["-c:a", "libopus", "-b:a", "192k"], 0),
        ("a.m4a", ["-c:a", "aac", "-b:a", "192k"], 1024),  # ffmpeg before 8 leaves the last frame whole
        ("alac.m4a", ["-c:a", "alac"], 0),
        ("a.aac", ["-c:a", "aac", "-b:a", "192k"], 3 * 1024),
        ("a.aiff", ["-c:a", "pcm_s16be"], 0),
        ("float.aifc", ["-c:a", "pcm_f32be", "-f", "aiff"], 0),
        ("a.webm", ["-c:a", "libopus", "-b:a", "192k"], 0),
        ("a.mka", ["-c:a", "pcm_s24le"], 0),
    ],
)
def test_every_format_is_read_whatever_its_name(
    tmp_path: Path, source: Path, name: str, arguments: list[str], largest_excess_samples: int
) -> None:
    ffmpeg("-i", source, *arguments, tmp_path / name)
    misnamed = (tmp_path / name).rename(tmp_path / f"{name}.txt")
    clip = decode(misnamed)
    expected = chords()
    if clip.sample_rate != RATE:
        assert clip.sample_rate == 48_000  # opus knows no other
        expected = resample(Clip(expected, RATE), 48_000, 2)
    excess = clip.samples.shape[-1] - expected.shape[-1]
    assert 0 <= excess <= largest_excess_samples
    assert likeness(clip.samples, expected) > 0.995
    if largest_excess_samples <= 1024:  # the others say nowhere how much the encoder put before the first sample
        assert snr_db(clip.samples[:, : expected.shape[-1]], expected) > 20  # so it is not shifted by a sample either


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.flac", "a.mp4", "a.webm"])
def test_cover_art_and_video_do_not_matter(tmp_path: Path, source: Path, name: str) -> None:
    still = name not in ("a.mp4", "a.webm")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=320x240:r=5", "-t", 0.2 if still else 2, "-c:v", "png", tmp_path / "v.mkv")
    codec = ["-c:v", "copy", "-disposition:v", "attached_pic"]
    if not still:
        codec = ["-c:v", "libvpx", "-c:a", "libopus"] if name == "a.webm" else ["-c:v", "mpeg4"]
    ffmpeg("-i", source, "-i", tmp_path / "v.mkv", "-map", "1", "-map", "0", *codec, tmp_path / name)
    assert decode(tmp_path / name).duration_s == pytest.approx(2, abs=1024 / RATE)


def test_an_mp3_that_was_cut_out_of_a_stream_is_read(tmp_path: Path, source: Path) -> None:
    ffmpeg("-i", source, "-b:a", "128k", "-id3v2_version", "0", tmp_path / "a.mp3")
    (tmp_path / "b.mp3").write_bytes((tmp_path / "a.mp3").read_bytes()[5000:])
    samples = decode(tmp_path / "b.mp3").samples
    assert likeness(samples, chords()[:, -samples.shape[-1] :]) > 0.9


def test_a_float_wav_above_full_scale_keeps_its_peaks(tmp_path: Path) -> None:
    loud = chords() * 12
    assert loud.abs().max() > 4
    assert torch.equal(decode(write(tmp_path / "a.wav", loud, subtype="FLOAT")).samples, loud)


def test_more_than_two_channels_are_mixed_down(tmp_path: Path) -> None:
    surround = chords(channels=1).repeat(6, 1) * 2
    clip = decode(write(tmp_path / "a.wav", surround, subtype="FLOAT"))
    assert clip.samples.shape == (2, surround.shape[-1])
    assert clip.samples.abs().max() <= surround.abs().max() + 1e-6
    assert likeness(clip.samples, surround[:2]) > 0.999


@pytest.mark.parametrize("rate", [1_000, 8_000, 22_050, 96_000, 192_000])
def test_the_sample_rate_is_the_files_own(tmp_path: Path, rate: int) -> None:
    clip = decode(write(tmp_path / "a.wav", chords(0.5, 1, rate), rate, subtype="FLOAT"))
    assert (clip.sample_rate, clip.duration_s) == (rate, 0.5)


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 1), (0.5, 1.5), (1, None), (1 / 3, 1.7), (0, 2), (1.99, 2)])
def test_the_cut_is_exact_to_the_sample(
    source: Path, start_s: float, end_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    clip = decode(source, start_s, end_s)
    last = None if end_s is None else round(end_s * RATE)
    assert torch.equal(clip.samples, chords()[:, round(start_s * RATE) : last])
    assert not caplog.text


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.m4a"])
def test_a_cut_of_a_compressed_file_is_a_slice_of_the_whole(tmp_path: Path, source: Path, name: str) -> None:
    ffmpeg("-i", source, tmp_path / name)
    whole = decode(tmp_path / name).samples
    assert torch.equal(decode(tmp_path / name, 0.7, 1.3).samples, whole[:, round(0.7 * RATE) : round(1.3 * RATE)])


def test_an_end_past_the_end_is_clamped_and_logged(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = decode(source, 1, 30)
    assert clip.duration_s == 1
    assert "continuation_end, 30 s, is past the end of the clip: using its end, 2.00 s" in caplog.text


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg"])
def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, source: Path, name: str) -> None:
    ffmpeg("-i", source, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    clip = decode(tmp_path / name)
    assert 0.5 < clip.duration_s < 1.9
    assert likeness(clip.samples, chords()[:, : clip.samples.shape[-1]]) > 0.95


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 1 << 30])
def test_a_wav_whose_header_was_never_finished_is_read(tmp_path: Path, claimed: int) -> None:
    path = write(tmp_path / "a.wav", chords(), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", claimed)
    path.write_bytes(data)
    assert decode(path).duration_s == 2


def test_many_threads_decode_at_once_and_each_gets_its_own(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.flac", torch.full((1, 8000), i / 100), 8000) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        clips = list(pool.map(decode, files))
    for i, clip in enumerate(clips):
        assert torch.allclose(clip.samples, torch.full((1, 8000), i / 100), atol=1e-4)


def test_nothing_but_the_wanted_files_is_left_on_disk(tmp_path: Path, source: Path) -> None:
    decode(source)
    encode(chords(0.1), RATE, tmp_path / "a.wav", "wav", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert [path.name for path in source.parent.iterdir()] == [source.name]


# Refusals


def zipped_mp3(source: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("song.mp3", ffmpeg("-i", source, "-id3v2_version", "0", "-f", "mp3", "-"))
    return file.getvalue()


NOT_AUDIO: dict[str, Callable[[Path], bytes]] = {
    "one byte": lambda _: b"\0",
    "text": lambda _: b"This is a song about a file that is not one.\n" * 100,
    "utf-16 text": lambda _: ("\ufeff" + "not a song\n" * 500).encode("utf-16-le"),
    "json": lambda _: b'{"prompt": "drums"}',
    "html": lambda _: b"<!doctype html><title>404</title>",
    "zeros": lambda _: bytes(100_000),
    "noise": lambda _: np.random.default_rng(0).bytes(100_000),
    "png": lambda _: ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=d=1", "-frames:v", "1", "-c:v", "png", "-f", "image2pipe", "-"
    ),
    "jpeg": lambda _: ffmpeg("-f", "lavfi", "-i", "testsrc2=d=1", "-frames:v", "1", "-f", "mjpeg", "-"),
    "zip with an mp3": zipped_mp3,
    "midi": lambda _: b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0",
    "half a magic number": lambda _: b"RIFF",
    "avi": lambda _: b"RIFF\0\1\0\0AVI LIST" + bytes(100),
    "an ID3 tag alone": lambda _: b"ID3\3\0\0\0\0\0\x0a" + bytes(10),
    "an ID3 tag past the end": lambda _: b"ID3\3\0\0\x7f\x7f\x7f\x7f" + bytes(10),
}


@pytest.mark.parametrize("what", NOT_AUDIO)
def test_what_is_not_audio_is_refused_by_its_first_bytes(tmp_path: Path, source: Path, what: str) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(NOT_AUDIO[what](source))
    error = refusal(path)
    assert error.field == "input_audio"
    assert "not audio" in str(error)
    assert "wav" in str(error)


def test_tags_without_end_are_not_followed(tmp_path: Path, source: Path) -> None:
    mp3 = ffmpeg("-i", source, "-id3v2_version", "0", "-f", "mp3", "-")
    empty_tag = b"ID3\3\0\0\0\0\0\0"
    (tmp_path / "a.mp3").write_bytes(empty_tag * 3 + mp3)
    assert decode(tmp_path / "a.mp3").duration_s == pytest.approx(2, abs=0.1)
    (tmp_path / "a.mp3").write_bytes(empty_tag * 1_000_000 + mp3)
    start = time.monotonic()
    assert "not audio" in str(refusal(tmp_path / "a.mp3"))
    assert time.monotonic() - start < 1  # 7 s when each was followed, and 140 s within the limit of size


SCRIPTS = {
    "ffconcat": "ffconcat version 1.0\nfile '{0}'\n",
    "concat list": "file '{0}'\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:{0}\n#EXT-X-ENDLIST\n",
    "HLS, upper case header only": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nconcat:{0}|{0}\n#EXT-X-ENDLIST\n",
    "plain m3u": "{0}\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "DASH": '<?xml version="1.0"?><MPD><Period><AdaptationSet><BaseURL>{0}</BaseURL></AdaptationSet></Period></MPD>',
    "data URI": "data:audio/wav;base64,UklGRg==",
    "subtitle": "1\n00:00:00,000 --> 00:00:02,000\n{0}\n",
    "ffmetadata": ";FFMETADATA1\ntitle=x\n",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("before", ["", "ID3 tag", "wav header", "mp3 frames"])
def test_a_playlist_or_script_opens_nothing(tmp_path: Path, source: Path, script: str, before: str) -> None:
    """The sentinel is a real wav beside the script; nothing of its two seconds may come out."""
    text = SCRIPTS[script].format(source).encode()
    if before == "ID3 tag":
        text = b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + text
    elif before == "wav header":
        text = b"RIFF" + struct.pack("<I", len(text) + 4) + b"WAVE" + text
    elif before == "mp3 frames":
        silence = ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", "0.1", "-id3v2_version", "0", "-f", "mp3", "-")
        text = silence + text
    path = tmp_path / "song.wav"
    path.write_bytes(text)
    if before == "mp3 frames":
        clip = decode(path)  # it is audio: the silence before the script
        assert clip.duration_s < 0.3
        assert clip.samples.abs().max() < 1e-4
    else:
        refusal(path)


def test_ffmpeg_left_to_itself_would_have_opened_the_sentinel(tmp_path: Path, source: Path) -> None:
    """What the refusal guards against is real: the same ffmpeg, asked without our arguments, follows the script."""
    (tmp_path / "song.wav").write_text(SCRIPTS["ffconcat"].format(source))
    command = ["-safe", "0", "-i", tmp_path / "song.wav", "-f", "f32le", "-"]
    assert len(ffmpeg(*command)) == 2 * 2 * RATE * 4


def wav(rate: int = RATE, channels: int = 1, data: bytes = bytes(4000)) -> bytes:
    block = channels * 2
    header = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block % 2**16, 16)
    return b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0" + header + b"data" + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    "data",
    [
        wav(rate=0),
        wav(rate=100),
        wav(rate=1_000_000),
        wav(rate=4_000_000_000),
        wav(channels=0),
        wav(channels=65_535),
        wav(channels=64),
        wav(data=b""),
        wav()[:30],
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(100),
        b"\0\0\0\x18ftypM4A " + bytes(100),
        b"FORM\0\0\1\0AIFF" + bytes(100),
    ],
)
def test_an_absurd_or_broken_header_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    assert refusal(tmp_path / "a.wav").field == "input_audio"


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:d=1", "-c:v", "mpeg4", tmp_path / "a.mp4")
    assert "no audio" in str(refusal(tmp_path / "a.mp4"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "empty" in str(refusal(tmp_path / "a.wav"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path, tmp_path / "missing.wav", tmp_path / "pipe.wav"):
        assert "cannot be read" in str(refusal(path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 32767.0])
def test_samples_that_are_not_numbers_or_far_off_the_scale_are_refused(tmp_path: Path, value: float) -> None:
    samples = chords().clone()
    samples[1, 70_000] = value
    write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert "±1" in str(refusal(tmp_path / "a.wav"))
    assert torch.equal(decode(tmp_path / "a.wav", 0, 1).samples, samples[:, :RATE])  # outside the window they may be


@pytest.mark.parametrize("start_s", [2, 3, 1e6])
def test_a_start_at_or_past_the_end_names_the_start_and_the_length(source: Path, start_s: float) -> None:
    error = refusal(source, start_s)
    assert error.field == "continuation_start"
    assert "lasts 2.00 s" in str(error)


@pytest.mark.parametrize("end_s", [None, 10**300 + 1])
def test_a_start_that_no_machine_word_holds_is_past_the_end(source: Path, end_s: int | None) -> None:
    for start_s in (2**62, 2**63, 10**300):
        with pytest.raises(InputError, match=r"lasts 2\.00 s") as caught:
            decode(source, start_s, end_s)
        assert caught.value.field == "continuation_start"


@pytest.mark.parametrize("end_s", [1.0, 0.5, 0.0])
def test_an_empty_window_is_refused(source: Path, end_s: float) -> None:
    assert refusal(source, 1.0, end_s).field == "continuation_end"


def test_each_limit_is_named_when_it_is_reached(source: Path) -> None:
    assert "the limit is 0.5 MB" in str(refusal(source, file_bytes=500_000))
    assert "longer than 0.025 minutes" in str(refusal(source, clip_s=1.5))
    assert "more than 0.1 MB" in str(refusal(source, window_bytes=100_000))
    assert "longer than 0.001 s" in str(refusal(source, wall_s=0.001))
    assert decode(source, 0, 1, limits=Limits(clip_s=1.5)).duration_s == 1


def test_the_decoder_dies_at_its_memory_limit(source: Path) -> None:
    assert refusal(source, memory_bytes=64 << 20).field == "input_audio"


def test_a_small_file_of_forty_minutes_is_refused(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "2400", "-c:a", "flac", tmp_path / "a.flac")
    assert (tmp_path / "a.flac").stat().st_size < 500_000
    assert "longer than 30 minutes" in str(refusal(tmp_path / "a.flac"))


# Resampling and loudness


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_099, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_resampling_keeps_length_and_content(rate: int, channels: int) -> None:
    low = torch.sin(2 * torch.pi * 440 * torch.arange(2 * rate) / rate)[None]
    got = resample(Clip(low, rate), 32_000, channels)
    assert got.shape[0] == channels
    assert got.shape[1] == 64_000
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(got.shape[1]) / 32_000).expand(channels, -1)
    assert snr_db(got[:, 1000:-1000], expected[:, 1000:-1000]) > 60


@pytest.mark.parametrize("rate", [44_100, 44_099, 192_000, 767_999, 768_000])
def test_less_than_one_sample_at_the_new_rate_becomes_one(rate: int) -> None:
    assert resample(Clip(torch.ones(1, 1), rate), 32_000, 2).shape == (2, 1)


def test_resampling_at_a_common_rate_is_audiocrafts() -> None:
    from audiocraft_ext.upstream import convert_audio

    assert torch.equal(resample(Clip(chords(), RATE), 32_000, 1), convert_audio(chords(), RATE, 32_000, 1))


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
@pytest.mark.parametrize("gain", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_normalising_is_audiocrafts(strategy: str, gain: float, channels: int) -> None:
    from audiocraft_ext.upstream import normalize_audio

    samples = chords(channels=channels) * gain
    before = samples.clone()
    expected = normalize_audio(samples.clone(), strategy=strategy, sample_rate=RATE)
    got = normalise(samples, RATE, strategy)  # type: ignore[arg-type]
    assert torch.equal(got, expected)
    assert torch.equal(samples, before)
    assert got.abs().max() <= 1


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(torch.zeros(2, 32_000), id="silence"),
        pytest.param(torch.zeros(1, 1), id="one silent sample"),
        pytest.param(torch.full((1, 32_000), 1e-6), id="less than half a step"),
    ],
)
def test_silence_stays_silence(strategy: str, samples: Tensor) -> None:
    assert torch.equal(normalise(samples, 32_000, strategy), samples)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(torch.ones(1, 32_000), id="a constant, inaudible to the meter"),
        pytest.param(torch.tensor([[0.5], [-0.5]]).repeat(1, 32_000), id="a constant out of phase"),
        pytest.param(chords(1, 1) * torch.tensor([[1.0], [-1.0]]), id="out of phase: the mono mix is silent"),
        pytest.param(torch.nn.functional.pad(torch.full((1, 10), 3.0), (0, 64_000)), id="a click in silence"),
        pytest.param(torch.full((2, 1), 0.3), id="one sample"),
        pytest.param(chords(0.1) * 1e6, id="far above full scale"),
    ],
)
def test_nothing_normalises_to_nan_or_above_full_scale(strategy: str, samples: Tensor) -> None:
    got = normalise(samples, 32_000, strategy)  # type: ignore[arg-type]
    assert got.shape == samples.shape
    assert got.isfinite().all()
    assert got.abs().max() <= 1


def test_a_tenth_of_a_second_gets_the_loudness_of_its_loop() -> None:
    short = torch.randn(1, 3_200, generator=torch.Generator().manual_seed(1)) * 0.01
    looped = short.repeat(1, 10)
    gain, gain_of_loop = (float(normalise(x, 32_000, "loudness").norm() / x.norm()) for x in (short, looped))
    assert gain == pytest.approx(gain_of_loop, rel=0.05)


# Writing


def tags_of(path: Path) -> dict[str, str]:
    """What ffmpeg, another program as far as this goes, reads back."""
    lines = ffmpeg("-i", path, "-f", "ffmetadata", "-").decode().replace("\\\n", "\x00").splitlines()[1:]
    pairs = (line.split("=", 1) for line in lines)
    return {name: value.replace("\x00", "\n").replace("\\", "") for name, value in pairs}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("duration_s", [0.1, 1.0, 12_345 / 32_000])
def test_a_wav_has_16_bits_and_exactly_the_samples_given(tmp_path: Path, channels: int, duration_s: float) -> None:
    samples = chords(duration_s, channels, 32_000)
    encode(samples, 32_000, tmp_path / "a.wav", "wav", {"title": "x"})
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.subtype, info.samplerate, info.channels, info.frames) == ("PCM_16", 32_000, *samples.shape)
    written, _ = soundfile.read(tmp_path / "a.wav", dtype="int16", always_2d=True)
    assert np.array_equal(written.T, (samples * 2**15).round().short().numpy())


def test_full_scale_does_not_wrap_around(tmp_path: Path) -> None:
    encode(torch.tensor([[1.0, -1.0, 1.5, -1.5]]), 32_000, tmp_path / "a.wav", "wav", {})
    written, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert written.tolist() == [32767, -32768, 32767, -32768]


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_the_audio_is_byte_for_byte_what_audio_write_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: OutputFormat
) -> None:
    from audiocraft.data.audio import audio_write

    import audiocraft_ext.upstream  # noqa: F401  (audiocraft imports only through its stand-ins)

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(ffmpeg_path())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)  # audiocraft knows only this one
    samples = chords(1, 2, 32_000) * 5
    audio_write(tmp_path / "theirs", samples, 32_000, format=format, strategy="loudness", log_clipping=False)
    encode(normalise(samples, 32_000, "loudness"), 32_000, tmp_path / f"ours.{format}", format, {})
    ours, theirs = (
        ffmpeg("-i", tmp_path / f"{whose}.{format}", "-c", "copy", "-f", "data", "-map", "0:a", "-")
        for whose in ("ours", "theirs")
    )
    assert ours == theirs


def test_an_mp3_has_320_kbit_per_second_throughout_and_the_right_length(tmp_path: Path) -> None:
    samples = chords(3, 2, 32_000)
    encode(samples, 32_000, tmp_path / "a.mp3", "mp3", {"title": "x"})
    packets = ffmpeg("-i", tmp_path / "a.mp3", "-c", "copy", "-f", "framehash", "-").decode().splitlines()
    sizes = {int(line.split(",")[4]) for line in packets if not line.startswith("#")}
    assert sizes == {144 * 320_000 // 32_000}
    clip = decode(tmp_path / "a.mp3")
    assert clip.samples.shape == samples.shape
    assert snr_db(clip.samples, samples) > 25


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_tags_come_back_as_they_were(tmp_path: Path, format: OutputFormat) -> None:
    title = "drums; bass = #1 \\ 'quoted' \"twice\" + ünï 🎵\nsecond line"
    others = {"prompt": "p" * 200_000, "seed": "0", "temperature": "1.0", "nul": "a\0b\r\n"}
    encode(chords(0.1), RATE, tmp_path / f"a.{format}", format, {"title": title, "comment": "mine", **others})
    raw = ffmpeg("-i", tmp_path / f"a.{format}", "-f", "ffmetadata", "-").decode()
    assert "ünï 🎵" in raw
    tags = tags_of(tmp_path / f"a.{format}")
    assert tags["title"] == title.replace("\\", "")
    comment = raw.split("comment=", 1)[1].splitlines()[0]
    unescaped = comment.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    assert json.loads(unescaped) == {"comment": "mine", **others}


def test_a_seed_alone_is_readable_by_every_player_as_the_comment(tmp_path: Path) -> None:
    encode(chords(0.1), RATE, tmp_path / "a.wav", "wav", {"title": "x", "seed": "0"})
    assert b"ICMT" in (tmp_path / "a.wav").read_bytes()[:200]
    assert json.loads(tags_of(tmp_path / "a.wav")["comment"]) == {"seed": "0"}


def test_a_prompt_that_is_not_valid_unicode_does_not_fail(tmp_path: Path) -> None:
    encode(chords(0.1), RATE, tmp_path / "a.wav", "wav", {"title": "x\ud800y", "prompt": "\udfff"})
    assert tags_of(tmp_path / "a.wav")["title"] == "x?y"


def test_a_failed_write_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("old")
    with pytest.raises(RuntimeError, match="mp3"):
        encode(torch.zeros(40, 100), 32_000, tmp_path / "a.mp3", "mp3", {})  # no mp3 has 40 channels
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp3"]
    assert (tmp_path / "a.mp3").read_text() == "old"


def test_the_pinned_ffmpeg_comes_before_one_on_the_path_and_one_that_is_named_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ffmpeg").symlink_to(ffmpeg_path())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "imageio_ffmpeg" in ffmpeg_path()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/opt/ffmpeg")
    assert ffmpeg_path() == "/opt/ffmpeg"
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert ffmpeg_path() == str(tmp_path / "ffmpeg")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="no ffmpeg"):
        ffmpeg_path()
