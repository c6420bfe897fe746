"""Safetensors files ↔ weights, and our own form of a model: one such file, its config in the header beside them.

Knows nothing of what the model is. A file is mapped, not read. Matrices may lie in it as int8 with a scale a row, made
by the engine's own quantiser and undone here.
"""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audiocraft_ext.engine.quantize import dequantize, quantize
from audiocraft_ext.errors import CheckpointError

State = dict[str, Tensor]

CONFIG = "xp.cfg"  # audiocraft's own name for it
_SCALE = ".scale"
_LONGEST_HEADER_BYTES = 100_000_000  # safetensors' own limit; no text begins with bytes that make so small a number


def is_safetensors(file: Path) -> bool:
    """Whether a file is one, be it whole or not, by its first bytes: a header's length, and the brace that opens it."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return length <= _LONGEST_HEADER_BYTES and opened.read(1) == b"{"


def read(file: Path) -> tuple[State, str | None]:
    """The weights in a file, int8 undone to fp32, and the YAML text of the config in its header, if there is one.

    Raises ``CheckpointError`` where the file is not whole.
    """
    try:
        with safe_open(file, "pt") as opened:
            config = (opened.metadata() or {}).get(CONFIG)
            state: State = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise CheckpointError(f"{file.name} is damaged: {error}. Fetch or copy it anew.") from error
    for name in [name for name in state if name + _SCALE in state]:
        state[name] = dequantize(state[name], state.pop(name + _SCALE))
    return state, config


def write(file: Path, state: State, config: str, in_int8: Callable[[str, Tensor], bool] | None = None) -> None:
    """Writes a model in our own form; ``in_int8`` says of a weight by its name whether it is stored so."""
    stored: State = {}
    for name, tensor in state.items():
        if in_int8 is not None and in_int8(name, tensor):
            stored[name], stored[name + _SCALE] = quantize(tensor)
        else:
            stored[name] = tensor.contiguous()
    save_file(stored, file, {CONFIG: config})
