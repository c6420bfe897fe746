"""A training checkpoint's nested dicts → the state dict of its best weights, under the model's own names.

Reads no file.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.errors import CheckpointError

LM_KEY = "emb.0.weight"
_CODEC_KEY = "quantizer.vq.layers.0._codebook.embed"
# Where the best weights are, in this order: FSDP's and dora's, an export's, a trainer's.
_PREFERRED = ("fsdp_best_state", "best_state", "model", "state_dict")
_MAX_DEPTH = 3
# Inserted into the names of a module's weights by torch.compile, DDP, FSDP and activation checkpointing.
_WRAPPER = re.compile(r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def find_weights(payload: dict[Any, Any]) -> State | None:
    """The best weights in a training checkpoint, without the names of wrappers and of Lightning's attribute.

    A language model's are found under any key. Raises ``CheckpointError`` if several unknown keys have one.
    """
    states = sorted(_state_dicts(payload), key=lambda found: _rank(found[0]))
    models = [(path, state) for path, state in states if any(str(key).endswith(LM_KEY) for key in state)] or states[:1]
    if not models:
        return None
    path, state = models[0]
    if len(alike := [other for other, _ in models if _rank(other) == _rank(path)]) > 1:
        names = ", ".join(".".join(other) for other in alike)
        raise CheckpointError(f"The file has {len(alike)} language models, under {names}: save one of them alone.")
    state = unwrap(state)
    ends = (key.removesuffix(end) for end in (LM_KEY, _CODEC_KEY) for key in state if key.endswith(end))
    prefix = next(ends, "")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def unwrap(state: dict[Any, Any]) -> State:
    """The weights without the names that wrappers insert; raises ``CheckpointError`` if two names become one."""
    unwrapped = {_WRAPPER.sub("", str(key)): value for key, value in state.items()}
    if len(unwrapped) < len(state):
        raise CheckpointError("The file has weights twice, with and without the name of a wrapper (module, _orig_mod).")
    return unwrapped


def is_wrapped(key: str) -> bool:
    """Whether a wrapper has inserted a part into a weight's name."""
    return _WRAPPER.search(key) is not None


def _state_dicts(found: dict[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], State]]:
    """Every dict that contains tensors, and the keys that it is under."""
    if any(isinstance(value, Tensor) for value in found.values()):
        yield path, found
    for key, value in found.items():
        # An optimizer's moments have the names of the weights.
        if isinstance(value, dict) and len(path) < _MAX_DEPTH and "optim" not in str(key):
            yield from _state_dicts(value, (*path, str(key)))


def _rank(path: tuple[str, ...]) -> tuple[int, bool]:
    """The place in the order of preference: the known keys, the payload itself, all other keys alike."""
    if not path:
        return len(_PREFERRED), False
    is_known = path[0] in _PREFERRED
    return (_PREFERRED.index(path[0]) if is_known else len(_PREFERRED) + 1), is_known and path[1:] not in (
        (),
        ("model",),
    )
