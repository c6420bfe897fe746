"""Descript's codec (DAC), transformers' implementation, as an audiocraft ``CompressionModel``. Knows no checkpoints.

audiocraft's own wrapper needs the package ``dac``, which depends on a training framework.
"""

import torch
from torch import Tensor
from torch.nn import functional

from audiocraft_ext.upstream import CompressionModel, DacModel


class DacCodec(CompressionModel):
    """Samples [B, 1, N] ↔ tokens [B, K, T], one frame of all codebooks for each ``hop_length`` samples.

    A partial last frame is padded with silence. Source: ``audiocraft.models.encodec.DAC``.
    """

    channels = 1
    # Each model's own. Attributes of the class, as they replace abstract properties of the parent.
    sample_rate = cardinality = num_codebooks = total_codebooks = 0
    frame_rate = 0.0

    def __init__(self, model: DacModel) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.sample_rate, self.frame_rate = config.sampling_rate, config.sampling_rate / config.hop_length
        self.cardinality = config.codebook_size
        self.num_codebooks = self.total_codebooks = config.n_codebooks

    def forward(self, x: Tensor) -> None:
        raise NotImplementedError("Training is not supported.")

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        whole_frames = functional.pad(x, (0, -x.shape[-1] % self.model.config.hop_length))
        return self.model.encode(whole_frames).audio_codes[:, : self.num_codebooks], None

    @torch.no_grad()
    def decode(self, codes: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.model.decoder(self.decode_latent(codes))

    def decode_latent(self, codes: Tensor) -> Tensor:
        """Latents [B, D, T] from tokens [B, K, T]."""
        return self.model.quantizer.from_codes(codes)[0]

    def set_num_codebooks(self, n: int) -> None:
        self.num_codebooks = n
