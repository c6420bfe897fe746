"""Hugging Face's MusicGen and MusicGen-Melody, and LoRA adapters of them → weights under audiocraft's names.

Such a folder contains three models, in one or several safetensors files: the LM (``decoder.*``), its T5
(``text_encoder.*``) and its EnCodec (``audio_encoder.*``).
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiocraft_ext.checkpoint.read import tensors
from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.errors import CheckpointError

MODEL_TYPES = ("musicgen", "musicgen_melody")

_LAYER = r"decoder\.model\.decoder\.layers\.(\d+)\."
# transformers' name for a weight → audiocraft's. q, k and v, one matrix in audiocraft, are concatenated after.
_RENAMES = [
    (r"decoder\.model\.decoder\.embed_tokens\.(\d+)\.", r"emb.\1."),
    (r"decoder\.lm_heads\.(\d+)\.", r"linears.\1."),
    (r"decoder\.model\.decoder\.layer_norm\.", r"out_norm."),
    (_LAYER + r"self_attn\.", r"transformer.layers.\1.self_attn."),
    (_LAYER + r"encoder_attn\.", r"transformer.layers.\1.cross_attention."),
    (_LAYER + r"self_attn_layer_norm\.", r"transformer.layers.\1.norm1."),
    (_LAYER + r"encoder_attn_layer_norm\.", r"transformer.layers.\1.norm_cross."),
    (_LAYER + r"final_layer_norm\.", r"transformer.layers.\1.norm2."),
    (_LAYER + r"fc([12])\.", r"transformer.layers.\1.linear\2."),
    (r"enc_to_dec_proj\.", r"condition_provider.conditioners.description.output_proj."),
    (r"audio_enc_to_dec_proj\.", r"condition_provider.conditioners.self_wav.output_proj."),
]


def read_weights(folder: Path) -> State:
    """All tensors of a folder's safetensors files, memory-mapped."""
    state: State = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= tensors.read(path)
    return state


def strip_prefix(state: State, prefix: str) -> State:
    """The weights under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def to_audiocraft(state: State) -> State:
    """The LM's weights under audiocraft's names; raises ``CheckpointError`` for an unknown one."""
    renamed: State = {}
    for key, value in state.items():
        # Sinusoidal position embeddings are computed.
        if key.startswith(("text_encoder.", "audio_encoder.")) or ".embed_positions." in key:
            continue
        rename = next(((theirs, ours) for theirs, ours in _RENAMES if re.match(theirs, key)), None)
        if rename is None:
            raise CheckpointError(f"The Hugging Face checkpoint has a weight that MusicGen does not have: {key}.")
        renamed[re.sub(*rename, key, count=1)] = value
    for key in [key for key in renamed if key.endswith(".q_proj.weight")]:
        attention = key.removesuffix("q_proj.weight")
        thirds = [renamed.pop(f"{attention}{name}_proj.weight") for name in "qkv"]
        renamed[f"{attention}in_proj_weight"] = torch.cat(thirds)
    return renamed


# ---------------------------------------------------------------------------------------------------- LoRA adapters

_ADAPTED = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?A(?:\.weight)?")


def merge_adapter(base: State, adapter: State, settings: dict[str, Any]) -> State:
    """``base`` with a PEFT LoRA adapter merged: W + alpha / r · B A, for embeddings too, and fully saved modules.

    ``settings`` is the adapter's config. Raises ``CheckpointError`` if the adapter changes nothing, or if one of its
    weights fits none of the base's.
    """
    merged = dict(base)
    used = set()
    for key, down in adapter.items():
        found = _ADAPTED.fullmatch(key)
        if found is None:
            continue
        up_key = key.replace("_A", "_B") if "embedding" in key else key.replace("lora_A", "lora_B")
        name = found[1] + ".weight"
        if name not in base or up_key not in adapter:
            raise CheckpointError(f"The adapter changes {name}, which its base model does not have: name its own base.")
        # An embedding is adapted as its transpose.
        up, is_transposed = adapter[up_key], "embedding" in key
        _check_sizes(name, base[name].T if is_transposed else base[name], up, down)
        delta = up.float() @ down.float() * _scale(settings, found[1], rank=down.shape[0])
        merged[name] = base[name].float() + (delta.T if is_transposed else delta)
        used |= {key, up_key}
    for key in adapter.keys() - used:
        name = key.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", "")
        if name not in base:
            raise CheckpointError(f"The adapter has {key}, which fits no weight of its base model: name its own base.")
        merged[name] = adapter[key]
        used.add(key)
    if not used:
        raise CheckpointError(
            "The adapter changes no weight of its base model: adapter_model.safetensors or .bin is missing, or has no "
            "LoRA factors."
        )
    return merged


def _check_sizes(name: str, weight: Tensor, up: Tensor, down: Tensor) -> None:
    is_pair = up.dim() == down.dim() == 2 and up.shape[1] == down.shape[0]
    if not is_pair or (up.shape[0], down.shape[1]) != weight.shape:
        raise CheckpointError(
            f"The adapter is for another base model: its factors of {name} have the shapes {tuple(up.shape)} and "
            f"{tuple(down.shape)}, the weight {tuple(weight.shape)}."
        )


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r (rslora: alpha / √r), with the adapter's exceptions for single modules."""
    patterns = settings.get("alpha_pattern") or {}
    alpha = next((value for end, value in patterns.items() if module.endswith(end)), settings.get("lora_alpha"))
    if not isinstance(alpha, int | float):
        raise CheckpointError(f"lora_alpha in adapter_config.json is {alpha!r} for {module}: it must be a number.")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
