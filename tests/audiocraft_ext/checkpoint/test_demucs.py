"""Demucs from safetensors; what names another class than demucs' own is refused before it is imported."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiocraft_ext.checkpoint.demucs import load_demucs
from audiocraft_ext.errors import CheckpointError
from tests.support import tiny_components


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_components.write_demucs(tmp_path)


def rewrite(folder: Path, **metadata: str) -> None:
    """The model's file with another header."""
    (file,) = folder.glob("*.safetensors")
    header = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": "{}", **metadata}
    save_file(load_file(file), file, header)


def test_demucs_has_the_file_s_weights(folder: Path) -> None:
    separator: Any = load_demucs(folder)
    assert separator.sources == ["drums", "bass", "other", "vocals"]
    assert not separator.training
    written, (loaded,) = tiny_components.demucs().state_dict(), separator.models
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in written.items())


def test_every_model_of_a_bag_is_loaded_with_its_weight(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    (folder / "second.safetensors").write_bytes(file.read_bytes())
    (folder / "htdemucs.yaml").write_text("models: ['955717e8', second]\nweights: [[1, 0, 1, 1], [0, 1, 1, 1]]\n")
    separator: Any = load_demucs(folder)
    assert len(separator.models) == 2
    assert separator.weights == [[1, 0, 1, 1], [0, 1, 1, 1]]


@pytest.mark.parametrize("name", ["antigravity.geohash", "os.system", "demucs.hf.load_safetensors_model", "HTDemucs"])
def test_a_file_that_names_another_class_is_refused(folder: Path, name: str) -> None:
    rewrite(folder, klass=name, args=json.dumps(["touch executed"]))
    with pytest.raises(CheckpointError, match=rf"955717e8\.safetensors is refused: .*{name}"):
        load_demucs(folder)
    assert "antigravity" not in sys.modules


def test_a_quantised_demucs_is_refused(folder: Path) -> None:
    rewrite(folder, structure=json.dumps({"_class": "antigravity.geohash"}))
    with pytest.raises(CheckpointError, match="quantised"):
        load_demucs(folder)
    assert "antigravity" not in sys.modules


def test_weights_that_do_not_fit_are_reported(folder: Path) -> None:
    rewrite(folder, kwargs=json.dumps({"sources": ["vocals", "other"], "channels": 8, "samplerate": 8000}))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_demucs(folder)


def test_a_truncated_file_is_reported(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_demucs(folder)
