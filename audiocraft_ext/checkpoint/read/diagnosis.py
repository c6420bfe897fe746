"""Files without a MusicGen language model → what they are instead, as a clause. Reads nothing itself."""

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

_CODEC = "is a codec: put its language model beside it"
# A pattern of weights' names → the clause about their model, with the file that it lacks.
_NEAREST = (
    (r"\.lora_(embedding_)?[AB]\b", "is a LoRA adapter: put its adapter_config.json beside it"),
    (
        r"^decoder\.model\.decoder\.",
        "has the weights of a Hugging Face MusicGen: name it model.safetensors, and put its config.json beside it",
    ),
    (r"^(model\.decoder|lm_heads)\.", "has the decoder of a Hugging Face MusicGen alone: save the whole model"),
    (r"^quantizer\.vq\.|^encoder\.(model|layers)\.\d", _CODEC),
    (r"^(transformer|linears|emb)\.", "has the weights of a MusicGen, but lacks emb.0.weight"),
)


def describe_unrecognized(codecs: Iterable[str], others: dict[str, dict[Any, Any]]) -> str:
    """The contents of a folder: names of ``codecs``, and of ``others`` the weights, or the payload without weights."""
    clauses = [f"{name} {_CODEC}" for name in codecs]
    clauses += [_describe(name, payload) for name, payload in others.items() if payload]
    if weightless := [name for name, payload in others.items() if not payload]:
        clauses.append(f"neither torch nor safetensors files: {first_few(weightless, 3)}")
    return "; ".join(clauses) or "it has no files"


def first_few(names: Iterable[Any], n: int = 5) -> str:
    """The first ``n`` of some names, and how many more there are."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:n]) + (f" and {len(shown) - n} more" if len(shown) > n else "")


def _describe(file: str, payload: dict[Any, Any]) -> str:
    names = [name for name, value in payload.items() if isinstance(value, Tensor) and "." in name]
    if not names:
        return f"{file} has no model weights, only {first_few(payload, 3)}"
    for pattern, clause in _NEAREST:
        if any(re.search(pattern, name) for name in names):
            return f"{file} {clause}"
    return f"{file} has {len(names)} weights of another kind of model ({first_few(names, 3)})"
