"""Demucs' folder → its model, which removes drums and bass from a melody.

demucs' own loader by name would download, and fall back to pickles; here its safetensors files are already located.
"""

from pathlib import Path

from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import nn

from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS_BAG, demucs_files
from audiocraft_ext.errors import CheckpointError

# A file names the class that demucs' loader imports: only these are allowed.
_CLASSES = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs")


def load_demucs(folder: Path) -> nn.Module:
    """Demucs in eval mode on the CPU, with ``sources``, ``samplerate`` and ``audio_channels``.

    Raises ``CheckpointError`` for a file that is not one of demucs' models, or whose weights do not fit.
    """
    from demucs.apply import BagOfModels  # lazy: only melodies need it
    from demucs.hf import load_safetensors_model

    bag = OmegaConf.to_container(OmegaConf.load(folder / DEMUCS_BAG))
    assert isinstance(bag, dict)
    models = []
    for file in demucs_files(folder):
        try:
            with safe_open(folder / file, "pt") as opened:
                metadata = opened.metadata() or {}
            if metadata.get("klass") not in _CLASSES or "structure" in metadata:
                raise CheckpointError(
                    f"{file} is refused: its class is {metadata.get('klass')}, and only demucs' own models are loaded, "
                    "none of them quantised, which can name any class."
                )
            models.append(load_safetensors_model(folder / file))
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{file} is damaged, or its weights do not fit its Demucs model: {error}") from error
    return BagOfModels(models, bag.get("weights"), bag.get("segment")).eval()
