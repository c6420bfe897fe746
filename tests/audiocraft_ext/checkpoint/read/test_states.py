"""Weights under any key, in any wrapper, of any age: the same model; of two models in a file, neither."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint.read import formats, states
from audiocraft_ext.errors import CheckpointError
from tests.support.music import greedy

State = dict[str, Tensor]

PLACES: dict[str, Callable[[State], dict[str, Any]]] = {
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "lm": lambda state: {"lm": state},
    "ema": lambda state: {"ema": {"state": {"model": state}}},
    "params": lambda state: {"params": state, "step": torch.tensor(5)},
    "two levels down": lambda state: {"checkpoint": {"generator": state}},
    "with an optimizer": lambda state: {"net": state, "optimizer": {"exp_avg": state, "exp_avg_sq": state}},
    "best before others": lambda state: {"best_state": state, "ema": zeros(state), "model": zeros(state)},
    "model before unknown keys": lambda state: {"ema_of_it": zeros(state), "model": state},
    "Lightning, compiled": lambda state: {"state_dict": {f"lm._orig_mod.{key}": value for key, value in state.items()}},
}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def load(folder: Path, payload: dict[str, Any], **options: Any) -> State:
    torch.save(payload, folder / "lm.bin", **options)
    return formats.read(folder).lm.state


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_under_any_key(without_lm: Path, package: dict[str, Any], place: str) -> None:
    state = package["best_state"]
    loaded = load(without_lm, {**PLACES[place](state), "xp.cfg": package["xp.cfg"]})
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_of_two_unknown_keys_neither_is_chosen(without_lm: Path, package: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^The file has 2 models, under params, params_ema: save one"):
        load(without_lm, {"params": package["best_state"], "params_ema": package["best_state"]})


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def test_of_two_attributes_lightning_s_model_is_chosen(without_lm: Path, package: dict[str, Any]) -> None:
    state = package["best_state"]
    both = {**under("ema_model.", zeros(state)), **under("model.", state)}
    loaded = load(without_lm, {"state_dict": both, "xp.cfg": package["xp.cfg"]})
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    with pytest.raises(
        CheckpointError, match=r"^The file has 2 models, under ema\., student\.: save one of them alone"
    ):
        load(without_lm, {"state_dict": {**under("student.", state), **under("ema.", state)}})


def test_of_two_codecs_under_unknown_keys_neither_is_chosen(without_lm: Path, package: dict[str, Any]) -> None:
    codec = torch.load(without_lm / "codec.bin")
    state = codec.pop("best_state")
    (without_lm / "codec.bin").unlink()
    torch.save({**codec, "average": zeros(state), "params": state}, without_lm / "codec.bin")
    with pytest.raises(CheckpointError, match=r"^The file has 2 models, under average, params: save one of them"):
        load(without_lm, package)
    torch.save({**codec, "adversary": {"a.b": torch.ones(1)}, "params": state}, without_lm / "codec.bin")
    loaded = formats.read(without_lm).codec
    assert isinstance(loaded, formats.CodecFile)
    assert loaded.state.keys() == state.keys()


def test_numbers_among_the_weights_are_left_out(without_lm: Path, package: dict[str, Any]) -> None:
    state = package["best_state"]
    assert load(without_lm, {**state, "epoch": 3, "name": "x", "xp.cfg": package["xp.cfg"]}).keys() == state.keys()
    meta = state["linears.0.weight"].to("meta")
    torch.save({**package, "best_state": {**state, "linears.0.weight": meta}}, without_lm / "lm.bin")
    with pytest.raises(CheckpointError, match=r"do not fit its config: linears\.0\.weight missing"):
        checkpoint.load(str(without_lm), "cpu")


def test_an_expanded_weight_is_the_same_weight(without_lm: Path, package: dict[str, Any]) -> None:
    key, state = "transformer.layers.0.norm1.bias", package["best_state"]
    width = len(state[key])
    torch.save({**package, "best_state": {**state, key: torch.full((width,), 0.5)}}, without_lm / "lm.bin")
    expected = greedy(without_lm)
    torch.save({**package, "best_state": {**state, key: torch.full((1,), 0.5).expand(width)}}, without_lm / "lm.bin")
    assert torch.equal(greedy(without_lm), expected)


@pytest.mark.parametrize("pretrained", [True, "facebook/musicgen-small"])
def test_a_language_model_beside_the_key_pretrained_is_found(
    without_lm: Path, package: dict[str, Any], pretrained: bool | str
) -> None:
    assert load(without_lm, {**package, "pretrained": pretrained}).keys() == package["best_state"].keys()


def test_weights_that_are_not_a_model_are_found_as_before() -> None:
    one, other = {"a.weight": torch.ones(1)}, {"b.weight": torch.ones(1)}
    assert states.find_weights({"adversary": other, "best_state": {"other": other, "model": one}}) == one
    assert states.find_weights({"epoch": 3}) is None


WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("place", ["at the start", "in the layers", "in the codec"])
def test_names_of_wrappers_are_dropped(without_lm: Path, package: dict[str, Any], wrapper: str, place: str) -> None:
    def wrap(key: str) -> str:
        inside = key.replace("layers.0.", f"layers.0.{wrapper}.").replace("model.0.", f"model.0.{wrapper}.")
        return f"{wrapper}.{key}" if place == "at the start" else inside

    codec = torch.load(without_lm / "codec.bin")
    expected = package["best_state"], codec["best_state"]
    wrapped = codec if place == "in the codec" else package
    wrapped["best_state"] = {wrap(key): value for key, value in wrapped["best_state"].items()}
    (without_lm / "codec.bin").unlink()
    torch.save(codec, without_lm / "codec.bin")
    torch.save(package, without_lm / "lm.bin")
    loaded = formats.read(without_lm)
    assert isinstance(loaded.codec, formats.CodecFile)
    for one, other in zip((loaded.lm.state, loaded.codec.state), expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("prefix", ["model.", "module.codec."])
def test_a_codec_s_prefix_is_dropped(without_lm: Path, package: dict[str, Any], prefix: str) -> None:
    torch.save(package, without_lm / "lm.bin")
    codec = torch.load(without_lm / "codec.bin")
    (without_lm / "codec.bin").unlink()
    state = {prefix + key: value for key, value in codec["best_state"].items()}
    torch.save({**codec, "best_state": state}, without_lm / "codec.bin")
    assert checkpoint.load(str(without_lm), "cpu").codec.num_codebooks == 4


def test_a_name_with_and_without_its_wrapper_is_refused(without_lm: Path, package: dict[str, Any]) -> None:
    state = package["best_state"]
    twice = {**state, **{f"module.{key}": value for key, value in zeros(state).items()}}
    with pytest.raises(CheckpointError, match=r"^The file has weights twice, with and without the name of a wrapper"):
        load(without_lm, {"model": twice})


def test_a_file_older_than_torch_1_6_is_read(without_lm: Path, package: dict[str, Any]) -> None:
    loaded = load(without_lm, package, _use_new_zipfile_serialization=False)
    assert all(torch.equal(value, loaded[key]) for key, value in package["best_state"].items())
    whole = (without_lm / "lm.bin").read_bytes()
    (without_lm / "lm.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"^lm\.bin is damaged or not a torch file"):
        formats.read(without_lm)
