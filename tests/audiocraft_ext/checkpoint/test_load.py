"""The loaded checkpoint, whatever format it has."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from audiocraft_ext import checkpoint
from tests.support import tiny
from tests.support.imports import FILES, ROOT, imports_of, room_of


def assert_same_weights(folder: Path, package: dict[str, Any]) -> None:
    loaded, original = checkpoint.load(str(folder), "cpu").lm.state_dict(), package["best_state"]
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


def test_an_export_loads_in_eval_mode_with_its_config(export: Path, package: dict[str, Any]) -> None:
    loaded = checkpoint.load(str(export), "cpu")
    assert not loaded.lm.training
    assert not loaded.codec.training
    assert loaded.lm.cfg.dataset.segment_duration == tiny.WINDOW_S
    assert not loaded.follows_melody
    assert_same_weights(export, package)


def test_half_precision_weights_load_as_float32_on_the_cpu(package: dict[str, Any], without_lm: Path) -> None:
    package["best_state"] = {key: value.half() for key, value in package["best_state"].items()}
    torch.save(package, without_lm / "lm.bin")
    assert {value.dtype for value in checkpoint.load(str(without_lm), "cpu").lm.state_dict().values()} == {
        torch.float32
    }


def test_a_wrapper_s_prefix_is_stripped(package: dict[str, Any], without_lm: Path) -> None:
    state = {f"module.lm.{name}": value for name, value in package["best_state"].items()}
    torch.save({"model": state}, without_lm / "lm.pt")
    assert_same_weights(without_lm, package)


def test_training_keys_are_dropped(package: dict[str, Any], without_lm: Path) -> None:
    config = OmegaConf.create(package["xp.cfg"])
    config.conditioners.args = {"merge_text_conditions_p": 0.25, "drop_desc_p": 0.5}
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, without_lm / "lm.bin")
    assert_same_weights(without_lm, package)


def test_a_reference_within_the_config_is_followed(package: dict[str, Any], without_lm: Path) -> None:
    config = OmegaConf.create(package["xp.cfg"])
    config.encoder = "text_encoder"
    config.conditioners.description.t5.name = "${encoder}"
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, without_lm / "lm.bin")
    assert_same_weights(without_lm, package)


def test_the_rest_of_the_package_imports_only_the_facade() -> None:
    offered = {f"audiocraft_ext.checkpoint.{name}" for name in checkpoint.__all__}
    rooms = ("checkpoint", "training")  # a trainer writes what checkpoint reads
    for path in [*(path for path in FILES if room_of(path) not in rooms), ROOT / "predict.py"]:
        below = {name for name in imports_of(path) if name.startswith("audiocraft_ext.checkpoint.")}
        assert below <= offered, path
