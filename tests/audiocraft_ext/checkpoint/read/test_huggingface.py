"""Hugging Face's MusicGen, compared with transformers' own model with small random weights."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint.read import formats
from audiocraft_ext.errors import CheckpointError
from tests.support import tiny, tiny_components
from tests.support.checkpoint_formats import MaliciousPickle
from tests.support.reference import codes, our_logits, our_tokens, their_logits, their_tokens

DIM = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text MusicGen as ``save_pretrained`` writes it, in several safetensors files."""
    model = tiny_components.huggingface("text", DIM)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Initialisation leaves them at zero, where a lost one would not show.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, std=0.5)
    folder = tiny_components.write_huggingface(tmp_path_factory.mktemp("huggingface"), model, "200KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


# The largest difference measured is 9e-8, at logits of up to 0.3.
def test_logits_are_those_of_transformers(folder: Path) -> None:
    theirs = their_logits(MusicgenForConditionalGeneration.from_pretrained(folder).eval(), folder)
    torch.testing.assert_close(our_logits(checkpoint.load(str(folder), "cpu")), theirs, rtol=0, atol=1e-5)


def test_the_engine_s_greedy_tokens_are_those_of_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = their_tokens(MusicgenForConditionalGeneration.from_pretrained(folder).eval(), folder, monkeypatch)
    assert theirs.shape[-1] > 50
    assert torch.equal(our_tokens(checkpoint.load(str(folder), "cpu"), theirs.shape[-1]), theirs)


@torch.inference_mode()
def test_the_codec_is_the_one_in_the_checkpoint(folder: Path) -> None:
    model = MusicgenForConditionalGeneration.from_pretrained(folder).eval()
    theirs = model.audio_encoder.decode(codes()[None], [None]).audio_values
    ours = checkpoint.load(str(folder), "cpu").codec.decode(codes(), None)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_melody_checkpoint_is_recognised_with_every_weight(tmp_path: Path) -> None:
    tiny_components.write_huggingface(tmp_path, tiny_components.huggingface("melody", DIM))
    lm = formats.read(tmp_path).lm
    assert lm.config.fuser.prepend == ["self_wav", "description"]
    assert lm.config.conditioners.self_wav.chroma_stem.n_chroma == 12
    assert lm.config.transformer_lm.num_heads == 3
    assert lm.state["condition_provider.conditioners.self_wav.output_proj.weight"].shape == (DIM, 12)


def test_a_folder_without_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"nor safetensors files: config\.json"):
        checkpoint.load(str(tmp_path), "cpu")


@pytest.mark.parametrize("beside", ["a model", "an adapter"])
def test_a_named_file_is_loaded_rather_than_its_neighbours(
    folder: Path, tmp_path: Path, package: dict[str, Any], beside: str
) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "clone"))
    if beside == "an adapter":
        (place / "config.json").rename(place / "adapter_config.json")
    tuned = place / "lm_final.pt"
    codec = {"compression_model_checkpoint": "//pretrained/facebook/encodec_32khz"}
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml({**OmegaConf.create(package["xp.cfg"]), **codec})}, tuned)
    assert formats.read(tuned).lm.state.keys() == package["best_state"].keys()
    for part in (place, next(place.glob("*.safetensors")), next(place.glob("*config.json"))):
        assert formats.root_of(part) == place


# ---------------------------------------------------------------------------------- which files, and which weights


