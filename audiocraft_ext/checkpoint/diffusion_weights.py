"""MultiBand Diffusion's weights, found and read → audiocraft's own modules. Knows nothing of how they decode."""

from pathlib import Path
from typing import Any

import torch

from audiocraft_ext.checkpoint import parts, source
from audiocraft_ext.checkpoint.fit import latent_width
from audiocraft_ext.checkpoint.formats import load_pickle
from audiocraft_ext.codec.multiband import Band, DiffusionModels
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import CompressionModel, NoiseSchedule, builders

# A key of our own in the package: the crossover of the embedded checkpoint's models.
_CROSSOVER_KEY = "codec_below_hz"


def are_available(codec_name: str | None, folder: Path) -> bool:
    """Whether there are weights for a codec: in the checkpoint's ``folder``, in ``weights/``, or Meta's for Meta's."""
    return _local_file(folder) is not None or codec_name == parts.DIFFUSION_CODEC


def load(codec: CompressionModel, folder: Path) -> DiffusionModels:
    """From the checkpoint's ``folder``, ``weights/`` or where else ``parts`` finds Meta's, on the codec's device.

    Raises ``CheckpointError`` where there are none, or those of another codec.
    """
    path = _local_file(folder) or parts.folder_of(parts.DIFFUSION, folder) / parts.DIFFUSION_FILE
    package = load_pickle(path)
    _refuse_unless_for(codec, package, path)
    device = next(codec.parameters()).device
    bands = [_build(package[band], package["sample_rate"], device) for band in range(package["n_bands"])]
    return DiffusionModels(bands, package.get(_CROSSOVER_KEY, 0))


def _local_file(folder: Path) -> Path | None:
    return parts.local_diffusion(folder, source.WEIGHTS_FOLDER)


def _refuse_unless_for(codec: CompressionModel, package: dict[Any, Any], path: Path) -> None:
    """Diffusion weights are made for one codec: another's latents are noise to them, or do not fit."""
    actual = codec.sample_rate, latent_width(codec)
    for band in range(package["n_bands"]):
        wanted = package["sample_rate"], package[band]["cfg"].diffusion_unet.codec_dim
        if wanted != actual:
            raise CheckpointError(
                f"The diffusion weights {path.name} are of another codec: they decode {wanted[1]} numbers a frame at "
                f"{wanted[0]} Hz, and this checkpoint's codec has {actual[1]} at {actual[0]} Hz. Put this codec's in "
                "their place."
            )


def _build(package: dict[str, Any], sample_rate: int, device: torch.device) -> Band:
    unet = builders.get_diffusion_model(package["cfg"])
    unet.load_state_dict(package["model_state"])
    processor = builders.get_processor(cfg=package["cfg"].processor, sample_rate=sample_rate)
    processor.load_state_dict(package["processor_state"])
    schedule = NoiseSchedule(**package["cfg"].schedule, device=device)
    return Band(unet.to(device).eval(), schedule, processor.to(device))
