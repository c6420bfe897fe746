"""MultiBand Diffusion: tokens → samples by a diffusion decoder instead of the codec's own, mono and stereo.

Left and right are rows of a batch, and long clips are heard by the U-Nets in pieces, as ``codec`` cuts them, while
the noise is the whole clip's: neither the noise nor the samples know where a piece ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import julius
import torch
from torch import Tensor

from audiocraft_ext import codec
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.filterbank import FilterBank
from audiocraft_ext.progress import Progress
from audiocraft_ext.unet import UNet
from audiocraft_ext.upstream import (
    CompressionModel,
    DiffusionUnet,
    MultiBandProcessor,
    NoiseSchedule,
    SampleProcessor,
)

# Passes of a U-Net that audiocraft makes of its schedule's 1000 steps.
N_PASSES = 20
# What it is equalised in at the end.
N_BANDS_OF_EQUALISER = 32


@dataclass(frozen=True)
class Band:
    """One band's U-Net, its noise schedule, and what undoes the scaling [B, 1, N] that its signal had in training."""

    unet: DiffusionUnet | UNet
    schedule: NoiseSchedule
    unscale: Callable[[Tensor], Tensor]

    @staticmethod
    def of(unet: DiffusionUnet, schedule: NoiseSchedule, processor: SampleProcessor, fast: bool = True) -> "Band":
        """From audiocraft's own modules; ``fast`` evaluates them by ``unet`` and ``filterbank``, where these can."""
        is_scaled_in_bands = isinstance(processor, MultiBandProcessor) and processor.n_bands > 1
        return Band(
            UNet(unet) if fast and UNet.can_run(unet) else unet,
            schedule,
            _unscaling(processor) if fast and is_scaled_in_bands else processor.return_sample,
        )

    def estimate(self, noisy: Tensor, step: int, latents: Tensor) -> Tensor:
        """The noise [B, 1, N] in samples [B, 1, N] at a step; latents [B, D, T]."""
        if noisy.is_cpu and len(noisy) > 1:  # two rows at once only fill its caches twice
            rows = zip(noisy.split(1), latents.split(1), strict=True)
            return torch.cat([self.estimate(row, step, its_latents) for row, its_latents in rows])
        steps = torch.full((len(noisy),), step, device=noisy.device)
        if isinstance(self.unet, UNet):
            return self.unet(noisy, steps, latents)
        sample: Tensor = self.unet(noisy, steps, condition=latents).sample
        return sample


class DiffusionDecoder:
    """The diffusion models of one codec, a U-Net and a noise schedule a band; stateless between calls."""

    def __init__(self, bands: list[Band], codec: CompressionModel, codec_below_hz: float = 0) -> None:
        self._bands = bands
        self._codec = codec
        self._codec_below_hz = codec_below_hz
        split = julius.SplitBands(codec.sample_rate, n_bands=N_BANDS_OF_EQUALISER)
        self._equaliser = FilterBank(split, next(codec.parameters()).device)

    @staticmethod
    def load(checkpoint: Checkpoint, fast: bool = True) -> "DiffusionDecoder":
        """Of the checkpoint's codec; ``fast`` evaluates the U-Nets by ``unet``, else by audiocraft's own modules.

        Raises ``CheckpointError`` where there are no weights, or those of another codec.
        """
        diffusion = checkpoint.load_diffusion()
        bands = [Band.of(*modules, fast=fast) for modules in diffusion.bands]
        return DiffusionDecoder(bands, checkpoint.codec, diffusion.codec_below_hz)

    @torch.inference_mode()
    def decode(self, tokens: Tensor, progress: Progress) -> Tensor:
        """Samples [1, C, N] from tokens [1, K, T]; twice the codec's codebooks are left and right, interleaved.

        Draws its noise from the ambient generator (``upstream.drawing_from``). Raises ``Cancelled`` at the next of its
        20 passes a band after ``progress.stop()``. Source: ``MultiBandDiffusion.tokens_to_wav``.
        """
        n_channels = tokens.shape[1] // self._codec.num_codebooks
        channels = torch.cat([tokens[:, channel::n_channels] for channel in range(n_channels)])
        plain = codec.decode(self._codec, channels, progress)
        latents = self._codec.decode_latent(channels)
        samples = self._lows(plain)
        for i in range(len(self._bands)):
            samples += self._generate(i, latents, torch.randn_like(plain), progress)
        return self._equaliser.equalised(samples, plain).transpose(0, 1)

    def _lows(self, plain: Tensor) -> Tensor:
        """What the bands leave to the codec of its samples [B, 1, N]: nothing, but where the weights say so."""
        if not self._codec_below_hz:
            return torch.zeros_like(plain)
        lowpass = julius.LowPassFilter(self._codec_below_hz / self._codec.sample_rate).to(plain)
        hop = round(self._codec.sample_rate / self._codec.frame_rate)
        return codec.join(
            lambda frames: lowpass(plain[..., codec.samples_of(frames, hop)]), plain.shape[-1] // hop, self._codec
        )

    def _generate(self, i: int, latents: Tensor, noise: Tensor, progress: Progress) -> Tensor:
        """The samples [B, 1, N] of band ``i``, from latents [B, D, T] and noise [B, 1, N]."""
        band, n_frames, hop = self._bands[i], latents.shape[-1], noise.shape[-1] // latents.shape[-1]
        n_passes = i * N_PASSES

        def estimate(noisy: Tensor, step: int, condition: Tensor) -> SimpleNamespace:
            def piece(frames: slice) -> Tensor:
                progress.check()
                return band.estimate(noisy[..., codec.samples_of(frames, hop)], step, condition[..., frames])

            nonlocal n_passes
            sample = codec.join(piece, n_frames, self._codec)
            n_passes += 1
            progress.reach(n_passes, len(self._bands) * N_PASSES, unit="pass")
            return SimpleNamespace(sample=sample)

        scaled: Tensor = band.schedule.generate_subsampled(estimate, noise, condition=latents)
        return codec.join(
            lambda frames: band.unscale(scaled[..., codec.samples_of(frames, hop)]), n_frames, self._codec
        )


def _unscaling(processor: MultiBandProcessor) -> Callable[[Tensor], Tensor]:
    """``processor.return_sample`` as one filter and a constant."""
    filters = FilterBank(processor.split_bands, processor.mean.device)
    gains = (processor.std / processor.target_std) ** processor.power_std
    mean = processor.mean.sum()
    return lambda samples: filters.scaled(samples, gains.expand(len(samples), -1)) + mean
