"""Reading with the real ffmpeg: every format, odd but valid files, and the exact cut."""

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiocraft_ext.audio.read import Clip, read
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.audio.write import write as write_clip
from tests.support.audio_files import RATE, chords, correlation, ffmpeg, snr_db, write

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = Path(__file__).parent / "cases"
LEVEL_OF = {"pcm_u8": 25, "pcm_alaw": 25, "pcm_mulaw": 25}  # dB of signal over error; all other PCM is better than 80


@pytest.mark.parametrize("codec", ["u8", "s16le", "s24le", "s32le", "f32le", "f64le", "alaw", "mulaw"])
@pytest.mark.parametrize("name", ["plain.wav", "rf64.wav"])
def test_every_sample_format_of_wav_is_read(tmp_path: Path, source: Path, codec: str, name: str) -> None:
    rf64 = ["-rf64", "always"] if name == "rf64.wav" else []
    ffmpeg("-i", source, "-c:a", f"pcm_{codec}", *rf64, tmp_path / name)
    clip = read(tmp_path / name)
    assert clip.sample_rate == RATE
    assert clip.samples.shape == chords().shape
    assert snr_db(clip.samples, chords()) > LEVEL_OF.get(f"pcm_{codec}", 65)


def test_an_extensible_wav_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", chords(), format="WAVEX", subtype="PCM_24")
    assert path.read_bytes()[20:22] == b"\xfe\xff"
    assert snr_db(read(path).samples, chords()) > 80


def test_a_mono_wav_marked_as_left_keeps_its_level(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", chords(channels=1), format="WAVEX", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", 1)  # channel mask: front left
    path.write_bytes(data)
    assert snr_db(read(path).samples, chords(channels=1)) > 65


@pytest.mark.parametrize(
    ("name", "rate", "shape", "tones_hz", "peak"),
    [
        ("24_valid_bits_in_32.wav", 16_000, (2, 16_000), [220, 331], 0.300),
        ("16_valid_bits_in_24.wav", 16_000, (2, 16_000), [220, 331], 0.300),
        ("id3_before_riff.wav", 16_000, (1, 8_000), [220], 0.300),
        ("plain.mp3", 44_100, (1, 22_050), [220], 0.285),
        ("pad4k_after_id3.mp3", 44_100, (1, 22_050), [220], 0.285),
        ("lead_zeros_4k.mp3", 44_100, (1, 22_050), [220], 0.285),
        ("nonsync_id3.mp3", 44_100, (1, 22_050), [220], 0.285),  # a tag's size in eighths of bits, not in sevenths
        ("frames2.mp3", 44_100, (2, 2 * 1152), [220, 331], 0.286),
        ("noftyp_wide.mov", 44_100, (2, 132_300), [220, 331], 0.535),
    ],
)
def test_odd_files_that_people_have_are_read_whole(
    name: str, rate: int, shape: tuple[int, int], tones_hz: list[int], peak: float
) -> None:
    clip = read(CASES / name)
    assert (clip.sample_rate, clip.samples.shape) == (rate, shape)
    assert clip.samples.abs().max() == pytest.approx(peak, abs=0.001)
    bins = torch.fft.rfft(clip.samples).abs().argmax(dim=-1)
    assert (bins * rate / shape[1]).tolist() == pytest.approx(tones_hz, abs=rate / shape[1])


def test_padding_and_tags_before_an_mp3_change_no_sample() -> None:
    plain = read(CASES / "plain.mp3").samples
    for name in ("pad4k_after_id3.mp3", "lead_zeros_4k.mp3", "nonsync_id3.mp3"):
        assert torch.equal(read(CASES / name).samples, plain), name


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
    clip = read(misnamed)
    expected = chords()
    if clip.sample_rate != RATE:
        assert clip.sample_rate == 48_000  # opus knows no other
        expected = resample(Clip(expected, RATE), 48_000, 2)
    excess = clip.samples.shape[-1] - expected.shape[-1]
    assert 0 <= excess <= largest_excess_samples
    assert correlation(clip.samples, expected) > 0.995
    if largest_excess_samples <= 1024:  # the others say nowhere how much the encoder put before the first sample
        assert snr_db(clip.samples[:, : expected.shape[-1]], expected) > 20  # so it is not shifted by a sample either


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.flac", "a.mp4", "a.webm"])
def test_cover_art_and_video_are_ignored(tmp_path: Path, source: Path, name: str) -> None:
    still = name not in ("a.mp4", "a.webm")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=320x240:r=5", "-t", 0.2 if still else 2, "-c:v", "png", tmp_path / "v.mkv")
    codec = ["-c:v", "copy", "-disposition:v", "attached_pic"]
    if not still:
        codec = ["-c:v", "libvpx", "-c:a", "libopus"] if name == "a.webm" else ["-c:v", "mpeg4"]
    ffmpeg("-i", source, "-i", tmp_path / "v.mkv", "-map", "1", "-map", "0", *codec, tmp_path / name)
    assert read(tmp_path / name).duration_s == pytest.approx(2, abs=1024 / RATE)


