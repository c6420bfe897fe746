"""Train the diffusion decoder: the codec's latents → the samples above a crossover. Knows nothing of text or the LM.

    python -m weights.demo.train.diffusion --minutes 60
    python -m weights.demo.train.diffusion --export

A small MultiBand Diffusion: a U-Net learns to estimate the noise added to the synthesiser's clips from the embedded
codec's latents. It decodes only the band above the crossover, where the codec's hats and snares are weakest, and learns
only the 20 steps that decoding takes.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import julius
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from audiocraft_ext.checkpoint import load
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_FILE
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel, NoiseSchedule, builders, use_generator
from weights.demo.train import synth
from weights.demo.train.codec import draw_crop, stft_loss

# The default steps of audiocraft's `generate_subsampled`, from noise to sound.
STEPS = tuple(range(999, 0, -50))
DB_A_NEPER = 8.686
CROSSOVER_HZ = 6_000
WORK_FILE = "diffusion.pt"

DIFFUSION_CONFIG: dict[str, Any] = {
    "model": "unet",
    "channels": 1,
    "sample_rate": synth.SAMPLE_RATE,
    "schedule": {"beta_t0": 1e-5, "beta_t1": 2.9e-2, "num_steps": 1000, "beta_exp": 7.5, "noise_scale": 0.1},
    "diffusion_unet": {
        "hidden": 24,
        "depth": 4,
        "growth": 2,
        "max_channels": 96,
        "emb_all_layers": True,
        "codec_dim": 64,
        "res_blocks": 1,
        "norm_groups": 4,
        "kernel": 8,
        "stride": 4,
    },
    "processor": {"use": True, "name": "multi_band_processor", "n_bands": 8, "num_samples": 2000, "power_std": 0.6},
}


@dataclass(frozen=True)
class DiffusionSettings:
    """How a band is trained."""

    minutes: float = 60.0
    seed: int = 0
    batch: int = 8
    # The U-Net's group norms span a whole clip: crops much shorter than clips would have other statistics.
    crop_frames: int = 64
    n_crops: int = 4000
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    ema_decay: float = 0.999
    report_every_s: float = 60.0


Crops = tuple[Tensor, Tensor]


@torch.no_grad()
def draw_crops(codec: CompressionModel, n: int, n_frames: int, rng: np.random.Generator) -> Crops:
    """Crops [n, 1, N] of random songs, and their quantised latents [n, D, T]."""
    wavs = torch.from_numpy(np.stack([draw_crop(rng, n_frames) for _ in range(n)]))[:, None]
    # Crops are encoded alone: as at a clip's ends, the codec pads them with zeros.
    return wavs, torch.cat([codec.decode_latent(codec.encode(some)[0]) for some in wavs.split(16)])


def build_band(config: DictConfig) -> tuple[nn.Module, NoiseSchedule]:
    """An untrained U-Net and its noise schedule, whose processor has no statistics yet."""
    processor = builders.get_processor(config.processor, sample_rate=config.sample_rate)
    return builders.get_diffusion_model(config), NoiseSchedule(
        **config.schedule, sample_processor=processor, device="cpu"
    )


def add_noise(schedule: NoiseSchedule, clean: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
    """Add the noise of steps [B] to projected clips [B, 1, N]."""
    alpha_bar = schedule.get_alpha_bar(steps)
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise * schedule.noise_scale


class Average:
    """Exponential moving average of a model's weights; it samples better than any single step's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.state[name].lerp_(value, 1 - decay)


