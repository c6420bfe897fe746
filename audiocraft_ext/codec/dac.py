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

    def __init__(self, model: DacModel) -> None:
        super().__init__()
        self.model = model
        self._n_codebooks = model.config.n_codebooks

    def forward(self, x: Tensor) -> None:
        raise NotImplementedError("Training is not supported.")

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        whole_frames = functional.pad(x, (0, -x.shape[-1] % self.model.config.hop_length))
        return self.model.encode(whole_frames).audio_codes[:, : self._n_codebooks], None

    @torch.no_grad()
    def decode(self, codes: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.model.decoder(self.decode_latent(codes))

    def decode_latent(self, codes: Tensor) -> Tensor:
        """Latents [B, D, T] from tokens [B, K, T]."""
        return self.model.quantizer.from_codes(codes)[0]

    @property
    def channels(self) -> int:
        return 1

    @property
    def sample_rate(self) -> int:
        return self.model.config.sampling_rate

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.model.config.hop_length

    @property
    def cardinality(self) -> int:
        return self.model.config.codebook_size

    @property
    def num_codebooks(self) -> int:
        return self._n_codebooks

    @property
    def total_codebooks(self) -> int:
        return self.model.config.n_codebooks

    def set_num_codebooks(self, n: int) -> None:
        self._n_codebooks = n