def test_an_mp3_cut_out_of_a_stream_is_read(tmp_path: Path, source: Path) -> None:
    ffmpeg("-i", source, "-b:a", "128k", "-id3v2_version", "0", tmp_path / "a.mp3")
    (tmp_path / "b.mp3").write_bytes((tmp_path / "a.mp3").read_bytes()[5000:])
    samples = read(tmp_path / "b.mp3").samples
    assert correlation(samples, chords()[:, -samples.shape[-1] :]) > 0.9


def test_a_float_wav_above_full_scale_keeps_its_peaks(tmp_path: Path) -> None:
    loud = chords() * 12
    assert loud.abs().max() > 4
    assert torch.equal(read(write(tmp_path / "a.wav", loud, subtype="FLOAT")).samples, loud)


@pytest.mark.parametrize("n_channels", [9, 11, 32, 64])
def test_of_channels_without_a_layout_the_first_two_are_read(tmp_path: Path, n_channels: int) -> None:
    samples = torch.cat([chords(channels=2), torch.rand(n_channels - 2, chords().shape[-1])])
    assert snr_db(read(write(tmp_path / "a.wav", samples, subtype="PCM_16")).samples, chords(channels=2)) > 65


def test_more_than_two_channels_are_mixed_down(tmp_path: Path) -> None:
    surround = chords(channels=1).repeat(6, 1) * 2
    clip = read(write(tmp_path / "a.wav", surround, subtype="FLOAT"))
    assert clip.samples.shape == (2, surround.shape[-1])
    assert clip.samples.abs().max() <= surround.abs().max() + 1e-6
    assert correlation(clip.samples, surround[:2]) > 0.999


@pytest.mark.parametrize("rate", [1_000, 8_000, 22_050, 96_000, 192_000])
def test_the_sample_rate_is_the_files_own(tmp_path: Path, rate: int) -> None:
    clip = read(write(tmp_path / "a.wav", chords(0.5, 1, rate), rate, subtype="FLOAT"))
    assert (clip.sample_rate, clip.duration_s) == (rate, 0.5)


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 1), (0.5, 1.5), (1, None), (1 / 3, 1.7), (0, 2), (1.99, 2)])
def test_the_cut_is_exact_to_the_sample(
    source: Path, start_s: float, end_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    clip = read(source, start_s, end_s)
    last = None if end_s is None else round(end_s * RATE)
    assert torch.equal(clip.samples, chords()[:, round(start_s * RATE) : last])
    assert not caplog.text


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.m4a"])
def test_a_cut_of_a_compressed_file_is_a_slice_of_the_whole(tmp_path: Path, source: Path, name: str) -> None:
    ffmpeg("-i", source, tmp_path / name)
    whole = read(tmp_path / name).samples
    assert torch.equal(read(tmp_path / name, 0.7, 1.3).samples, whole[:, round(0.7 * RATE) : round(1.3 * RATE)])


def test_an_end_past_the_end_is_clamped_and_logged(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = read(source, 1, 30)
    assert clip.duration_s == 1
    assert "continuation_end, 30 s, is past the end of the clip: using its end, 2.00 s" in caplog.text


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg"])
def test_a_truncated_file_is_read_as_far_as_it_goes(tmp_path: Path, source: Path, name: str) -> None:
    ffmpeg("-i", source, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    clip = read(tmp_path / name)
    assert 0.5 < clip.duration_s < 1.9
    assert correlation(clip.samples, chords()[:, : clip.samples.shape[-1]]) > 0.95


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 1 << 30])
def test_a_wav_whose_header_was_never_finished_is_read(tmp_path: Path, claimed: int) -> None:
    path = write(tmp_path / "a.wav", chords(), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", claimed)
    path.write_bytes(data)
    assert read(path).duration_s == 2


def test_many_threads_read_at_once_each_its_own_file(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.flac", torch.full((1, 8000), i / 100), 8000) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        clips = list(pool.map(read, files))
    for i, clip in enumerate(clips):
        assert torch.allclose(clip.samples, torch.full((1, 8000), i / 100), atol=1e-4)


def test_reading_and_writing_leave_no_other_files(tmp_path: Path, source: Path) -> None:
    read(source)
    write_clip(chords(0.1), RATE, tmp_path / "a.wav", "wav", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_a_window_is_read_up_to_max_s(tmp_path: Path) -> None:
    ramp = np.arange(80_000, dtype=np.float32) / 80_000
    soundfile.write(tmp_path / "a.wav", ramp, 8000, subtype="FLOAT")
    clip = read(tmp_path / "a.wav", 2, max_s=3.00001)
    assert clip.samples[0].tolist() == ramp[16_000:40_001].tolist()
    assert read(tmp_path / "a.wav", 2, 4, max_s=3).duration_s == 2


def test_max_s_within_the_clip_logs_no_clamped_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(80_000), 8000)
    read(tmp_path / "a.wav", 0, 9, max_s=3)
    assert caplog.text == ""
    read(tmp_path / "a.wav", 8, 11, max_s=3)
    assert "past the end of the clip" in caplog.text
