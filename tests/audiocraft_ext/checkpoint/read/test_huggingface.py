"""Hugging Face's MusicGen and its LoRA adapters, compared with transformers' own model with small random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.read import formats, huggingface
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.musicgen import Model
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import ConditioningAttributes
from tests.support import tiny_components
from tests.support.music import window_tokens
from tests.support.tiny import CARD

DIM = 48
PROMPT = "dark electro with a bass"


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


def codes(n_frames: int = 20) -> Tensor:
    return torch.randint(CARD, (1, 4, n_frames), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def our_logits(loaded: checkpoint.Checkpoint) -> Tensor:
    provider = loaded.lm.condition_provider
    tensors = provider(provider.tokenize([ConditioningAttributes(text={"description": PROMPT})]))
    logits: Tensor = loaded.lm(codes(), conditions=[], condition_tensors=tensors)
    return logits[0]


@torch.inference_mode()
def their_logits(model: MusicgenForConditionalGeneration, folder: Path) -> Tensor:
    prompt = AutoTokenizer.from_pretrained(folder)([PROMPT], return_tensors="pt")
    text = model.enc_to_dec_proj(model.text_encoder(**prompt).last_hidden_state)
    logits: Tensor = model.decoder(input_ids=codes()[0], encoder_hidden_states=text).logits
    return logits


# The largest difference measured is 9e-8, at logits of up to 0.3.
def test_logits_are_those_of_transformers(folder: Path) -> None:
    theirs = their_logits(MusicgenForConditionalGeneration.from_pretrained(folder).eval(), folder)
    torch.testing.assert_close(our_logits(checkpoint.load(str(folder), "cpu")), theirs, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_engine_s_greedy_tokens_are_those_of_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MusicgenForConditionalGeneration.from_pretrained(folder).eval()
    made: list[Tensor] = []
    decode = model.audio_encoder.decode

    def record(audio_codes: Tensor, **arguments: Any) -> Any:
        made.append(audio_codes)
        return decode(audio_codes, **arguments)

    monkeypatch.setattr(model.audio_encoder, "decode", record)
    prompt = AutoTokenizer.from_pretrained(folder)([PROMPT], return_tensors="pt")
    model.generate(**prompt, do_sample=False, guidance_scale=3.0, max_new_tokens=60)
    theirs = made[0][0]
    engine = Model(checkpoint.load(str(folder), "cpu"), EngineSettings())
    arguments: dict[str, Any] = {"use_sampling": False, "temp": 1.0, "top_k": 0, "top_p": 0.0, "cfg_coef": 3.0}
    conditions = [ConditioningAttributes(text={"description": PROMPT})]
    ours = window_tokens(engine, None, conditions, max_gen_len=theirs.shape[-1], **arguments)
    assert theirs.shape[-1] > 50
    assert torch.equal(ours, theirs)
    engine.close()


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
    place = tmp_path / "clone"
    if beside == "a model":
        shutil.copytree(folder, place)
    else:
        write_adapter(place, folder, factors())
    tuned = place / "lm_final.pt"
    codec = {"compression_model_checkpoint": "//pretrained/facebook/encodec_32khz"}
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml({**OmegaConf.create(package["xp.cfg"]), **codec})}, tuned)
    assert formats.read(tuned).lm.state.keys() == package["best_state"].keys()
    for part in (place, next(place.glob("*.safetensors")), next(place.glob("*config.json"))):
        assert formats.root_of(part) == place


def test_an_unknown_weight_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"decoder\.extra"):
        huggingface.to_audiocraft({"decoder.extra": torch.zeros(1)})


# ---------------------------------------------------------------------------------------------------- LoRA adapters

RANK = 4
ADAPTED = {
    "decoder.model.decoder.layers.0.self_attn.q_proj": (DIM, DIM),
    "decoder.model.decoder.layers.1.encoder_attn.out_proj": (DIM, DIM),
    "decoder.model.decoder.layers.1.fc1": (4 * DIM, DIM),
    "decoder.lm_heads.2": (CARD, DIM),
    "enc_to_dec_proj": (DIM, 128),
}


def write_adapter(folder: Path, base: Path, weights: dict[str, Tensor], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": 8, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def factors(seed: int = 0) -> dict[str, Tensor]:
    """LoRA factors as PEFT names them, for linear layers and one embedding."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (n_out, n_in) in ADAPTED.items():
        weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, n_in, generator=generator)
        weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(n_out, RANK, generator=generator)
    embedding = "base_model.model.decoder.model.decoder.embed_tokens.1"
    weights[f"{embedding}.lora_embedding_A"] = torch.randn(RANK, CARD + 1, generator=generator)
    weights[f"{embedding}.lora_embedding_B"] = torch.randn(DIM, RANK, generator=generator)
    return weights


