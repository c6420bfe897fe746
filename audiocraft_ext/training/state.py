"""A training's state in one file, which is replaced whole: a kill at any moment leaves the old one or the new one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audiocraft_ext.errors import TrainingError

FILE = "state.safetensors"
_PROGRESS = "progress"


def save(folder: Path, tensors: Mapping[str, Tensor], progress: dict[str, Any]) -> None:
    """Replace the state in ``folder``; ``progress`` is JSON. Raises ``TrainingError``, and keeps the old one then."""
    scratch = folder / f"{FILE}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch.unlink(missing_ok=True)  # left by a killed process
        stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(stored, scratch, {_PROGRESS: json.dumps(progress)})
        _sync(scratch)
        scratch.replace(folder / FILE)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise TrainingError(
            f"The training's state cannot be written to {folder}: {error}. What was saved before is kept there: free "
            "some space, and start the same training again."
        ) from error


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and progress of the state in ``folder``, None without one; raises ``TrainingError``."""
    if not (folder / FILE).exists():
        return None
    try:
        with safe_open(folder / FILE, "pt") as opened:
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118, not a dict
            return tensors, json.loads((opened.metadata() or {})[_PROGRESS])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(
            f"The training's state in {folder} is damaged: {error}. Delete {FILE} there to begin again."
        ) from error


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
