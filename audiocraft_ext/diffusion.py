"""MultiBand Diffusion: tokens → samples by a diffusion decoder instead of the codec's own, mono and stereo."""

from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor

from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.checkpoint.formats import load_pickle
from audiocraft_ext.checkpoint.source import WEIGHTS_FOLDER
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import DiffusionProcess, MultiBandDiffusion, NoiseSchedule, builders

_CODEC = "facebook/encodec_32khz"
_HUB_ID = "facebook/multiband-diffusion"
_FILE = "mbd_musicgen_32khz.th"


class DiffusionDecoder:
    """audiocraft's ``MultiBandDiffusion`` for one codec; stateless between calls."""

    def __init__(self, diffusion: MultiBandDiffusion) -> None:
        self._diffusion = diffusion

    @staticmethod
    def is_available_for(checkpoint: Checkpoint) -> bool:
        """Whether diffusion weights exist for the checkpoint's codec: beside it, or Meta's for Meta's codec."""
        return _file_beside(checkpoint) is not None or checkpoint.codec_name == _CODEC

    @staticmethod
    def load(checkpoint: Checkpoint) -> "DiffusionDecoder":
        """From the checkpoint's folder, ``weights/`` or the Hugging Face hub, in this order.

        Raises ``CheckpointError`` where none is reached.
        """
        path = _file_beside(checkpoint)
        if path is None:
            try:
                path = Path(hf_hub_download(_HUB_ID, _FILE))
            except OSError as error:
                raise CheckpointError(
                    f"The diffusion weights {_HUB_ID} are not cached and cannot be fetched."
                ) from error
        package = load_pickle(path)
        device = next(checkpoint.codec.parameters()).device
        processes = [_process(package[band], package["sample_rate"], device) for band in range(package["n_bands"])]
        return DiffusionDecoder(MultiBandDiffusion(processes, checkpoint.codec))

    def decode(self, tokens: Tensor) -> Tensor:
        """Samples [1, C, N] from tokens [1, K, T]; twice the codec's codebooks are left and right, interleaved.

        Left and right are decoded one after the other: the equaliser's statistics are taken over the whole batch.
        Draws its noise from the ambient generator (``upstream.drawing_from``).
        """
        n_channels = tokens.shape[1] // self._diffusion.codec_model.num_codebooks
        channels = [self._decode_mono(tokens[:, channel::n_channels]) for channel in range(n_channels)]
        return torch.cat(channels, dim=1)

    def _decode_mono(self, tokens: Tensor) -> Tensor:
        # The equaliser divides by each band's deviation, which is 0 in silence.
        return torch.nan_to_num(self._diffusion.tokens_to_wav(tokens))


def _file_beside(checkpoint: Checkpoint) -> Path | None:
    candidates = (folder / _FILE for folder in (checkpoint.folder, WEIGHTS_FOLDER))
    return next((path for path in candidates if path.is_file()), None)


def _process(band: dict, sample_rate: int, device: torch.device) -> DiffusionProcess:
    model = builders.get_diffusion_model(band["cfg"])
    model.load_state_dict(band["model_state"])
    processor = builders.get_processor(cfg=band["cfg"].processor, sample_rate=sample_rate)
    processor.load_state_dict(band["processor_state"])
    schedule = NoiseSchedule(**band["cfg"].schedule, sample_processor=processor.to(device), device=device)
    return DiffusionProcess(model=model.to(device).eval(), noise_schedule=schedule)
