"""The best step's weights → files that ``checkpoint.load`` reads: an adapter, or a whole checkpoint.

An adapter has the names that its base has: transformers' for a base in Hugging Face's form, else audiocraft's.
"""

import json
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from audiocraft_ext.checkpoint import convert
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.read import adapter, formats
from audiocraft_ext.training import lora
from audiocraft_ext.upstream import MUSICGENS, LMModel

ADAPTER_FILE = "adapter_model.safetensors"
_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
# audiocraft's part of a name → transformers'.
_RENAMES = {
    "transformer.layers.": "decoder.model.decoder.layers.",
    ".cross_attention.": ".encoder_attn.",
    ".linear1.": ".fc1.",
    ".linear2.": ".fc2.",
}


def write_adapter(state: dict[str, Tensor], base_name: str, base_hash: str, rank: int, folder: Path) -> None:
    """Write ``lora`` factors as an adapter in PEFT's format; ``base_name`` is a path, a hub id or ``embedded``, and
    ``base_hash`` its ``formats.hashes_of_base``.

    Raises ``CheckpointError`` if the base cannot be located.
    """
    root, _ = formats.base_and_adapters(source.locate(base_name, is_base=True))
    is_huggingface = formats.is_huggingface(root, is_base=True)
    kind = MUSICGENS[str(source.model_type(root))] if is_huggingface else LMModel
    mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    weights = {}
    for name, value in lora.split(state).items():
        for ours, theirs in _RENAMES.items() if is_huggingface else ():
            name = name.replace(ours, theirs)
        weights[f"base_model.model.{name}"] = value.float().cpu()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [*_ATTENTION, *(["fc1", "fc2"] if is_huggingface else ["linear1", "linear2"])],
        "inference_mode": True,
        "auto_mapping": {**mapping, formats.BASE_HASH: base_hash},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / ADAPTER_FILE, {"format": "pt"})
    (folder / adapter.CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def write_full(state: dict[str, Tensor], base_name: str, folder: Path) -> None:
    """Write all weights in fp16 to an empty ``folder``, with the base's config, codec and text encoder.

    Raises ``CheckpointError`` if the base cannot be located.
    """
    files = formats.read(source.locate(base_name))
    lm = replace(files.lm, state={**files.lm.state, **state})
    folder.mkdir(parents=True, exist_ok=True)
    convert.write(replace(files, lm=lm), folder, "float16")