def model_of(folder: Path) -> Any:
    return MusicgenForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def logits_of(folder: Path) -> Tensor:
    return our_logits(checkpoint.load(str(folder), "cpu"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The model of ``folder`` in one safetensors file, to be changed."""
    return tiny_components.write_huggingface(tmp_path / "copy", model_of(folder))


def write(folder: Path, state: dict[str, Tensor], name: str = "model.safetensors") -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name, {"format": "pt"})


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def edit_config(folder: Path, part: str, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "leftover", ["zzz.safetensors", "model-00001-of-00003.safetensors", "consolidated.safetensors"]
)
def test_of_two_sets_of_weights_transformers_choice_is_loaded(folder: Path, copy: Path, leftover: str) -> None:
    write(copy, {name: torch.zeros_like(value) for name, value in weights(copy).items()}, leftover)
    torch.testing.assert_close(logits_of(copy), their_logits(model_of(copy), copy), rtol=0, atol=1e-5)
    assert torch.equal(logits_of(copy), logits_of(folder))


@pytest.mark.parametrize("n_files", [1, 2])
def test_pytorch_s_own_files_are_read(folder: Path, copy: Path, n_files: int) -> None:
    state = weights(copy)
    (copy / "model.safetensors").unlink()
    if n_files == 1:
        torch.save(state, copy / "pytorch_model.bin")
    else:
        names = sorted(state)
        shards = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
        for file, keys in shards.items():
            torch.save({key: state[key] for key in keys}, copy / file)
        index = {key: file for file, keys in shards.items() for key in keys}
        (copy / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert torch.equal(logits_of(copy), logits_of(folder))


def test_a_malicious_pickle_in_a_folder_runs_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    (copy / "model.safetensors").unlink()
    torch.save({"weights": MaliciousPickle()}, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"refused: its pickle asks for posix\.system"):
        checkpoint.load(str(copy), "cpu")
    assert not (copy / "executed").exists()


WRAPPED: dict[str, dict[str, str]] = {
    "compiled": {"^": "_orig_mod."},
    "distributed": {"^": "module."},
    "a compiled decoder": {r"^decoder\.model\.": "decoder.model._orig_mod."},
    "sharded, checkpointed layers": {
        "^": "_fsdp_wrapped_module.",
        r"(decoder\.layers\.\d+)\.": r"\1._fsdp_wrapped_module._checkpoint_wrapped_module.",
    },
    "a compiled T5 and codec": {r"^(text_encoder|audio_encoder)\.": r"\1._orig_mod."},
}


@pytest.mark.parametrize("changes", WRAPPED.values(), ids=WRAPPED)
def test_names_of_wrappers_are_dropped_wherever_they_are(folder: Path, copy: Path, changes: dict[str, str]) -> None:
    state = weights(copy)
    for pattern, replacement in changes.items():
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    write(copy, state)
    assert torch.equal(logits_of(copy), logits_of(folder))


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_between_equal_widths_there_is_no_projection(tmp_path: Path, kind: tiny.Kind) -> None:
    model = tiny_components.huggingface(kind, dim=tiny_components.T5_WIDTH, num_attention_heads=4).eval()
    assert not hasattr(model, "enc_to_dec_proj")
    tiny_components.write_huggingface(tmp_path, model)
    tiny_components.write_demucs(tmp_path)
    if kind == "text":
        torch.testing.assert_close(logits_of(tmp_path), their_logits(model, tmp_path), rtol=0, atol=1e-5)
    state = checkpoint.load(str(tmp_path), "cpu").lm.condition_provider.conditioners["description"].output_proj
    assert torch.equal(state.weight, torch.eye(tiny_components.T5_WIDTH))
    assert not state.bias.any()


@pytest.mark.parametrize("stored", ["shared", "encoder.embed_tokens", "both"])
def test_either_name_of_t5_s_embedding_stands_for_both(folder: Path, copy: Path, stored: str) -> None:
    state = {name: value for name, value in weights(copy).items() if name not in T5_EMBEDDINGS}
    value = next(value for name, value in weights(copy).items() if name in T5_EMBEDDINGS)
    names = [name for name in T5_EMBEDDINGS if stored in name or stored == "both"]
    write(copy, {**state, **{name: value.clone() for name in names}})
    assert torch.equal(logits_of(copy), logits_of(folder))


T5_EMBEDDINGS = ("text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight")


def test_relu_is_served_and_other_activations_are_refused(copy: Path) -> None:
    gelu = logits_of(copy)
    edit_config(copy, "decoder", activation_function="relu")
    assert (logits_of(copy) - gelu).abs().max() > 1e-3
    torch.testing.assert_close(logits_of(copy), their_logits(model_of(copy), copy), rtol=0, atol=1e-5)
    edit_config(copy, "decoder", activation_function="gelu_new")
    with pytest.raises(
        CheckpointError, match="decoder's activation_function is 'gelu_new'; gelu and relu are supported"
    ):
        checkpoint.load(str(copy), "cpu")


@pytest.mark.parametrize(("n_codebooks", "channels"), [(4, 2), (8, 1), (8, 2)])
def test_channels_are_the_config_s_not_the_number_of_codebooks(
    tmp_path: Path, n_codebooks: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"num_codebooks": n_codebooks, "audio_channels": channels}
    bandwidth = 0.3 * n_codebooks / channels
    model = tiny_components.huggingface("text", 48, bandwidth=bandwidth, **size).eval()
    folder = tiny_components.write_huggingface(tmp_path, model)
    loaded = checkpoint.load(str(folder), "cpu")
    theirs = their_tokens(model, folder, monkeypatch, 30)
    assert torch.equal(our_tokens(loaded, theirs.shape[-1]), theirs)
    assert loaded.lm.cfg.interleave_stereo_codebooks.use == (channels == 2)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another text encoder": ("text_encoder", {"model_type": "umt5"}, "text_encoder's model_type is 'umt5'; t5 "),
    "another codec": ("audio_encoder", {"model_type": "mimi"}, "audio_encoder's model_type is 'mimi'; encodec and dac"),
    "three channels": ("decoder", {"audio_channels": 3}, "cannot be loaded: .*3 channels"),
    "more layers than weights": (
        "decoder",
        {"num_hidden_layers": 3},
        r"lacks weights: decoder\.model\.decoder\.layers\.2",
    ),
    "another width": (
        "decoder",
        {"hidden_size": 96},
        r"weights do not fit its config: decoder\.lm_heads\.0\.weight is \[64, 48\] instead of \[64, 96\]",
    ),
    "a wrong type": ("decoder", {"num_codebooks": "four"}, "cannot be loaded: "),
}


@pytest.mark.parametrize(("part", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_config_that_does_not_fit_is_refused(copy: Path, part: str, changes: dict[str, Any], message: str) -> None:
    edit_config(copy, part, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(str(copy), "cpu")


@pytest.mark.parametrize("part", ["text_encoder", "audio_encoder", "decoder"])
@pytest.mark.parametrize("value", ["x", 5, [1]])
def test_a_config_of_wrong_types_is_refused(copy: Path, part: str, value: Any) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, part: value}))
    with pytest.raises(CheckpointError, match=f"cannot be loaded: .*{part}"):
        checkpoint.load(str(copy), "cpu")


def test_another_length_of_the_melody_is_refused(tmp_path: Path) -> None:
    model = tiny_components.huggingface("melody", DIM)
    model.config.chroma_length = 100
    tiny_components.write_huggingface(tmp_path, model)
    with pytest.raises(CheckpointError, match="melody's chroma_length is 100; 235 are supported"):
        formats.read(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 5}}])
def test_an_index_without_files_is_damaged(copy: Path, index: dict[str, Any]) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json is damaged: it has no weight_map"):
        checkpoint.load(str(copy), "cpu")


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer*"])
def test_a_model_without_its_tokenizer_is_refused(copy: Path, missing: str) -> None:
    # transformers makes an empty one, by which every word is unknown.
    for file in copy.glob(missing):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer in copy cannot be loaded: it has no vocabulary\. Copy"):
        checkpoint.load(str(copy), "cpu")


def test_an_unknown_weight_is_named(copy: Path) -> None:
    write(copy, {**weights(copy), "decoder.extra": torch.zeros(1), "audio_enc_to_dec_proj.weight": torch.zeros(48, 12)})
    with pytest.raises(CheckpointError, match=r"no place for: audio_enc_to_dec_proj\.weight, decoder\.extra"):
        checkpoint.load(str(copy), "cpu")


def test_half_precision_is_loaded_as_stored(folder: Path, tmp_path: Path) -> None:
    tiny_components.write_huggingface(tmp_path, model_of(folder).half())
    assert formats.read(tmp_path).lm.state["emb.0.weight"].dtype == torch.float16
    torch.testing.assert_close(logits_of(tmp_path), their_logits(model_of(tmp_path), tmp_path), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        # tokenizers panics at a merge whose result is no word: an error that is no Exception of Python's.
        {"model": {"type": "BPE", "vocab": {"aa": 0, "bb": 1}, "merges": [["aa", "bb"]]}},
        {"model": {"type": "Unigram", "vocab": "none"}},
        {"added_tokens": [1]},
    ],
)
def test_a_malformed_tokenizer_is_refused(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps({**tokenizer, **change}))
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(CheckpointError, match="The tokenizer in copy cannot be loaded"):
        checkpoint.load(str(copy), "cpu")
