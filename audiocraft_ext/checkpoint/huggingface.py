"""Hugging Face's MusicGen and MusicGen-Melody, and LoRA adapters of them → weights under audiocraft's names.

The folder of such a model holds three in one: the LM (``decoder.*``), its T5 (``text_encoder.*``) and its EnCodec
(``audio_encoder.*``), in one safetensors file or several.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiocraft_ext.checkpoint import tensors
from audiocraft_ext.checkpoint.tensors import State
from audiocraft_ext.errors import CheckpointError

MODEL_TYPES = ("musicgen", "musicgen_melody")

_LM = "decoder.model.decoder."
_LAYER = r"decoder\.model\.decoder\.layers\.(\d+)\."
# Their name for a weight → audiocraft's. Queries, keys and values, one matrix in audiocraft, are joined after.
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
    """All tensors of a folder's safetensors files, mapped, not copied."""
    state: State = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= tensors.read(path)[0]
    return state


def part(state: State, prefix: str) -> State:
    """The weights of one of the three models, without its prefix."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def to_audiocraft(state: State) -> State:
    """The LM's weights under audiocraft's names; raises ``CheckpointError`` for one that has none there."""
    renamed: State = {}
    for key, value in state.items():
        # The sinusoids of the positions are computed, not learnt.
        if key.startswith(("text_encoder.", "audio_encoder.")) or ".embed_positions." in key:
            continue
        renamed[_audiocraft_name(key)] = value
    for key in [key for key in renamed if key.endswith(".q_proj.weight")]:
        attention = key.removesuffix("q_proj.weight")
        thirds = [renamed.pop(f"{attention}{name}_proj.weight") for name in "qkv"]
        renamed[f"{attention}in_proj_weight"] = torch.cat(thirds)
    return renamed


def _audiocraft_name(key: str) -> str:
    for theirs, ours in _RENAMES:
        if re.match(theirs, key):
            return re.sub(theirs, ours, key, count=1)
    raise CheckpointError(f"A Hugging Face MusicGen with a weight that MusicGen does not have: {key}.")


# ---------------------------------------------------------------------------------------------------- LoRA adapters

_ADAPTED = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?A(?:\.weight)?")


def merge_adapter(base: State, adapter: State, settings: dict[str, Any]) -> State:
    """``base`` with a PEFT LoRA adapter's changes added: W + alpha / r · B A, embeddings too, and whole saved modules.

    ``settings`` are the adapter's config. Raises ``CheckpointError`` where the adapter fits no weight of the base at
    all, or one of its weights fits none.
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
            raise CheckpointError(f"The adapter changes {name}, which its base model does not have.")
        # An embedding's factors are those of its transpose.
        up, is_turned = adapter[up_key], "embedding" in key
        _refuse_other_sizes(name, base[name].T if is_turned else base[name], up, down)
        delta = up.float() @ down.float() * _scale(settings, found[1], rank=down.shape[0])
        merged[name] = base[name].float() + (delta.T if is_turned else delta)
        used |= {key, up_key}
    for key in adapter.keys() - used:
        name = key.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", "")
        if name not in base:
            raise CheckpointError(f"The adapter holds {key}, which fits no weight of its base model.")
        merged[name] = adapter[key]
        used.add(key)
    if not used:
        raise CheckpointError("The adapter changes no weight of its base model.")
    return merged


def _refuse_other_sizes(name: str, weight: Tensor, up: Tensor, down: Tensor) -> None:
    is_pair = up.dim() == down.dim() == 2 and up.shape[1] == down.shape[0]
    if not is_pair or (up.shape[0], down.shape[1]) != weight.shape:
        raise CheckpointError(
            f"The adapter is of another base model: its factors of {name} are {tuple(up.shape)} and "
            f"{tuple(down.shape)}, and the weight is {tuple(weight.shape)}."
        )


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r (or alpha / √r), with the exceptions that the adapter makes for single modules."""
    patterns = settings.get("alpha_pattern") or {}
    alpha = next((value for end, value in patterns.items() if module.endswith(end)), settings.get("lora_alpha"))
    if not isinstance(alpha, int | float):
        raise CheckpointError(f"The adapter_config.json says no number for lora_alpha of {module}, but {alpha!r}.")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
