"""Files with no MusicGen language model in them → what they are instead, in a clause. Reads nothing itself."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

# Whose weights have such names, and what would make a MusicGen of them.
_NEAREST = (
    (r"\.lora_(embedding_)?[AB]\b", "is a LoRA adapter, whose adapter_config.json is to lie beside it"),
    (
        r"^decoder\.model\.decoder\.",
        "has the weights of a Hugging Face MusicGen, which are read as safetensors with their config.json beside them",
    ),
    (r"^quantizer\.vq\.|^encoder\.(model|layers)\.\d", "is a codec, whose language model is to lie beside it"),
    (r"^(transformer|linears|emb)\.", "has weights of a MusicGen, but lacks emb.0.weight"),
)
_N_SHOWN = 3


def of(codecs: Iterable[str], others: dict[str, dict[Any, Any]]) -> str:
    """What lies there: ``codecs`` by their names, ``others`` by name and content, which is empty for no weights."""
    clauses = [f"{name} is a codec, whose language model is to lie beside it" for name in codecs]
    clauses += [_of_file(name, payload) for name, payload in others.items() if payload]
    if weightless := [name for name, payload in others.items() if not payload]:
        clauses.append(f"neither torch nor safetensors files: {_some(weightless)}")
    return "; ".join(clauses) or "it is an empty folder"


def _of_file(file: str, payload: dict[Any, Any]) -> str:
    names = [name for name in _weights(payload) if "." in name]  # an optimizer's have no dots
    if not names:
        return f"{file} has no weights of a model, only {_some(payload)}"
    for pattern, clause in _NEAREST:
        if any(re.search(pattern, name) for name in names):
            return f"{file} {clause}"
    return f"{file} has {len(names)} weights of some other model ({_some(names)})"


def _weights(payload: dict[Any, Any]) -> Iterator[str]:
    for key, value in payload.items():
        if isinstance(value, Tensor):
            yield str(key)
        elif isinstance(value, dict):
            yield from _weights(value)


def _some(names: Iterable[Any]) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:_N_SHOWN]) + (", …" if len(shown) > _N_SHOWN else "")
