"""MultiBand Diffusion: tokens → samples by audiocraft's diffusion models, chunk by chunk, mono and stereo.

The noise is drawn for the whole clip and the models are evaluated in the overlapping chunks of ``chunked``, so that
neither noise nor samples depend on the chunks' bounds. Left and right are rows of a batch that never mix. Knows nothing
of checkpoint files.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple, Protocol

import julius
import torch
from torch import Tensor

from audiocraft_ext.codec import chunked
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel, DiffusionUnet, NoiseSchedule, SampleProcessor

# The subsampled schedule that audiocraft derives from its 1000 steps.
N_PASSES = 20
# audiocraft's default for ``re_eq``.
N_EQ_BANDS = 32
# 100 dB below the signal: a band with less than this share of the power contains nothing but the filters' leakage and
# rounding errors, up to -108 dB for a pure tone.
_SILENCE = 1e-10


class Band(NamedTuple):
    """One band's U-Net in eval mode, its noise schedule, and the processor that normalized its signal in training."""

    unet: DiffusionUnet
    schedule: NoiseSchedule
    processor: SampleProcessor


@dataclass(frozen=True)
class DiffusionModels:
    """The diffusion models of one codec; below ``crossover_hz`` the codec's own samples are used, 0 for none."""

    bands: list[Band]
    crossover_hz: float


class DiffusionCheckpoint(Protocol):
    """The part of a ``Checkpoint`` needed here; ``load_diffusion`` raises ``CheckpointError``."""

    @property
    def codec(self) -> CompressionModel: ...

    def load_diffusion(self) -> DiffusionModels: ...


class MultiBandDecoder:
    """Decodes a codec's tokens by its diffusion models; stateless between calls."""

    def __init__(self, models: DiffusionModels, codec: CompressionModel) -> None:
        self._models = models
        self._codec = codec
        device = next(codec.parameters()).device
        self._eq_bands = julius.SplitBands(codec.sample_rate, n_bands=N_EQ_BANDS).to(device)

    @staticmethod
    def load(checkpoint: DiffusionCheckpoint) -> "MultiBandDecoder":
        """Raises ``CheckpointError`` if the checkpoint's codec has no diffusion weights, or only another codec's."""
        return MultiBandDecoder(checkpoint.load_diffusion(), checkpoint.codec)

    @torch.inference_mode()
    def decode(self, tokens: Tensor, progress: Progress) -> Tensor:
        """Samples [1, C, N] from tokens [1, K, T]; stereo has twice the codec's codebooks, left and right interleaved.

        Draws noise from the ambient generator (``upstream.use_generator``). Raises ``Cancelled`` before the next chunk
        after ``progress.stop()``. Source: ``MultiBandDiffusion.tokens_to_wav``.
        """
        n_channels = tokens.shape[1] // self._codec.num_codebooks
        rows = torch.cat([tokens[:, channel::n_channels] for channel in range(n_channels)])
        reference = chunked.decode(self._codec, rows, progress)
        latents = self._codec.decode_latent(rows)
        samples = self._low_band(reference)
        for i in range(len(self._models.bands)):
            samples += self._generate(i, latents, torch.randn_like(reference), progress)
        pairs = zip(samples.split(1), reference.split(1), strict=True)
        return torch.cat([match_levels(*pair, self._eq_bands) for pair in pairs], dim=1)

    def _low_band(self, reference: Tensor) -> Tensor:
        """The codec's samples [B, 1, N] below the crossover; zeros without one."""
        if not self._models.crossover_hz:
            return torch.zeros_like(reference)
        sample_rate = self._codec.sample_rate
        lowpass = julius.LowPassFilter(self._models.crossover_hz / sample_rate).to(reference)
        return chunked.map_chunks(lambda chunk: lowpass(reference[..., chunk]), reference.shape[-1], sample_rate)

    def _generate(self, i: int, latents: Tensor, noise: Tensor, progress: Progress) -> Tensor:
        """Samples [B, 1, N] of band ``i`` from latents [B, D, T] and noise [B, 1, N]."""
        band, sample_rate = self._models.bands[i], self._codec.sample_rate
        n_done, n_total = i * N_PASSES, len(self._models.bands) * N_PASSES

        def estimate_noise(noisy: Tensor, step: int, condition: Tensor) -> SimpleNamespace:
            nonlocal n_done
            # Row by row: on a CPU two rows at once are slower, as their activations exceed the caches.
            pairs = zip(noisy.split(1), condition.split(1), strict=True)
            sample = torch.cat([self._estimate_row(band.unet, *pair, step, progress) for pair in pairs])
            n_done += 1
            progress.reach(n_done, n_total, unit="pass")
            return SimpleNamespace(sample=sample)

        normalized = band.schedule.generate_subsampled(estimate_noise, noise, condition=latents)
        denormalize = band.processor.return_sample
        return chunked.map_chunks(lambda chunk: denormalize(normalized[..., chunk]), noise.shape[-1], sample_rate)

    def _estimate_row(
        self, unet: DiffusionUnet, noisy: Tensor, latents: Tensor, step: int, progress: Progress
    ) -> Tensor:
        """Estimated noise [1, 1, N] in samples [1, 1, N] at a step of the schedule, given latents [1, D, T]."""
        hop = chunked.hop_length(self._codec)

        def estimate_chunk(frames: slice) -> Tensor:
            progress.check()
            return unet(noisy[..., chunked.scale(frames, hop)], step, condition=latents[..., frames]).sample

        return chunked.map_chunks(estimate_chunk, latents.shape[-1], round(self._codec.frame_rate), hop)


def match_levels(samples: Tensor, reference: Tensor, split: julius.SplitBands) -> Tensor:
    """Equalise samples [B, 1, N], each row on its own, to the reference's [B, 1, N] level in each band of ``split``.

    A band that is silent in the samples stays silent, where upstream divides by zero. Source:
    ``MultiBandDiffusion.re_eq``.
    """
    std = band_std(samples, split)
    gains = torch.where(std > 0, band_std(reference, split) / std, 0).to(samples.dtype)
    return chunked.map_chunks(
        lambda chunk: (gains * split(samples[..., chunk])).sum(0), samples.shape[-1], round(split.sample_rate)
    )


def band_std(samples: Tensor, split: julius.SplitBands) -> Tensor:
    """Standard deviation [bands, B, 1, 1] of each row of samples [B, 1, N] in each band, 0 for a silent band."""
    total = power = torch.zeros((), dtype=torch.double, device=samples.device)
    for chunk in chunked.chunks(samples.shape[-1], round(split.sample_rate)):
        bands = chunk.crop(split(samples[..., chunk.padded]))
        total = total + bands.sum(-1, keepdim=True, dtype=torch.double)
        power = power + bands.square().sum(-1, keepdim=True, dtype=torch.double)
    variance = power / samples.shape[-1] - (total / samples.shape[-1]).square()
    return torch.where(variance > _SILENCE * variance.sum(0), variance, 0).sqrt()