@pytest.mark.parametrize(("settings", "scale"), [({}, 8 / RANK), ({"use_rslora": True}, 8 / RANK**0.5)])
def test_an_adapter_is_merged_into_its_base(
    folder: Path, tmp_path: Path, settings: dict[str, Any], scale: float
) -> None:
    weights = factors()
    write_adapter(tmp_path / "adapter", folder, weights, **settings)
    model = MusicgenForConditionalGeneration.from_pretrained(folder).eval()
    state = model.state_dict()
    for name in ADAPTED:
        up, down = (weights[f"base_model.model.{name}.lora_{side}.weight"] for side in "BA")
        state[f"{name}.weight"] += scale * up @ down
    embedding = "decoder.model.decoder.embed_tokens.1"
    up, down = (weights[f"base_model.model.{embedding}.lora_embedding_{side}"] for side in "BA")
    state[f"{embedding}.weight"] += scale * (up @ down).T
    merged = our_logits(checkpoint.load(str(tmp_path / "adapter"), "cpu"))
    torch.testing.assert_close(merged, their_logits(model, folder), rtol=1e-4, atol=1e-3)
    plain = our_logits(checkpoint.load(str(folder), "cpu"))
    assert (merged - plain).abs().max() > 0.1


def test_a_module_s_own_alpha_and_whole_saved_modules_are_respected(folder: Path) -> None:
    name = "decoder.model.decoder.layers.1.fc1"
    weights = {key: value for key, value in factors().items() if name in key}
    whole = torch.ones(DIM)
    weights["base_model.model.decoder.model.decoder.layer_norm.weight"] = whole
    base = huggingface.read_weights(folder)
    merged = huggingface.merge_adapter(base, weights, {"lora_alpha": 8, "alpha_pattern": {"layers.1.fc1": 2}})
    up, down = (weights[f"base_model.model.{name}.lora_{side}.weight"] for side in "BA")
    torch.testing.assert_close(merged[f"{name}.weight"], base[f"{name}.weight"] + 2 / RANK * up @ down)
    assert torch.equal(merged["decoder.model.decoder.layer_norm.weight"], whole)


WRONG: list[tuple[dict[str, Tensor], str]] = [
    ({}, "changes no weight"),
    ({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 8)}, "lm_head"),
    ({"something.else": torch.zeros(1)}, "something.else"),
    ({key: value[:, 1:].clone() for key, value in factors().items() if "fc1" in key}, "for another base model"),
    ({key: value[..., None] for key, value in factors().items() if "fc1" in key}, "for another base model"),
]


@pytest.mark.parametrize(
    ("weights", "message"), WRONG, ids=["empty", "another model's", "no adapter's", "another size", "no matrices"]
)
def test_an_adapter_that_fits_nothing_is_refused(
    folder: Path, tmp_path: Path, weights: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(str(write_adapter(tmp_path, folder, weights)), "cpu")


def test_an_adapter_without_alpha_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lora_alpha"):
        checkpoint.load(str(write_adapter(tmp_path, folder, factors(), lora_alpha=None)), "cpu")


def test_an_adapter_may_be_a_torch_file_unless_damaged(folder: Path, tmp_path: Path) -> None:
    (write_adapter(tmp_path, folder, factors()) / "adapter_model.safetensors").unlink()
    torch.save(factors(), tmp_path / "adapter_model.bin")
    assert formats.read(tmp_path).lm.state["emb.1.weight"].dtype == torch.float32
    with (tmp_path / "adapter_model.bin").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is damaged"):
        formats.read(tmp_path)


def test_an_adapter_s_base_is_found_by_its_name_in_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "WEIGHTS_FOLDER", tmp_path / "weights")
    shutil.copytree(folder, tmp_path / "weights" / "facebook" / "musicgen-small")
    write_adapter(tmp_path / "adapter", Path("facebook/musicgen-small"), factors())
    assert checkpoint.load(str(tmp_path / "adapter"), "cpu").lm.num_codebooks == 4


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, tmp_path / "nowhere", factors())
    with pytest.raises(CheckpointError, match="adapter's base model cannot be located"):
        checkpoint.load(str(tmp_path), "cpu")


def test_an_adapter_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama"}')
    write_adapter(tmp_path / "adapter", tmp_path / "base", factors())
    with pytest.raises(CheckpointError, match="not a Hugging Face MusicGen"):
        checkpoint.load(str(tmp_path / "adapter"), "cpu")


def test_reading_maps_every_tensor_of_every_shard(folder: Path) -> None:
    files = [load_file(path) for path in folder.glob("*.safetensors")]
    assert set(huggingface.read_weights(folder)) == set().union(*files)


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
