"""A weights string → a loaded checkpoint: its components are located, then read, then built.

``locate/`` finds the bytes, ``read/`` knows what they are, ``build.py`` makes audiocraft's modules of them. The rest of
the package imports this module alone, and the scripts ``bundle`` and ``convert``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from audiocraft_ext.checkpoint import multiband
from audiocraft_ext.checkpoint.build import build_codec, build_lm, candidate_dtypes
from audiocraft_ext.checkpoint.compatibility import check_codec_fits, public_name
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_CODEC, find_diffusion
from audiocraft_ext.checkpoint.locate.source import default_weights, display_name, locate
from audiocraft_ext.checkpoint.read import formats
from audiocraft_ext.codec.multiband import MultiBandDecoder
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import CompressionModel, LMModel

__all__ = ["Checkpoint", "candidate_dtypes", "default_weights", "display_name", "load", "with_adapters"]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded MusicGen checkpoint.

    ``codec`` is mono even for a stereo LM (audiocraft's ``MusicGen`` wraps it); ``codec_name`` is its public name, None
    without one; ``folder`` contains the checkpoint's files.
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
        """Whether the codec has diffusion weights: local ones, or Meta's for Meta's codec."""
        return bool(find_diffusion(self.folder, source.WEIGHTS_FOLDER)) or self.codec_name == DIFFUSION_CODEC

    def load_diffusion(self) -> MultiBandDecoder:
        """The codec's diffusion decoder on its device, read from disk at each call; raises ``CheckpointError``."""
        return multiband.load_diffusion(self.codec, self.folder)


def with_adapters(base: Checkpoint, weights: str, device: str, adapters: Sequence[tuple[Path, float]]) -> Checkpoint:
    """``base``, loaded from ``weights``, with (adapter, strength) merged into its language model; its codec is shared.

    Raises ``CheckpointError``, also for anything but an adapter.
    """
    located = [(formats.root_of(locate(str(path))), strength) for path, strength in adapters]
    for folder, _ in located:
        if not formats.is_adapter(folder):
            raise CheckpointError(f"{folder.name} is not an adapter: it has no adapter_config.json.")
    files = formats.read(locate(weights), located)
    return replace(base, lm=build_lm(files, device, getattr(torch, base.lm.cfg.dtype)))


def load(weights: str, device: str, dtype: torch.dtype | None = None) -> Checkpoint:
    """The checkpoint that ``weights`` names (path, https URL or hub id), on ``device``.

    ``dtype`` is the transformer's, by default the first of ``candidate_dtypes(device)``. Raises ``CheckpointError``.
    """
    files = formats.read(locate(weights))
    codec = build_codec(files.codec, files.model_folders, device)
    check_codec_fits(codec, files.lm.config)
    lm = build_lm(files, device, dtype)
    return Checkpoint(lm, codec, public_name(files.codec_name, codec), files.folder)
