"""Demucs, which takes drums and bass away from a melody → its model, from the folder where it lies.

demucs' own loader, asked by name, downloads, and falls back to pickles that may run code. Here its files are at hand,
and are safetensors.
"""

from pathlib import Path

from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import nn

from audiocraft_ext.checkpoint.parts import DEMUCS_BAG, demucs_files
from audiocraft_ext.errors import CheckpointError

# A file names the class that it is made an object of: no other is.
_CLASSES = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs")


def load_separator(folder: Path) -> nn.Module:
    """Demucs in eval mode on the CPU, with ``sources``, ``samplerate`` and ``audio_channels``.

    Raises ``CheckpointError`` for a file that is none of demucs' models, or whose weights do not fit.
    """
    from demucs.apply import BagOfModels  # here, since melodies alone need it
    from demucs.hf import load_safetensors_model

    bag = OmegaConf.to_container(OmegaConf.load(folder / DEMUCS_BAG))
    assert isinstance(bag, dict)
    models = []
    for file in demucs_files(folder):
        _refuse_what_is_no_demucs(folder / file)
        try:
            models.append(load_safetensors_model(folder / file))
        except RuntimeError as error:
            raise CheckpointError(f"The weights in {file} do not fit their Demucs: {error}") from error
    return BagOfModels(models, bag.get("weights"), bag.get("segment")).eval()


def _refuse_what_is_no_demucs(path: Path) -> None:
    """Refuses a file by the classes that it names: the loader would import whatever it says."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is damaged or no safetensors file: {error}") from error
    if (name := metadata.get("klass")) not in _CLASSES:
        raise CheckpointError(f"{path.name} is refused: it asks for {name}, and only demucs' own models are built.")
    if "structure" in metadata:
        raise CheckpointError(f"{path.name} is refused: it is a quantised Demucs, which can ask for any class.")
