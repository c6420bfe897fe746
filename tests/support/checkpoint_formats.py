"""One small model of each kind in every supported format, as exporters, trainers and transformers write it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from audiocraft_ext.checkpoint import build
from audiocraft_ext.checkpoint.read import tensors
from audiocraft_ext.upstream import EncodecModel, T5EncoderModel
from tests.support import tiny, tiny_components
from tests.support.tiny_components import CODEC

State = dict[str, Tensor]

DIM, N_HEADS = 192, 3  # tiny_components.huggingface has as many heads


def write_parts(folder: Path) -> Path:
    """The models that checkpoints name, each in a folder of its name: a codec, a text encoder and a Demucs."""
    shutil.copytree(tiny.TEXT_ENCODER, folder / "text_encoder")
    tiny_components.write_codec(folder)
    tiny_components.write_demucs(folder)
    return folder


def config_of(kind: tiny.Kind) -> dict[str, Any]:
    """A config like Meta's: what cannot be inferred from shapes is as in all of them."""
    config = tiny.lm_config(kind)
    config |= {"compression_model_checkpoint": f"//pretrained/{CODEC}", "dataset": {"segment_duration": 30}}
    config["transformer_lm"] |= {"dim": DIM, "num_heads": N_HEADS}
    if kind == "melody":
        chroma = {"sample_rate": tiny.SAMPLE_RATE, "n_chroma": 12, "radix2_exp": 14, "argmax": True}
        config["conditioners"]["self_wav"] = {"model": "chroma_stem", "chroma_stem": chroma}
    return config


@dataclass(frozen=True)
class LanguageModel:
    """Its solver config as YAML, its weights, and the folder of the codec and text encoder that it goes with."""

    kind: tiny.Kind
    config: str
    state: State
    parts: Path


@cache
def language_model(kind: tiny.Kind, parts_folder: Path) -> LanguageModel:
    config = OmegaConf.create(config_of(kind))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = build.untrained_lm(config, parts_folder, "cpu")
        for name, parameter in lm.named_parameters():
            _strengthen(name, parameter.data)
    return LanguageModel(kind, OmegaConf.to_yaml(config), lm.state_dict(), parts_folder)


def _strengthen(name: str, weight: Tensor) -> None:
    """As initialised for training, layers hardly change their input, and norms do nothing."""
    if weight.dim() == 1:
        weight.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    elif ".layers." in name:
        weight *= 6


def _export(lm: LanguageModel, folder: Path) -> None:
    package = {"best_state": lm.state, "xp.cfg": lm.config, "version": "1.3.0", "exported": True}
    torch.save(package, folder / "state_dict.bin")
    torch.save({"pretrained": CODEC, "version": "1.3.0", "exported": True}, folder / "compression_state_dict.bin")


def _fine_tuner(lm: LanguageModel, folder: Path) -> None:
    torch.save({"xp.cfg": OmegaConf.create(lm.config), "model": lm.state}, folder / "trained_model.tar")


def _dora(lm: LanguageModel, folder: Path) -> None:
    _write_dora(lm, folder, {"fsdp_best_state": {}, "best_state": {"model": lm.state}})


def _dora_fsdp(lm: LanguageModel, folder: Path) -> None:
    _write_dora(lm, folder, {"fsdp_best_state": {"model": lm.state}, "best_state": {"model": _zeros(lm.state)}})


def _write_dora(lm: LanguageModel, folder: Path, best: dict[str, Any]) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    package = {"xp.cfg": OmegaConf.create(lm.config), "model": _zeros(lm.state), **best, "optimizer": optimizer}
    torch.save(package, folder / "checkpoint.th")


