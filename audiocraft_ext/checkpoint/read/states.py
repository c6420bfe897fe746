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

    A language model's or codec's are found under any key. Raises ``CheckpointError`` if several unknown keys have one.
    """
    states = sorted(_state_dicts(payload), key=lambda found: _rank(found[0]))
    end = next((end for end in (LM_KEY, _CODEC_KEY) if any(_prefixes(state, end) for _, state in states)), "")
    models = [(path, state) for path, state in states if _prefixes(state, end)] or states[:1]
    if not models:
        return None
    path, state = models[0]
    _check_alone([".".join(other) for other, _ in models if _rank(other) == _rank(path)])
    prefixes = _prefixes(state, end)
    known = [prefix for prefix in prefixes if prefix in ("", "model.")]
    _check_alone([] if known else prefixes)
    prefix = next(iter(known or prefixes), "")
    named = {key.removeprefix(prefix): value for key, value in unwrap(state).items() if key.startswith(prefix)}
    # Trainers save numbers among the weights; on the meta device there are no values.
    return {key: w for key, w in named.items() if isinstance(w, Tensor) and not (w.is_meta or w.is_sparse)}


def _prefixes(state: dict[Any, Any], end: str) -> list[str]:
    """The parts before ``end`` in the names of a state dict: the attributes that contain the model, or nothing."""
    names = [_WRAPPER.sub("", str(key)) for key in state]
    return sorted({name.removesuffix(end) for name in names if f".{name}".endswith(f".{end}")})


def _check_alone(names: list[str]) -> None:
    if len(names) > 1:
        raise CheckpointError(f"The file has {len(names)} models, under {', '.join(names)}: save one of them alone.")


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
