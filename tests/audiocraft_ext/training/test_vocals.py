"""Songs without vocals: the other stems of Demucs, once; pieces are cut from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from audiocraft_ext.audio.read import read as read_audio
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.errors import CheckpointError, InputError
from audiocraft_ext.training import vocals
from audiocraft_ext.training.dataset import Dataset
from tests.support import tiny_components
from tests.support.songs import song

Read = Callable[..., Dataset]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with a tiny Demucs."""
    tiny_components.write_demucs(tmp_path / "weights")
    monkeypatch.setattr(source, "WEIGHTS_FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


def test_pieces_are_of_the_other_stems(
    weights: Path, tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        song(tmp_path / "songs" / f"{name}.wav", 7.0)
    data = read(tmp_path / "songs", drop_vocals=True)
    piece = data.train[0]
    from demucs.apply import apply_model

    demucs: Any = tiny_components.demucs()
    mix = resample(read_audio(tmp_path / "songs" / piece.song), 8000, 2)
    stems = apply_model(demucs.eval(), mix[None], shifts=0)[0]
    expected = stems.sum(0) - stems[demucs.sources.index("vocals")]
    torch.testing.assert_close(read_audio(piece.path).samples, expected, rtol=0, atol=1e-6)
    assert {piece.song for piece in data.held_out} == {piece.song for piece in read(tmp_path / "songs").held_out}

    monkeypatch.setattr("demucs.apply.apply_model", lambda *_, **__: pytest.fail("separated again"))
    assert read(tmp_path / "songs", drop_vocals=True) == data


def test_faults_are_raised_before_separation(weights: Path, tmp_path: Path, read: Read) -> None:
    song(tmp_path / "songs" / "a.wav")
    song(tmp_path / "songs" / "b.wav", 1.0)
    with pytest.raises(InputError, match=r"b\.wav: it lasts 1\.0 s"):
        read(tmp_path / "songs", drop_vocals=True)
    assert not (tmp_path / "work").exists()


def test_without_demucs_dropping_vocals_is_refused(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise CheckpointError("It is nowhere.")

    monkeypatch.setattr(vocals, "locate_model", fail)
    with pytest.raises(
        InputError, match=r"^drop_vocals: true, .* cannot be loaded\. It is nowhere\. Or set it to false"
    ):
        read(song(tmp_path / "a.wav"), drop_vocals=True)
