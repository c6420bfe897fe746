"""Safetensors files ↔ weights, and our own form of a model: one such file with the config in its header.

Files are memory-mapped. Matrices may be stored as int8 with a scale per row, quantised by the engine's own quantiser.
Knows nothing of what the model is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audiocraft_ext.engine.quantize import dequantize, quantize
from audiocraft_ext.errors import CheckpointError

State = dict[str, Tensor]

CONFIG = "xp.cfg"  # audiocraft's own key
_SCALE = ".scale"
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit; the first bytes of a text are a larger number


def is_safetensors(file: Path) -> bool:
    """Whether a file begins like one: the length of a header, and the brace that opens it."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return length <= _MAX_HEADER_BYTES and opened.read(1) == b"{"


def read(file: Path) -> dict[str, Any]:
    """The weights in a file, int8 dequantised to fp32; our own form like audiocraft's export, with ``is_int8``.

    Raises ``CheckpointError`` if the file is damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            config = (opened.metadata() or {}).get(CONFIG)
            state: State = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{file.name} is damaged: {error}. Download or copy it again.") from error
    quantized_names = [name for name in state if name + _SCALE in state]
    for name in quantized_names:
        state[name] = dequantize(state[name], state.pop(name + _SCALE))
    return {**state} if config is None else {"best_state": state, CONFIG: config, "is_int8": bool(quantized_names)}


def write(file: Path, state: State, config: str, in_int8: Callable[[str, Tensor], bool] | None = None) -> None:
    """Write a model in our own form; ``in_int8(name, weight)`` selects the matrices to quantise."""
    stored: State = {}
    addresses: set[int] = set()
    for name, tensor in state.items():
        if in_int8 is not None and in_int8(name, tensor):
            stored[name], stored[name + _SCALE] = quantize(tensor)
        else:
            value = tensor.contiguous()  # safetensors refuses one tensor under two names
            stored[name] = value.clone() if value.data_ptr() in addresses else value
            addresses.add(value.data_ptr())
    save_file(stored, file, {CONFIG: config})
