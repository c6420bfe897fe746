"""MultiBand Diffusion: tokens → samples by audiocraft's diffusion models, chunk by chunk, mono and stereo.

The noise is drawn for the whole clip and the models are evaluated in the overlapping chunks of ``chunked``, so that
neither noise nor samples depend on the chunks' bounds. Left and right are rows of a batch that never mix. Knows nothing
of checkpoint files.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import julius
import torch
from torch import Tensor
from torch.nn import functional

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
class MultiBandDecoder:
    """Decodes a codec's tokens by its diffusion models; below ``crossover_hz`` by the codec itself, 0 for none."""

    codec: CompressionModel
    bands: list[Band]
    crossover_hz: float

    @torch.inference_mode()
    def decode(self, tokens: Tensor, progress: Progress) -> Tensor:
        """Samples [1, C, N] from tokens [1, K, T]; stereo has twice the codec's codebooks, left and right interleaved.

        Draws noise from the ambient generator (``upstream.use_generator``). Raises ``Cancelled`` before the next chunk
        after ``progress.stop()``. Source: ``MultiBandDiffusion.tokens_to_wav``.
        """
        n_channels = tokens.shape[1] // self.codec.num_codebooks
        rows = torch.cat([tokens[:, channel::n_channels] for channel in range(n_channels)])
        reference = chunked.decode(self.codec, rows, progress)
        latents = self.codec.decode_latent(rows)
        samples = torch.zeros_like(reference)
        if self.crossover_hz:
            samples = julius.lowpass_filter(reference, self.crossover_hz / self.codec.sample_rate)
        for i in range(len(self.bands)):
            samples += self._generate(i, latents, torch.randn_like(reference), progress)
        split = julius.SplitBands(self.codec.sample_rate, n_bands=N_EQ_BANDS).to(samples)
        pairs = zip(samples.split(1), reference.split(1), strict=True)
        return torch.cat([match_levels(*pair, split) for pair in pairs], dim=1)

    def _generate(self, i: int, latents: Tensor, noise: Tensor, progress: Progress) -> Tensor:
        """Samples [B, 1, N] of band ``i`` from latents [B, D, T] and noise [B, 1, N]."""
        unet, schedule, processor = self.bands[i]
        n_done, n_total = i * N_PASSES, len(self.bands) * N_PASSES
        frame_rate, hop = round(self.codec.frame_rate), chunked.hop_length(self.codec)

        def estimate_noise(noisy: Tensor, step: int, condition: Tensor) -> SimpleNamespace:
            nonlocal n_done

            def estimate_row(row: Tensor, latents: Tensor) -> Tensor:
                progress.check()
                return unet(row, step, condition=latents).sample

            def estimate_chunk(frames: slice) -> Tensor:
                rows = noisy[..., frames.start * hop : frames.stop * hop].split(1)
                # Row by row: on a CPU two rows at once are slower, as their activations exceed the caches.
                return torch.cat(list(map(estimate_row, rows, condition[..., frames].split(1))))

            estimate = chunked.map_chunks(estimate_chunk, condition.shape[-1], frame_rate, hop)
            n_done += 1
            progress.update(n_done, n_total, unit="pass")
            return SimpleNamespace(sample=estimate)

        normalized = schedule.generate_subsampled(estimate_noise, noise, condition=latents)
        return chunked.map_chunks(
            lambda chunk: processor.return_sample(normalized[..., chunk]), noise.shape[-1], self.codec.sample_rate
        )


def match_levels(samples: Tensor, reference: Tensor, split: julius.SplitBands) -> Tensor:
    """Equalise samples [1, 1, N] to the reference's [1, 1, N] level in each band of ``split``.

    A band that is silent in the samples stays silent, where upstream divides by zero. Source:
    ``MultiBandDiffusion.re_eq``.
    """
    std = band_std(samples, split)
    gains = torch.where(std > 0, band_std(reference, split) / std, 0)
    # The weighted sum of the bands as one filter: a band is the difference of two low-pass filters, and the last one
    # that of the samples themselves and a filter.
    half = split.lowpass.half_size
    equalizer = ((gains[:-1] - gains[1:]) * split.lowpass.filters).sum(0, keepdim=True)
    equalizer[..., half] += gains[-1]
    padded = functional.pad(samples, (half, half), mode="replicate")
    return julius.fft_conv1d(padded, equalizer.to(samples.dtype))


def band_std(samples: Tensor, split: julius.SplitBands) -> Tensor:
    """Standard deviation [bands, 1, 1] of samples [1, 1, N] in each band, 0 for a silent band."""
    total = power = torch.zeros((), dtype=torch.double, device=samples.device)
    for padded, core in chunked.chunks(samples.shape[-1], round(split.sample_rate)):
        bands = split(samples[0, ..., padded])[..., core]
        total = total + bands.sum(-1, keepdim=True, dtype=torch.double)
        power = power + bands.square().sum(-1, keepdim=True, dtype=torch.double)
    variance = power / samples.shape[-1] - (total / samples.shape[-1]).square()
    return torch.where(variance > _SILENCE * variance.sum(0), variance, 0).sqrt()
