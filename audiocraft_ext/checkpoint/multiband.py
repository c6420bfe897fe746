"""MultiBand Diffusion's weights, located and read → a decoder of audiocraft's modules. Knows nothing of decoding."""

from pathlib import Path
from typing import Any

import torch

from audiocraft_ext.checkpoint.compatibility import latent_dim
from audiocraft_ext.checkpoint.locate import pretrained, source
from audiocraft_ext.checkpoint.read.files import load_pickle
from audiocraft_ext.codec.multiband import Band, MultiBandDecoder
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import CompressionModel, NoiseSchedule, builders, skip_init

# Our own key in the package: the crossover of the embedded checkpoint's models.
_CROSSOVER_KEY = "codec_below_hz"


def load_diffusion(codec: CompressionModel, folder: Path) -> MultiBandDecoder:
    """The decoder on the codec's device, from ``folder``, ``weights/``, or wherever ``locate_model`` finds Meta's.

    Raises ``CheckpointError`` without any, or with only another codec's.
    """
    path = pretrained.find_diffusion(folder, source.WEIGHTS_FOLDER)
    path = path or pretrained.locate_model(pretrained.DIFFUSION, folder) / pretrained.DIFFUSION_FILE
    package = load_pickle(path)
    bands = [package[band] for band in range(package["n_bands"])]
    sample_rate, actual = package["sample_rate"], (latent_dim(codec), codec.sample_rate)
    # Diffusion is trained for one codec: another's latents are noise to it, or do not fit.
    for width in (band["cfg"].diffusion_unet.codec_dim for band in bands):
        if (width, sample_rate) != actual:
            raise CheckpointError(
                f"The diffusion weights {path.name} are for another codec: they expect latents of width {width} at "
                f"{sample_rate} Hz, and this checkpoint's have width {actual[0]} at {actual[1]} Hz. Replace the file "
                "by this codec's, or remove it."
            )
    device = next(codec.parameters()).device
    built = [_build_band(band, sample_rate, device) for band in bands]
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # other threads decode with it, on other streams
    return MultiBandDecoder(codec, built, package.get(_CROSSOVER_KEY, 0))


def _build_band(package: dict[str, Any], sample_rate: int, device: torch.device) -> Band:
    with skip_init():
        unet = builders.get_diffusion_model(package["cfg"])
    unet.load_state_dict(package["model_state"])
    processor = builders.get_processor(cfg=package["cfg"].processor, sample_rate=sample_rate)
    processor.load_state_dict(package["processor_state"])
    schedule = NoiseSchedule(**package["cfg"].schedule, device=device)
    return Band(unet.to(device).eval(), schedule, processor.to(device))
