"""A checkpoint in each of the wrappings that are read, and in some that are refused."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import infer
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.language_model import Settings
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.upstream import builders
from tests import tiny
from tests.audiocraft_ext.test_request import DEFAULTS


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("export"), "text")


@pytest.fixture
def rewrapped(export: Path, tmp_path: Path) -> Path:
    """A folder with the export's codec and text encoder, whose LM is yet to be written."""
    (tmp_path / "text_encoder").symlink_to(export / "text_encoder")
    (tmp_path / "codec.bin").symlink_to(export / "compression_state_dict.bin")
    return tmp_path


def lm_package(export: Path) -> dict[str, Any]:
    package: dict[str, Any] = torch.load(export / "state_dict.bin")
    return package


def assert_same_weights(folder: Path, export: Path) -> None:
    loaded = checkpoint.load(str(folder), "cpu").lm.state_dict()
    original = lm_package(export)["best_state"]
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


def test_an_export_loads_in_eval_mode_with_its_config(export: Path) -> None:
    loaded = checkpoint.load(str(export), "cpu")
    assert not loaded.lm.training
    assert not loaded.codec.training
    assert loaded.lm.cfg.dataset.segment_duration == tiny.WINDOW_S
    assert not loaded.follows_melody
    assert_same_weights(export, export)


def test_a_melody_checkpoint_is_set_as_audiocraft_s_get_pretrained_sets_it(tmp_path: Path) -> None:
    loaded = checkpoint.load(str(tiny.write(tmp_path, "melody")), "cpu")
    melody = loaded.lm.condition_provider.conditioners["self_wav"]
    assert loaded.follows_melody
    assert melody.match_len_on_eval is True
    assert melody._use_masking is False


def test_half_precision_weights_load_as_float32_on_the_cpu(export: Path, rewrapped: Path) -> None:
    package = lm_package(export)
    package["best_state"] = {key: value.half() for key, value in package["best_state"].items()}
    torch.save(package, rewrapped / "lm.bin")
    assert {value.dtype for value in checkpoint.load(str(rewrapped), "cpu").lm.state_dict().values()} == {torch.float32}


def test_a_fine_tuner_s_trained_model_tar_loads(export: Path, rewrapped: Path) -> None:
    package = lm_package(export)
    config = OmegaConf.create(package["xp.cfg"])
    torch.save({"xp.cfg": config, "model": package["best_state"]}, rewrapped / "trained_model.tar")
    assert_same_weights(rewrapped, export)


@pytest.mark.parametrize("best", ["fsdp_best_state", "best_state"])
def test_a_dora_checkpoint_loads_its_best_state(export: Path, rewrapped: Path, best: str) -> None:
    package = lm_package(export)
    last = {key: torch.zeros_like(value) for key, value in package["best_state"].items()}
    states = {"fsdp_best_state": {}, "best_state": {"model": last}, best: {"model": package["best_state"]}}
    config = OmegaConf.create(package["xp.cfg"])
    torch.save({"xp.cfg": config, "model": last, **states, "optimizer": {}}, rewrapped / "checkpoint.th")
    assert_same_weights(rewrapped, export)


