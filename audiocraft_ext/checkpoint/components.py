"""Everything that one checkpoint needs, located and read once. Builds nothing.

Only an optional decoder is located later, at its first use: MultiBand Diffusion (``multiband.py``), which is over 1 GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS, locate_model
from audiocraft_ext.checkpoint.read import formats
from audiocraft_ext.checkpoint.read.config import config_errors
from audiocraft_ext.checkpoint.read.formats import CheckpointFiles, PretrainedCodec


@dataclass(frozen=True)
class Components:
    """A checkpoint's own files, and the folder of each pretrained model that it names, by that name."""

    files: CheckpointFiles
    pretrained: Mapping[str, Path]

    @property
    def codec_name(self) -> str | None:
        """The public name of the codec; None for one that the checkpoint includes."""
        return self.files.codec.name if isinstance(self.files.codec, PretrainedCodec) else None


def resolve(path: Path) -> Components:
    """The components of the checkpoint in a file or folder; raises ``CheckpointError`` if one cannot be found."""
    files = formats.read(path)
    names = required_conditioners(files.lm.config, has_text_encoder=files.text_encoder is not None)
    if isinstance(files.codec, PretrainedCodec):
        names.insert(0, files.codec.name)
    return Components(files, {name: locate_model(name, files.folder) for name in names})


@config_errors("language model")
def required_conditioners(config: DictConfig, has_text_encoder: bool = False) -> list[str]:
    """The pretrained models that an LM's conditioners need: a T5 unless the checkpoint has one, Demucs for stems."""
    conditioners = [settings for name, settings in config.conditioners.items() if name != "args"]
    names = [] if has_text_encoder else [settings.t5.name for settings in conditioners if settings.model == "t5"]
    return names + [DEMUCS for settings in conditioners if settings.model == "chroma_stem"]