def _zeros(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


def _continue_from(lm: LanguageModel, folder: Path) -> None:
    torch.save({"best_state": {"model": lm.state}}, folder / "continue.th")


def _lightning(lm: LanguageModel, folder: Path) -> None:
    state = {f"model.{name}": value for name, value in lm.state.items()}
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": []}, folder / "last.ckpt")


def _bare(lm: LanguageModel, folder: Path) -> None:
    torch.save(lm.state, folder / "lm_final.pt")


def _bare_safetensors(lm: LanguageModel, folder: Path) -> None:
    save_file(lm.state, folder / "lm_final.safetensors")


def _ours(lm: LanguageModel, folder: Path) -> None:
    tensors.write(folder / "language_model.safetensors", lm.state, lm.config)


# audiocraft's name for a weight → transformers', from left to right.
_RENAMES = {
    "condition_provider.conditioners.description.output_proj.": "enc_to_dec_proj.",
    "condition_provider.conditioners.self_wav.output_proj.": "audio_enc_to_dec_proj.",
    "transformer.layers.": "decoder.model.decoder.layers.",
    "emb.": "decoder.model.decoder.embed_tokens.",
    "linears.": "decoder.lm_heads.",
    "out_norm.": "decoder.model.decoder.layer_norm.",
    ".cross_attention.": ".encoder_attn.",
    ".norm_cross.": ".encoder_attn_layer_norm.",
    ".norm1.": ".self_attn_layer_norm.",
    ".norm2.": ".final_layer_norm.",
    ".linear1.": ".fc1.",
    ".linear2.": ".fc2.",
}


def _their_names(state: State) -> State:
    renamed: State = {}
    for ours, value in state.items():
        theirs = ours
        for old, new in _RENAMES.items():
            theirs = theirs.replace(old, new)
        if theirs.endswith("in_proj_weight"):
            for name, third in zip("qkv", value.chunk(3), strict=True):
                renamed[theirs.replace("in_proj_weight", f"{name}_proj.weight")] = third
        elif not theirs.endswith("chroma.spec.window"):
            renamed[theirs] = value
    return renamed


def _huggingface(lm: LanguageModel, folder: Path, shard_size: str = "1GB") -> None:
    encoder = T5EncoderModel.from_pretrained(lm.parts / "text_encoder")
    codec = EncodecModel.from_pretrained(lm.parts / CODEC)
    model = tiny_components.huggingface(lm.kind, DIM)
    state = _their_names(lm.state)
    state |= {f"text_encoder.{name}": value for name, value in encoder.state_dict().items()}
    state |= {f"audio_encoder.{name}": value for name, value in codec.state_dict().items()}
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys, report.unexpected_keys
    assert all("embed_positions" in name for name in report.missing_keys)  # computed
    tiny_components.write_huggingface(folder, model, shard_size)


def _huggingface_sharded(lm: LanguageModel, folder: Path) -> None:
    _huggingface(lm, folder, "1MB")
    assert len(list(folder.glob("*.safetensors"))) > 1


def _lora(lm: LanguageModel, folder: Path) -> None:
    """An adapter that restores the model from a base, which is written beside its folder."""
    base = folder.with_name(f"{folder.name}-base")
    name, generator = "transformer.layers.1.linear1.weight", torch.Generator().manual_seed(0)
    down, up = torch.randn(4, DIM, generator=generator), torch.randn(4 * DIM, 4, generator=generator)
    base.mkdir()
    _huggingface(LanguageModel(lm.kind, lm.config, {**lm.state, name: lm.state[name] - 2 * up @ down}, lm.parts), base)
    module = "base_model.model.decoder.model.decoder.layers.1.fc1"
    save_file({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 8}
    settings["target_modules"] = ["layers.1.fc1"]
    (folder / "adapter_config.json").write_text(json.dumps(settings))


class MaliciousPickle:
    """The call that a malicious pickle makes."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


# By the names that weights/README.md gives them.
ONE_FILE: dict[str, Callable[[LanguageModel, Path], None]] = {
    "audiocraft export": _export,
    "fine-tuner output": _fine_tuner,
    "dora checkpoint": _dora,
    "dora checkpoint, FSDP": _dora_fsdp,
    "continue-from": _continue_from,
    "Lightning": _lightning,
    "bare state dict": _bare,
    "bare safetensors": _bare_safetensors,
    "our safetensors": _ours,
}
FOLDERS: dict[str, Callable[[LanguageModel, Path], None]] = {
    "Hugging Face": _huggingface,
    "Hugging Face, sharded": _huggingface_sharded,
    "PEFT LoRA": _lora,
}
ALL_FORMATS = ONE_FILE | FOLDERS


def one_file(folder: Path) -> Path:
    """The language model's file, of a format in ``ONE_FILE``."""
    return max(folder.iterdir(), key=lambda file: file.stat().st_size)