def train(s: DiffusionSettings, path: Path) -> None:
    """Train for ``s.minutes``, resuming from ``path``, and write the band there."""
    torch.manual_seed(s.seed)
    config = OmegaConf.create(DIFFUSION_CONFIG)
    codec = load(str(EMBEDDED), "cpu").codec
    wavs, latents = draw_crops(codec, s.n_crops, s.crop_frames, np.random.default_rng(s.seed))
    highs = julius.SplitBands(config.sample_rate, cutoffs=[CROSSOVER_HZ])(wavs)[1]
    model, schedule = build_band(config)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=False)["model_state"])
    clean = torch.cat([schedule.sample_processor.project_sample(some) for some in highs.split(100)])
    optimiser = torch.optim.AdamW(model.parameters(), s.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    average, losses, step = Average(model, s.ema_decay), list[float](), 0
    started = reported = time.monotonic()
    while (elapsed := time.monotonic() - started) < s.minutes * 60:
        for group in optimiser.param_groups:
            group["lr"] = (
                s.learning_rate * min((step + 1) / s.warmup_steps, 1) * (1 - 0.97 * elapsed / (s.minutes * 60))
            )
        picked = torch.randint(len(clean), (s.batch,))
        steps = torch.tensor(STEPS)[torch.randint(len(STEPS), (s.batch,))]
        noise = torch.randn_like(clean[picked])
        estimate = model(add_noise(schedule, clean[picked], steps, noise), steps, condition=latents[picked]).sample
        loss = mse_loss(estimate, noise)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model, step)
        step += 1
        losses.append(loss.item())
        if time.monotonic() - reported > s.report_every_s:
            reported = time.monotonic()
            print(f"step {step} {elapsed:.0f} s, loss {np.mean(losses):.4f}", flush=True)
            losses.clear()
            torch.save(package_of(config, average.state, schedule), path)
    torch.save(package_of(config, average.state, schedule), path)


def package_of(config: DictConfig, state: dict[str, Tensor], schedule: NoiseSchedule) -> dict[str, Any]:
    """A band in the format of audiocraft's loader, in fp16; embeddings of unused steps are zeroed, to compress well."""
    unused = torch.ones(config.schedule.num_steps, dtype=torch.bool)
    unused[list(STEPS)] = False
    halved = {name: value.half() for name, value in state.items()}
    for name, value in halved.items():
        if name.startswith("embedding"):
            value[unused] = 0
    return {"cfg": config, "model_state": halved, "processor_state": schedule.sample_processor.state_dict()}


def export(work: Path, out: Path) -> None:
    """Write the trained band of ``work`` in audiocraft's format, next to its codec."""
    package: dict[Any, Any] = {"sample_rate": synth.SAMPLE_RATE, "n_bands": 1, "codec_below_hz": CROSSOVER_HZ}
    torch.save({**package, 0: torch.load(work / WORK_FILE, weights_only=False)}, out / DIFFUSION_FILE)


@torch.inference_mode()
def evaluate(n_clips: int = 40, seconds: int = 4) -> dict[str, float]:
    """Mean log-spectral distance in dB between unseen clips and their tokens decoded by codec and by diffusion."""
    checkpoint = load(str(EMBEDDED), "cpu")
    decoder, rng = checkpoint.load_diffusion(), np.random.default_rng(20_260_102)
    distances: dict[str, list[float]] = {"codec": [], "diffusion": []}
    for i in range(n_clips):
        clip = torch.from_numpy(draw_crop(rng, seconds * synth.FRAME_RATE))[None, None]
        codes, _ = checkpoint.codec.encode(clip)
        with use_generator(torch.Generator().manual_seed(i)):
            decoded = {"codec": checkpoint.codec.decode(codes, None), "diffusion": decoder.decode(codes, Progress())}
        for name, wav in decoded.items():
            distances[name].append(DB_A_NEPER * float(stft_loss(clip, wav)))
    return {name: float(np.mean(values)) for name, values in distances.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--minutes", type=float, default=DiffusionSettings.minutes)
    parser.add_argument("--export", action="store_true", help="write it to weights/demo and evaluate it")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.export:
        export(args.work, EMBEDDED)
        print("; ".join(f"{name} {distance_db:.1f} dB" for name, distance_db in evaluate().items()))
    else:
        train(DiffusionSettings(minutes=args.minutes), args.work / WORK_FILE)


if __name__ == "__main__":
    main()
