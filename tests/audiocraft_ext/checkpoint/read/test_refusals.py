"""Files that are no checkpoint, or half of one, or two: refused in a sentence that describes them, with a hint."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint.read import files, tensors
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import builders
from tests.support import tiny
from tests.support.checkpoint_formats import MaliciousPickle


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(str(path), "cpu")
    return str(caught.value)


# ------------------------------------------------------------------------------------------- no language model in it


def _text(folder: Path) -> None:
    (folder / "state_dict.bin").write_text("not a checkpoint")


def _json(folder: Path) -> None:
    (folder / "index.json").write_text('{"conf":{"emb.0.weight": 1}}')


def _bare_pickle(folder: Path) -> None:
    (folder / "model.tar").write_bytes(pickle.dumps([1, 2]))


def _no_weights(folder: Path) -> None:
    torch.save({"xp.cfg": "transformer_lm: {}", "model": {}}, folder / "model.bin")


def _optimizer(folder: Path) -> None:
    torch.save({"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 3}, folder / "checkpoint.th")


def _diffusion(folder: Path) -> None:
    names = ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.bias"]
    save_file({name: torch.zeros(3) for name in names}, folder / "v1-5.safetensors")


def _huggingface_alone(folder: Path) -> None:
    save_file({"decoder.model.decoder.embed_tokens.0.weight": torch.zeros(3, 3)}, folder / "model.safetensors")


def _decoder_alone(folder: Path) -> None:
    save_file({"lm_heads.0.weight": torch.zeros(3, 3)}, folder / "model.safetensors")


def _torchscript(folder: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "lm.pt")


def _adapter_alone(folder: Path) -> None:
    weights = {"base_model.model.decoder.lm_heads.0.lora_A.weight": torch.zeros(4, 8)}
    save_file(weights, folder / "adapter_model.safetensors")


def _codec_alone(folder: Path) -> None:
    codec = builders.get_compression_model(OmegaConf.create(tiny.CODEC_CONFIG))
    tiny.export(folder / "compression_state_dict.bin", codec.state_dict(), tiny.CODEC_CONFIG)


def _half_an_lm(folder: Path) -> None:
    torch.save({"transformer.layers.0.norm1.weight": torch.ones(3)}, folder / "lm.pt")


NOT_ONE: dict[str, tuple[Callable[[Path], None], str]] = {
    "an empty folder": (lambda folder: None, "it has no files"),
    "a text file": (_text, "neither torch nor safetensors files: state_dict.bin"),
    "json that begins like safetensors": (_json, "neither torch nor safetensors files: index.json"),
    "a bare pickle": (_bare_pickle, "neither torch nor safetensors files: model.tar"),
    "a config alone": (_no_weights, "model.bin has no model weights, only xp.cfg, model"),
    "an optimizer": (_optimizer, "checkpoint.th has no model weights, only optimizer, epoch"),
    "Stable Diffusion": (
        _diffusion,
        "v1-5.safetensors has 2 weights of another kind of model (first_stage_model.decoder",
    ),
    "Hugging Face's without its config": (
        _huggingface_alone,
        "of a Hugging Face MusicGen: name it model.safetensors, and put its config.json beside it",
    ),
    "Hugging Face's decoder": (
        _decoder_alone,
        "has the decoder of a Hugging Face MusicGen alone: save the whole model",
    ),
    "an adapter without its config": (_adapter_alone, "is a LoRA adapter: put its adapter_config.json beside"),
    "a codec": (_codec_alone, "compression_state_dict.bin is a codec: put its language model beside it"),
    "half of a language model": (_half_an_lm, "lm.pt has the weights of a MusicGen, but lacks emb.0.weight"),
}


@pytest.mark.parametrize(("write", "what"), NOT_ONE.values(), ids=NOT_ONE)
def test_a_folder_without_a_language_model_is_described(
    tmp_path: Path, write: Callable[[Path], None], what: str
) -> None:
    write(tmp_path)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} has no MusicGen language model: ")
    assert what in message
    assert "Supported are audiocraft's export" in message
    assert "\n" not in message


def test_a_codec_without_its_config_is_recognised(tmp_path: Path, export: Path) -> None:
    state = torch.load(export / "compression_state_dict.bin")["best_state"]
    torch.save(state, tmp_path / "codec.pt")
    assert "codec.pt is a codec: put its language model beside it" in refusal(tmp_path)


def test_a_magnet_is_refused_despite_equal_weight_names(tmp_path: Path) -> None:
    config = {**tiny.lm_config("text"), "lm_model": "transformer_lm_magnet"}
    tiny.export(tmp_path / "state_dict.bin", {"emb.0.weight": torch.zeros(3, 3)}, config)
    assert "of the kind 'transformer_lm_magnet', not a MusicGen" in refusal(tmp_path)


# ---------------------------------------------------------------------------------------- not whole, not one, not safe


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_torch_file_is_damaged(export: Path, without_lm: Path, share: float) -> None:
    whole = (export / "state_dict.bin").read_bytes()
    (without_lm / "lm.bin").write_bytes(whole[: int(share * len(whole))])
    message = refusal(without_lm)
    assert message.startswith("lm.bin is damaged")
    assert "\n" not in message


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_damaged(package: dict[str, Any], without_lm: Path, share: float) -> None:
    tensors.write(without_lm / "lm.safetensors", package["best_state"], package["xp.cfg"])
    whole = (without_lm / "lm.safetensors").read_bytes()
    (without_lm / "lm.safetensors").write_bytes(whole[: int(share * len(whole))])
    assert refusal(without_lm).startswith("lm.safetensors is damaged")


def test_a_torchscript_archive_is_refused_as_one(tmp_path: Path) -> None:
    _torchscript(tmp_path)
    assert refusal(tmp_path) == "lm.pt is a TorchScript archive. Save a state dict."


@pytest.mark.parametrize(
    ("name", "shape"),
    [("emb.0", (5,)), ("emb.0", (5, 4, 3)), ("emb.0", (65, 0)), ("transformer.layers.0.linear1", ())],
)
def test_weights_of_a_wrong_rank_are_refused(
    without_lm: Path, package: dict[str, Any], name: str, shape: tuple[int, ...]
) -> None:
    torch.save({**package["best_state"], f"{name}.weight": torch.zeros(shape)}, without_lm / "lm.bin")
    assert refusal(without_lm).startswith(
        "The checkpoint has no config, and its sizes cannot be inferred: wrong shapes"
    )


CONFIGS: dict[str, tuple[str, Any, str]] = {
    "a fuser without the text": ("fuser.cross", [], "its fuser has []; its conditioners are ['description']."),
    "a window without length": ("dataset.segment_duration", -5, "dataset.segment_duration is not positive"),
    "an unknown reference": ("lm_model", "${nowhere}", "Interpolation key 'nowhere' not found"),
    "a text encoder without a name": (
        "conditioners.description.t5.name",
        None,
        "The checkpoint names the model 'None'",
    ),
}


@pytest.mark.parametrize(("key", "value", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_makes_no_sense_is_refused(
    without_lm: Path, package: dict[str, Any], key: str, value: Any, message: str
) -> None:
    config = OmegaConf.create(package["xp.cfg"])
    OmegaConf.update(config, key, value)
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, without_lm / "lm.bin")
    assert message in refusal(without_lm)


def test_a_codec_without_a_name_is_refused(without_lm: Path, package: dict[str, Any]) -> None:
    (without_lm / "codec.bin").unlink()
    for name in ("${nowhere}", "//pretrained/"):
        config = OmegaConf.merge(OmegaConf.create(package["xp.cfg"]), {"compression_model_checkpoint": name})
        torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, without_lm / "lm.bin")
        assert refusal(without_lm)


def test_a_truncated_config_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert refusal(tmp_path).startswith("config.json is damaged")
    (tmp_path / "config.json").write_text('{"model_type": "music')
    assert refusal(tmp_path).startswith("config.json is damaged")


def test_two_language_models_or_codecs_in_a_folder_are_named(export: Path, without_lm: Path) -> None:
    for name in ("first.bin", "second.bin"):
        (without_lm / name).symlink_to(export / "state_dict.bin")
    assert "has 2 language models, first.bin, second.bin: keep one" in refusal(without_lm)
    (without_lm / "second.bin").unlink()
    (without_lm / "other.bin").symlink_to(export / "compression_state_dict.bin")
    assert "has 2 codecs, codec.bin, other.bin: keep one" in refusal(without_lm)


def test_a_refusal_names_the_culprit_alone(without_lm: Path) -> None:
    config = OmegaConf.create({"a": {"b": [1]}})
    for is_zip, culprit in ((True, "posix.system"), (False, "more than data")):
        content = {"xp.cfg": config, "model": MaliciousPickle()}
        torch.save(content, without_lm / "trained_model.tar", _use_new_zipfile_serialization=is_zip)
        assert f"refused: its pickle asks for {culprit}. Save a state dict." in refusal(without_lm)


def test_a_history_of_numpy_s_scalars_is_passed_over(without_lm: Path, package: dict[str, Any]) -> None:
    history = [{"loss": numpy.float64(1.5), "step": numpy.int64(3), "is_best": numpy.bool_(True)}]
    package = {"xp.cfg": package["xp.cfg"], "model": package["best_state"], "history": history}
    torch.save(package, without_lm / "a.th")
    checkpoint.load(str(without_lm), "cpu")
    # As numpy before version 2 names them.
    with zipfile.ZipFile(without_lm / "a.th") as new, zipfile.ZipFile(without_lm / "b.th", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert files.load(without_lm / "b.th").keys() == package.keys()


def test_a_malicious_pickle_is_refused_and_runs_nothing(without_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(without_lm)
    torch.save({"xp.cfg": MaliciousPickle(), "model": {}}, without_lm / "trained_model.tar")
    assert "posix.system" in refusal(without_lm)
    (without_lm / "trained_model.tar").write_bytes(pickle.dumps(MaliciousPickle()))
    assert "trained_model.tar" in refusal(without_lm)
    assert not (without_lm / "executed").exists()


# --------------------------------------------------------------------------------------- a codec that does not fit it


def with_codec(folder: Path, package: dict[str, Any], lm: dict[str, Any] | None = None, **codec: Any) -> Path:
    """The export in ``folder``, with a codec and a solver config in which something is different."""
    (folder / "codec.bin").unlink()
    settings = OmegaConf.create(tiny.CODEC_CONFIG)
    for key, value in codec.items():
        OmegaConf.update(settings, key.replace("__", "."), value)
    state = builders.get_compression_model(settings).state_dict()
    torch.save({"best_state": state, "xp.cfg": OmegaConf.to_yaml(settings)}, folder / "codec.bin")
    config = OmegaConf.merge(OmegaConf.create(package["xp.cfg"]), lm or {})
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, folder / "lm.bin")
    return folder


STEREO = {"interleave_stereo_codebooks": {"use": True, "per_timestep": False}}
MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "entries": ({}, {"rvq__bins": 32}, "32 entries in a codebook, and the language model expects 64."),
    "codebooks": ({}, {"rvq__n_q": 3}, "3 codebooks, and the language model has 4."),
    "codebooks of stereo": (STEREO, {}, "4 codebooks for each of two channels, and the language model has 4."),
    "a mono setting for stereo": (
        {},
        {"rvq__n_q": 2},
        "2 codebooks, and the language model has 4. If it is stereo, set",
    ),
    "more than there are": (
        {"compression_model_n_q": 8},
        {},
        "4 codebooks, and the language model uses 8.",
    ),
    "sample rate": (
        {"sample_rate": 16000},
        {},
        "a sample rate of 32000 Hz, and the language model was trained at 16000",
    ),
    "channels": (
        STEREO,
        {"seanet__channels": 2, "encodec__channels": 2, "rvq__n_q": 2},
        "2 channels, and the language model interleaves the tokens of two mono codecs.",
    ),
}


@pytest.mark.parametrize(("lm", "codec", "what"), MISFITS.values(), ids=MISFITS)
def test_a_codec_that_does_not_fit_is_refused_with_both_sizes(
    without_lm: Path, package: dict[str, Any], lm: dict[str, Any], codec: dict[str, Any], what: str
) -> None:
    message = refusal(with_codec(without_lm, package, lm, **codec))
    assert what in message
    assert "does not fit" in message


@pytest.mark.parametrize("lm", [{"sample_rate": 32000}, {"sample_rate": "???"}, {"compression_model_n_q": None}])
def test_a_config_that_repeats_the_codec_s_sizes_fits(
    without_lm: Path, package: dict[str, Any], lm: dict[str, Any]
) -> None:
    assert checkpoint.load(str(with_codec(without_lm, package, lm)), "cpu").codec.num_codebooks == 4


def test_a_language_model_may_use_some_of_the_codebooks(without_lm: Path, package: dict[str, Any]) -> None:
    folder = with_codec(without_lm, package, {"compression_model_n_q": 4}, rvq__n_q=6)
    assert checkpoint.load(str(folder), "cpu").codec.total_codebooks == 6


def test_a_missing_codec_is_asked_for(without_lm: Path, package: dict[str, Any]) -> None:
    (without_lm / "codec.bin").unlink()
    config = OmegaConf.merge(OmegaConf.create(package["xp.cfg"]), {"compression_model_checkpoint": "//sig/1234"})
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, without_lm / "lm.bin")
    message = refusal(without_lm / "lm.bin")
    assert message.startswith("The language model's codec, '//sig/1234', is not a public one")
    assert "put its compression_state_dict.bin beside the language model, and name the folder of both." in message
