"""Which checkpoint is loaded where none is asked for. Knows what lies in ``weights/``, and opens no weights."""

import os
from pathlib import Path

from audiocraft_ext.checkpoint import source
from audiocraft_ext.checkpoint.formats import CODEC_TYPES, model_type_of
from audiocraft_ext.errors import CheckpointError

# What config.json says of a model that is a part of others.
_PARTS = ("t5", *CODEC_TYPES)


def chosen_weights(weights: str | None) -> str:
    """The first of: the one asked for, ``MUSICGEN_WEIGHTS``, the files in ``weights/``, the one folder there that holds
    a checkpoint, the embedded checkpoint.

    Raises ``CheckpointError`` where there are several such folders: none of them is played in another's name.
    """
    if chosen := weights or os.environ.get("MUSICGEN_WEIGHTS"):
        return chosen
    if source.candidates(source.WEIGHTS_FOLDER):
        return str(source.WEIGHTS_FOLDER)
    folders = [folder for folder in sorted(source.WEIGHTS_FOLDER.iterdir()) if _may_be_checkpoint(folder)]
    if len(folders) > 1:
        names = ", ".join(f"{source.WEIGHTS_FOLDER.name}/{folder.name}" for folder in folders)
        raise CheckpointError(
            f"There are several checkpoints, {names}: leave one of them, or name it in MUSICGEN_WEIGHTS."
        )
    return str(folders[0] if folders else source.EMBEDDED)


def _may_be_checkpoint(folder: Path) -> bool:
    """Whether a folder in ``weights/`` has files that are neither the embedded checkpoint's nor a part's."""
    if not folder.is_dir() or folder.name == source.EMBEDDED.name or folder.name.startswith("."):
        return False
    return bool(source.candidates(folder)) and model_type_of(folder) not in _PARTS
