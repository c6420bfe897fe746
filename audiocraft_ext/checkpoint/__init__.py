"""A file, folder, URL or hub id → the LM and codec in it, and at need their diffusion weights.

The rest of the house takes what is here and nothing below it; scripts ``gather`` and ``convert`` too.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from audiocraft_ext.checkpoint import build, diffusion_weights, fit, formats, source
from audiocraft_ext.checkpoint.build import dtypes_on
from audiocraft_ext.checkpoint.chosen import chosen_weights
from audiocraft_ext.checkpoint.source import name_of
from audiocraft_ext.codec.multiband import DiffusionModels
from audiocraft_ext.upstream import CompressionModel, LMModel

__all__ = ["Checkpoint", "chosen_weights", "dtypes_on", "load", "name_of"]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded MusicGen checkpoint.

    ``codec`` is the one that the checkpoint names, mono even for a stereo LM (audiocraft's ``MusicGen`` wraps it);
    ``codec_name`` is its public name, None for one that is nobody else's; ``folder`` is where the files lie.
    """

    lm: LMModel
    codec: CompressionModel
    codec_name: str | None
    folder: Path

    @property
    def follows_melody(self) -> bool:
        """Whether the LM has a melody conditioner."""
        return "self_wav" in self.lm.condition_provider.conditioners

    @property
    def has_diffusion(self) -> bool:
        """Whether diffusion weights exist for the codec: beside it, or Meta's for Meta's codec."""
        return diffusion_weights.are_available(self.codec_name, self.folder)

    def load_diffusion(self) -> DiffusionModels:
        """The codec's diffusion models, on its device, read anew at each call; raises ``CheckpointError``."""
        return diffusion_weights.load(self.codec, self.folder)


def load(weights: str, device: str, dtype: torch.dtype | None = None) -> Checkpoint:
    """The checkpoint that ``weights`` names (path, https URL or hub id), on ``device``.

    ``dtype`` is that of its transformer; None is the first of ``dtypes_on(device)``.
    Raises ``CheckpointError`` with one sentence that says what is missing.
    """
    path = source.fetch(weights)
    folder = path if path.is_dir() else path.parent
    contents = formats.read(path)
    codec = build.build_codec(contents.codec, folder, device)
    fit.refuse_misfits(codec, contents.lm.config)
    lm = build.build_lm(contents.lm, folder, device, contents.text_encoder, dtype)
    return Checkpoint(lm, codec, fit.public_name(contents.codec.pretrained, codec), folder)