WITHOUT_CONFIG = {
    "continue-from": lambda state: {"best_state": {"model": state}},
    "bare": lambda state: state,
    "lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3},
    "wrapped": lambda state: {"model": {f"module.lm.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("wrapping", WITHOUT_CONFIG)
def test_a_checkpoint_without_a_config_has_it_inferred_from_its_shapes(
    export: Path, rewrapped: Path, wrapping: str, caplog: pytest.LogCaptureFixture
) -> None:
    package = lm_package(export)
    torch.save(WITHOUT_CONFIG[wrapping](package["best_state"]), rewrapped / "last.ckpt")
    assert_same_weights(rewrapped, export)
    inferred = checkpoint.load(str(rewrapped), "cpu").lm.cfg
    written = OmegaConf.create(package["xp.cfg"])
    assert {**written.transformer_lm, **inferred.transformer_lm} == {
        **inferred.transformer_lm,
        **written.transformer_lm,
    }
    assert inferred.codebooks_pattern == written.codebooks_pattern
    assert inferred.fuser == written.fuser
    assert inferred.interleave_stereo_codebooks == written.interleave_stereo_codebooks
    assert "4 codebooks of 64, 2 layers of 128, text" in caplog.text


@pytest.mark.parametrize("kind", ["melody", "stereo"])
def test_melody_and_stereo_are_told_from_the_shapes(tmp_path: Path, kind: tiny.Kind) -> None:
    package = lm_package(tiny.write(tmp_path, kind))
    inferred = infer.config_of(package["best_state"])
    written = OmegaConf.create(package["xp.cfg"])
    assert inferred.fuser == written.fuser
    assert inferred.codebooks_pattern == written.codebooks_pattern
    assert inferred.interleave_stereo_codebooks == written.interleave_stereo_codebooks
    assert set(inferred.conditioners) == set(written.conditioners)


def test_an_lm_in_safetensors_loads(export: Path, rewrapped: Path) -> None:
    save_file(lm_package(export)["best_state"], rewrapped / "lm.safetensors")
    assert_same_weights(rewrapped, export)


def test_one_model_in_every_wrapping_makes_the_same_greedy_tokens(export: Path, rewrapped: Path) -> None:
    state = lm_package(export)["best_state"]
    config = OmegaConf.create(lm_package(export)["xp.cfg"])
    packages = [lm_package(export), {"xp.cfg": config, "model": state}]
    packages += [wrap(state) for wrap in WITHOUT_CONFIG.values()]
    made = []
    for package in packages:
        torch.save(package, rewrapped / "lm.bin")
        request = Request.checked(**{**DEFAULTS, "prompt": "bass", "duration": 1, "temperature": 0})
        made.append(Model(checkpoint.load(str(rewrapped), "cpu"), Settings()).generate(request, None, Progress()))
    assert all(torch.equal(samples, made[0]) for samples in made)


def test_training_keys_of_the_trainer_s_machine_are_dropped(export: Path, rewrapped: Path) -> None:
    package = lm_package(export)
    config = OmegaConf.create(package["xp.cfg"])
    config.conditioners.args = {"merge_text_conditions_p": 0.25, "drop_desc_p": 0.5}
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, rewrapped / "lm.bin")
    assert_same_weights(rewrapped, export)


def test_a_reference_within_the_config_is_followed(export: Path, rewrapped: Path) -> None:
    package = lm_package(export)
    config = OmegaConf.create(package["xp.cfg"])
    config.encoder = "text_encoder"
    config.conditioners.description.t5.name = "${encoder}"
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, rewrapped / "lm.bin")
    assert_same_weights(rewrapped, export)


def test_an_lm_alone_asks_for_the_public_codec_that_its_config_names(export: Path) -> None:
    config = OmegaConf.create({"compression_model_checkpoint": "//pretrained/facebook/encodec_32khz"})
    assert checkpoint.formats._codec_named_in(config).pretrained == "facebook/encodec_32khz"


class _Payload:
    """What a malicious pickle would call."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_a_pickle_that_asks_for_a_function_is_refused_by_its_name_and_runs_nothing(
    rewrapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rewrapped)
    torch.save({"xp.cfg": _Payload(), "model": {}}, rewrapped / "trained_model.tar")
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        checkpoint.load(str(rewrapped), "cpu")
    assert not (rewrapped / "executed").exists()


def _text_file(folder: Path) -> None:
    (folder / "state_dict.bin").write_text("not a checkpoint")


def _bare_pickle(folder: Path) -> None:
    (folder / "model.tar").write_bytes(pickle.dumps(_Payload()))


def _no_weights(folder: Path) -> None:
    torch.save({"xp.cfg": "transformer_lm: {}", "model": {}}, folder / "model.bin")


@pytest.mark.parametrize("write", [lambda folder: None, _text_file, _bare_pickle, _no_weights])
def test_what_holds_no_language_model_is_refused_in_a_sentence(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    with pytest.raises(CheckpointError, match=r"language model|no weights"):
        checkpoint.load(str(tmp_path), "cpu")


def test_a_truncated_file_is_refused(export: Path, rewrapped: Path) -> None:
    whole = (export / "state_dict.bin").read_bytes()
    (rewrapped / "lm.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        checkpoint.load(str(rewrapped), "cpu")


def test_weights_that_do_not_fit_their_config_are_listed(export: Path, rewrapped: Path) -> None:
    package = lm_package(export)
    del package["best_state"]["out_norm.weight"]
    torch.save(package, rewrapped / "lm.bin")
    with pytest.raises(CheckpointError, match=r"out_norm\.weight"):
        checkpoint.load(str(rewrapped), "cpu")


def test_a_codec_of_other_codebooks_is_refused(export: Path, rewrapped: Path) -> None:
    (rewrapped / "codec.bin").unlink()
    config = OmegaConf.create({**tiny.CODEC_CONFIG, "rvq": {"n_q": 4, "bins": 32, "kmeans_init": False}})
    state = builders.get_compression_model(config).state_dict()
    torch.save({"best_state": state, "xp.cfg": OmegaConf.to_yaml(config)}, rewrapped / "codec.bin")
    (rewrapped / "lm.bin").symlink_to(export / "state_dict.bin")
    with pytest.raises(CheckpointError, match="do not belong together"):
        checkpoint.load(str(rewrapped), "cpu")
