"""Reading and writing of files that end when the caller leaves."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiocraft_ext.audio import decode, encode
from audiocraft_ext.errors import Cancelled


def leave() -> None:
    raise Cancelled


def test_a_window_is_read_up_to_the_seconds_that_are_wanted(tmp_path: Path) -> None:
    ramp = np.arange(80_000, dtype=np.float32) / 80_000
    soundfile.write(tmp_path / "a.wav", ramp, 8000, subtype="FLOAT")
    clip = decode(tmp_path / "a.wav", 2, at_most_s=3.00001)
    assert clip.samples[0].tolist() == ramp[16_000:40_001].tolist()
    assert decode(tmp_path / "a.wav", 2, 4, at_most_s=3).duration_s == 2


def test_what_was_not_wanted_is_no_end_before_the_one_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(80_000), 8000)
    decode(tmp_path / "a.wav", 0, 9, at_most_s=3)
    assert caplog.text == ""
    decode(tmp_path / "a.wav", 8, 11, at_most_s=3)
    assert "past the end of the clip" in caplog.text


def test_reading_ends_when_the_caller_leaves(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(29 * 60 * 8000), 8000)
    with pytest.raises(Cancelled):
        decode(tmp_path / "a.flac", 28 * 60, check=leave)


def test_writing_ends_when_the_caller_leaves_and_no_file_is_left(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):  # an mp3 of twenty minutes takes longer than a tenth of a second
        encode(torch.zeros(2, 20 * 60 * 48_000), 48_000, tmp_path / "a.mp3", "mp3", {}, leave)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_to_write_is_told_though_its_reason_is_no_text(tmp_path: Path) -> None:
    # The last five hundred bytes of a reason may begin within a letter; of these two, one does.
    for name in ("a", "aa"):
        path = tmp_path.joinpath(*(["ü" * 120] * 3), name, "a.wav")
        with pytest.raises(RuntimeError, match="could not write the wav"):
            encode(torch.zeros(1, 100), 48_000, path, "wav", {})
