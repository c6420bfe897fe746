"""Configs and weights as fine-tuners write them: a trained T5, and MusicGen-Chord."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import convert
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.errors import CheckpointError
from tests.support import tiny_components
from tests.support.music import greedy

T5 = "condition_provider.conditioners.description.t5."
EMBEDDINGS = [f"{T5}shared.weight", f"{T5}encoder.embed_tokens.weight"]


@pytest.fixture(scope="module")
def trained_t5(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a T5 that was trained with the language model, under audiocraft's names."""
    encoder = torch.load(tiny_components.write_text_encoder(tmp_path_factory.mktemp("t5")) / "pytorch_model.bin")
    generator = torch.Generator().manual_seed(0)
    state = {T5 + key: value + 0.3 * torch.randn(value.shape, generator=generator) for key, value in encoder.items()}
    return {**state, EMBEDDINGS[1]: state[EMBEDDINGS[0]]}


def write(folder: Path, package: dict[str, Any], state: dict[str, Tensor], finetune: bool | None) -> Path:
    config = OmegaConf.create(package["xp.cfg"])
    config.conditioners.description.t5.finetune = finetune
    payload = {**package, "best_state": {**package["best_state"], **state}, "xp.cfg": OmegaConf.to_yaml(config)}
    torch.save(payload, folder / "lm.bin")
    return folder


@pytest.mark.parametrize("finetune", [True, False])
@pytest.mark.parametrize("missing", [None, *EMBEDDINGS], ids=["both", "embed_tokens", "shared"])
def test_a_trained_t5_is_loaded_by_either_name(
    without_lm: Path, package: dict[str, Any], trained_t5: dict[str, Tensor], finetune: bool, missing: str | None
) -> None:
    state = {key: value for key, value in trained_t5.items() if key != missing}
    loaded = checkpoint.load(str(write(without_lm, package, state, finetune)), "cpu").lm
    encoder = loaded.condition_provider.conditioners["description"].t5
    for key, value in trained_t5.items():
        assert torch.equal(encoder.state_dict()[key.removeprefix(T5)], value), key


def test_a_trained_t5_changes_the_music(
    without_lm: Path, package: dict[str, Any], trained_t5: dict[str, Tensor]
) -> None:
    plain = greedy(write(without_lm, package, {}, finetune=False))
    assert not torch.equal(greedy(write(without_lm, package, trained_t5, finetune=False)), plain)


@pytest.mark.parametrize("missing", [None, EMBEDDINGS[0]], ids=["both", "embed_tokens"])
def test_a_trained_t5_converts_with_its_language_model(
    without_lm: Path, package: dict[str, Any], trained_t5: dict[str, Tensor], missing: str | None, tmp_path: Path
) -> None:
    folder = write(without_lm, package, {key: value for key, value in trained_t5.items() if key != missing}, True)
    convert.convert(str(folder), tmp_path / "converted")
    assert torch.equal(greedy(tmp_path / "converted"), greedy(folder))


def test_a_trained_t5_without_its_embedding_is_refused(
    without_lm: Path, package: dict[str, Any], trained_t5: dict[str, Tensor]
) -> None:
    state = {key: value for key, value in trained_t5.items() if key not in EMBEDDINGS}
    with pytest.raises(CheckpointError, match=r"t5\.shared\.weight.* missing"):
        checkpoint.load(str(write(without_lm, package, state, finetune=True)), "cpu")


@pytest.mark.parametrize("says_argmax", [True, False])
def test_musicgen_chord_is_served_as_the_melody_model_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says_argmax: bool
) -> None:
    parts = tiny_components.write_parts(tmp_path / "parts")
    monkeypatch.setattr(source, "WEIGHTS_FOLDER", parts)
    melody = tiny_components.write_melody(tmp_path / "melody", parts)
    package = torch.load(melody / "state_dict.bin")
    config = OmegaConf.create(package["xp.cfg"])
    chord = OmegaConf.to_container(config.conditioners.self_wav.chroma_stem)
    assert isinstance(chord, dict)
    if not says_argmax:
        del chord["argmax"]
    config.conditioners.self_wav = {"model": "chroma_chord", "chroma_chord": chord}
    # Its recogniser of chords is part of its weights.
    state = {**package["best_state"], "condition_provider.conditioners.self_wav.chroma.btc.weight": torch.ones(3)}
    (tmp_path / "chord").mkdir()
    torch.save({**package, "best_state": state, "xp.cfg": OmegaConf.to_yaml(config)}, tmp_path / "chord" / "lm.bin")
    torch.save({"pretrained": tiny_components.CODEC}, tmp_path / "chord" / "codec.bin")
    assert torch.equal(greedy(tmp_path / "chord"), greedy(melody))


def test_other_kinds_of_conditioners_are_refused_by_name(without_lm: Path, package: dict[str, Any]) -> None:
    config = OmegaConf.merge(OmegaConf.create(package["xp.cfg"]), {"conditioners": {"self_wav": {"model": "style"}}})
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, without_lm / "lm.bin")
    with pytest.raises(CheckpointError, match="conditioner 'self_wav' is of the kind 'style', which is not supported"):
        checkpoint.load(str(without_lm), "cpu")
