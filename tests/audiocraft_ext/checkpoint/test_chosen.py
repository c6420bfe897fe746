"""What is loaded where none is asked for."""

from pathlib import Path

import pytest

from audiocraft_ext.checkpoint import chosen_weights, source
from audiocraft_ext.checkpoint.parts import DIFFUSION_FILE
from audiocraft_ext.errors import CheckpointError


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(source, "WEIGHTS_FOLDER", tmp_path / "weights")
    monkeypatch.delenv("MUSICGEN_WEIGHTS", raising=False)
    (tmp_path / "weights" / "demo").mkdir(parents=True)
    (tmp_path / "weights" / "demo" / "state_dict.bin").touch()
    (tmp_path / "weights" / "README.md").touch()
    return tmp_path / "weights"


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file.parent


def test_an_argument_comes_before_the_environment_the_files_in_weights_and_the_embedded_checkpoint(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_weights(None) == str(source.EMBEDDED)
    write(weights / "trained_model.tar")
    assert chosen_weights(None) == str(weights)
    monkeypatch.setenv("MUSICGEN_WEIGHTS", "someone/their-model")
    assert chosen_weights(None) == "someone/their-model"
    assert chosen_weights("mine") == "mine"


def test_a_checkpoint_s_folder_in_weights_is_loaded_as_its_files_there_are(weights: Path) -> None:
    mine = write(weights / "my-sound" / "state_dict.bin")
    assert chosen_weights(None) == str(mine)
    write(weights / "trained_model.tar")
    assert chosen_weights(None) == str(weights)


def test_what_a_checkpoint_names_is_taken_for_none(weights: Path) -> None:
    write(weights / "facebook" / "encodec_32khz" / "model.safetensors")
    write(weights / "t5-base" / "config.json", '{"model_type": "t5"}')
    write(weights / ".fetching" / "state_dict.bin")
    assert chosen_weights(None) == str(source.EMBEDDED)


def test_diffusion_weights_are_no_checkpoint(weights: Path) -> None:
    write(weights / DIFFUSION_FILE)
    write(weights / "theirs" / DIFFUSION_FILE)
    assert chosen_weights(None) == str(source.EMBEDDED)
    mine = write(weights / "my-sound" / "state_dict.bin")
    assert chosen_weights(None) == str(mine)
    write(weights / "trained_model.tar")
    assert chosen_weights(None) == str(weights)


def test_of_several_folders_none_is_played_in_another_s_name(weights: Path) -> None:
    write(weights / "mine" / "state_dict.bin")
    write(weights / "yours" / "config.json", '{"model_type": "musicgen"}')
    with pytest.raises(CheckpointError, match="weights/mine, weights/yours: leave one"):
        chosen_weights(None)
