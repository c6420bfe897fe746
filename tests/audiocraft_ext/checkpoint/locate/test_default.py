"""The default checkpoint."""

from pathlib import Path

import pytest

from audiocraft_ext.checkpoint import default_weights
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_FILE
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


def test_order_is_argument_environment_weights_embedded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_weights(None) == str(source.EMBEDDED)
    write(weights / "trained_model.tar")
    assert default_weights(None) == str(weights)
    monkeypatch.setenv("MUSICGEN_WEIGHTS", "someone/their-model")
    assert default_weights(None) == "someone/their-model"
    assert default_weights("mine") == "mine"


def test_the_only_checkpoint_folder_in_weights_is_the_default(weights: Path) -> None:
    mine = write(weights / "my-sound" / "state_dict.bin")
    assert default_weights(None) == str(mine)
    write(weights / "trained_model.tar")
    assert default_weights(None) == str(weights)


def test_component_folders_are_not_checkpoints(weights: Path) -> None:
    write(weights / "facebook" / "encodec_32khz" / "model.safetensors")
    write(weights / "t5-base" / "config.json", '{"model_type": "t5"}')
    write(weights / ".fetching" / "state_dict.bin")
    assert default_weights(None) == str(source.EMBEDDED)


def test_diffusion_weights_are_not_a_checkpoint(weights: Path) -> None:
    write(weights / DIFFUSION_FILE)
    write(weights / "theirs" / DIFFUSION_FILE)
    assert default_weights(None) == str(source.EMBEDDED)
    mine = write(weights / "my-sound" / "state_dict.bin")
    assert default_weights(None) == str(mine)
    write(weights / "trained_model.tar")
    assert default_weights(None) == str(weights)


def test_several_checkpoint_folders_are_refused(weights: Path) -> None:
    write(weights / "mine" / "state_dict.bin")
    write(weights / "yours" / "config.json", '{"model_type": "musicgen"}')
    with pytest.raises(CheckpointError, match=r"weights/mine, weights/yours\. Set MUSICGEN_WEIGHTS"):
        default_weights(None)
