"""MultiBand Diffusion: tokens → samples by a diffusion decoder instead of the codec's own, mono and stereo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiocraft_ext.checkpoint import Checkpoint, parts
from audiocraft_ext.checkpoint.formats import load_pickle
from audiocraft_ext.checkpoint.source import WEIGHTS_FOLDER
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel, DiffusionProcess, MultiBandDiffusion, NoiseSchedule, builders

Band = tuple[nn.Module, NoiseSchedule]


class DiffusionDecoder:
    """The diffusion models of one codec, a U-Net and a noise schedule a band; stateless between calls."""

    def __init__(self, bands: list[Band], codec: CompressionModel) -> None:
        self._bands = bands
        self._codec = codec

    @staticmethod
    def is_available_for(checkpoint: Checkpoint) -> bool:
        """Whether diffusion weights exist for the checkpoint's codec: beside it, or Meta's for Meta's codec."""
        return _file_beside(checkpoint) is not None or checkpoint.codec_name == parts.DIFFUSION_CODEC

    @staticmethod
    def load(checkpoint: Checkpoint) -> "DiffusionDecoder":
        """From the checkpoint's folder, ``weights/`` or where else ``parts`` finds Meta's, in this order.

        Raises ``CheckpointError`` where there is none, or one of another codec.
        """
        path = _file_beside(checkpoint) or parts.folder_of(parts.DIFFUSION, checkpoint.folder) / parts.DIFFUSION_FILE
        package = load_pickle(path)
        _refuse_unless_for(checkpoint.codec, package, path)
        device = next(checkpoint.codec.parameters()).device
        bands = [_band(package[band], package["sample_rate"], device) for band in range(package["n_bands"])]
        return DiffusionDecoder(bands, checkpoint.codec)

    def decode(self, tokens: Tensor, progress: Progress) -> Tensor:
        """Samples [1, C, N] from tokens [1, K, T]; twice the codec's codebooks are left and right, interleaved.

        Left and right are decoded one after the other: the equaliser's statistics are taken over the whole batch.
        Draws its noise from the ambient generator (``upstream.drawing_from``). Raises ``Cancelled`` at the next of its
        20 passes a band after ``progress.stop()``.
        """
        processes = [DiffusionProcess(_stoppable(model, progress), schedule) for model, schedule in self._bands]
        diffusion = MultiBandDiffusion(processes, self._codec)
        n_channels = tokens.shape[1] // self._codec.num_codebooks
        channels = [diffusion.tokens_to_wav(tokens[:, channel::n_channels]) for channel in range(n_channels)]
        # The equaliser divides by each band's deviation, which is 0 in silence.
        return torch.nan_to_num(torch.cat(channels, dim=1))


def _stoppable(model: nn.Module, progress: Progress) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        progress.check()
        return model(*args, **kwargs)

    return call


def _file_beside(checkpoint: Checkpoint) -> Path | None:
    """The diffusion weights that lie in the checkpoint's folder or ``weights/``, alone or in a folder of their own."""
    names = (parts.DIFFUSION_FILE, f"{parts.DIFFUSION}/{parts.DIFFUSION_FILE}")
    candidates = (folder / name for folder in (checkpoint.folder, WEIGHTS_FOLDER) for name in names)
    return next((path for path in candidates if path.is_file()), None)


@torch.inference_mode()
def _refuse_unless_for(codec: CompressionModel, package: dict[Any, Any], path: Path) -> None:
    """Diffusion weights are made for one codec: another's latents are noise to them, or do not fit."""
    a_frame = torch.zeros(1, codec.num_codebooks, 1, dtype=torch.long, device=next(codec.parameters()).device)
    actual = codec.sample_rate, codec.decode_latent(a_frame).shape[1]
    for band in range(package["n_bands"]):
        wanted = package["sample_rate"], package[band]["cfg"].diffusion_unet.codec_dim
        if wanted != actual:
            raise CheckpointError(
                f"The diffusion weights {path.name} are of another codec: they decode {wanted[1]} numbers a frame at "
                f"{wanted[0]} Hz, and this checkpoint's codec has {actual[1]} at {actual[0]} Hz. Set "
                "multi_band_diffusion to false, or put the weights of this codec in their place."
            )


def _band(package: dict[str, Any], sample_rate: int, device: torch.device) -> Band:
    model = builders.get_diffusion_model(package["cfg"])
    model.load_state_dict(package["model_state"])
    processor = builders.get_processor(cfg=package["cfg"].processor, sample_rate=sample_rate)
    processor.load_state_dict(package["processor_state"])
    schedule = NoiseSchedule(**package["cfg"].schedule, sample_processor=processor.to(device), device=device)
    return model.to(device).eval(), schedule
