"""Train the codec: 32 kHz mono SEANet, 50 frames a second, 4 residual codebooks. Knows nothing of text or the LM.

    python -m weights.demo.train.codec --minutes 40

Learns from the synthesiser directly, half a second at a time. The loss asks for the waveform itself, as SNR in each of
the lower bands, and for the spectrum (log-STFT at three resolutions). Without the bands the codec spends all that it
has on kick and bass: with plain SNR it reached 8.9 dB while arp and hats were gone.
"""

import argparse
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import l1_loss

from audiocraft_ext.upstream import CompressionModel, builders
from weights.demo.train import synth

BAND_EDGES_HZ = (150, 400, 1_000, 2_500, 7_000)
CODEC_CONFIG: dict[str, Any] = {
    "compression_model": "encodec",
    "sample_rate": synth.SAMPLE_RATE,
    "channels": 1,
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": synth.SAMPLE_RATE,
        "channels": 1,
        "causal": False,
        "renormalize": False,
    },
    "seanet": {
        "dimension": 64,
        "channels": 1,
        "causal": False,
        "n_filters": 16,
        "n_residual_layers": 1,
        "ratios": [8, 5, 4, 4],
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "weight_norm",
        "norm_params": {},
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "pad_mode": "constant",
        "true_skip": True,
        "compress": 2,
        "lstm": 0,
        "disable_norm_outer_blocks": 0,
        "encoder": {},
        "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
    },
    "rvq": {
        "n_q": 4,
        "q_dropout": False,
        "bins": 512,
        "decay": 0.99,
        "kmeans_init": True,
        "kmeans_iters": 20,
        "threshold_ema_dead_code": 0,
    },
}


@dataclass(frozen=True)
class CodecSettings:
    """How the codec is trained."""

    minutes: float = 40.0
    seed: int = 0
    batch: int = 12
    crop_frames: int = 24
    learning_rate: float = 1.5e-3
    warmup_s: float = 20.0
    snr_weight: float = 0.04
    band_snr_weight: float = 0.1
    # Higher up the phase is out of reach, and asking for it would reward silence: the spectrum alone is asked for.
    n_waveform_bands: int = 4
    l1_weight: float = 4.0
    stft_weight: float = 4.0
    commit_weight: float = 0.25
    # The first steps go around the quantiser: k-means on an untrained encoder leaves most codes unused for good.
    n_unquantised: int = 700
    n_kmeans_batches: int = 8
    # So does a share of each batch later: what no code can say yet would never be learnt through the quantiser.
    bypass_share: float = 0.3
    revive_every: int = 30
    settled_after: float = 0.7
    dead_usage: float = 0.05
    save_every_s: float = 60.0


def build_codec() -> CompressionModel:
    """The untrained codec, in training mode."""
    return builders.get_compression_model(OmegaConf.create({**CODEC_CONFIG, "device": "cpu"}))


def draw_crop(rng: np.random.Generator, n_frames: int) -> synth.Samples:
    """A crop [n_frames * 640] of a random song; one in six off the frame grid, one in four at another gain."""
    song = synth.draw_song(rng)
    offset = int(rng.integers(0, song.bar_frames))
    crop = synth.render(song, synth.draw_score(song, rng), n_frames + 1, offset)
    shift = int(rng.integers(synth.FRAME)) if rng.random() < 1 / 6 else 0
    gain = 10 ** (rng.uniform(-6, 3) / 20) if rng.random() < 1 / 4 else 1.0
    return crop[shift : shift + n_frames * synth.FRAME] * np.float32(gain)


def draw_batch(rng: np.random.Generator, batch: int, n_frames: int) -> Tensor:
    """Crops [B, 1, N]."""
    return torch.from_numpy(np.stack([draw_crop(rng, n_frames) for _ in range(batch)]))[:, None]


def snr_db(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-noise ratio in dB over the last axis."""
    noise = (reference - estimate).square().mean(-1)
    return 10 * torch.log10((reference.square().mean(-1) + 1e-6) / (noise + 1e-6))


def band_snr_db(reference: Tensor, estimate: Tensor) -> Tensor:
    """SNR in dB of [B, 1, N] in each band [B, 1, 6]; levels 60 dB below full scale count as silence."""
    n_samples = reference.shape[-1]
    edges = [0, *(round(hz * n_samples / synth.SAMPLE_RATE) for hz in BAND_EDGES_HZ), n_samples // 2 + 1]
    sizes = [high - low for low, high in pairwise(edges)]
    powers = []
    for wav in (reference, reference - estimate):
        spectrum = torch.view_as_real(torch.fft.rfft(wav)).square().sum(-1) * (2 / n_samples**2)
        powers.append(torch.stack([band.sum(-1) for band in spectrum.split(sizes, dim=-1)], dim=-1))
    return 10 * torch.log10((powers[0] + 1e-6) / (powers[1] + 1e-6))


def stft_loss(reference: Tensor, estimate: Tensor) -> Tensor:
    """Mean L1 distance of the log magnitudes of [B, 1, N] at three resolutions."""
    wav = torch.cat([reference, estimate])[:, 0]
    total = torch.zeros(())
    for n_fft in (128, 512, 2048):
        spectrum = torch.stft(wav, n_fft, n_fft // 2, window=torch.hann_window(n_fft), return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1) / n_fft
        true, guess = (0.5 * torch.log(power + 1e-5)).chunk(2)
        total = total + l1_loss(guess, true)
    return total / 3


@torch.no_grad()
def evaluate(codec: CompressionModel, n_clips: int = 40) -> dict[str, float]:
    """Mean SNR in dB on unseen four-second clips, and the perplexity of each codebook."""
    codec.eval()
    rng = np.random.default_rng(10_000_019)
    songs = [synth.draw_song(rng) for _ in range(n_clips)]
    clips = np.stack([synth.render(song, synth.draw_score(song, rng), 200) for song in songs])
    wav = torch.from_numpy(clips)[:, None]
    codes, _ = codec.encode(wav)
    decoded = codec.decode(codes, None)
    figures = {"snr_db": float(snr_db(wav, decoded).mean())}
    figures |= {f"band_{i}": float(snr) for i, snr in enumerate(band_snr_db(wav, decoded).mean((0, 1)))}
    for k in range(codes.shape[1]):
        share = torch.bincount(codes[:, k].flatten(), minlength=codec.cardinality).float()
        share = share / share.sum()
        figures[f"perplexity_{k}"] = float(torch.exp(-(share * torch.log(share + 1e-9)).sum()))
    codec.train()
    return figures


@torch.no_grad()
def init_codes(codec: CompressionModel, crops: list[Tensor]) -> None:
    """Run audiocraft's k-means initialisation on the encoded batches of crops [B, 1, N]."""
    latents = torch.cat([codec.encoder(wav) for wav in crops])
    codec.quantizer(latents, codec.frame_rate)


@torch.no_grad()
def revive_codes(codec: CompressionModel, wav: Tensor, dead_usage: float) -> None:
    """Move codes that a step picks less than `dead_usage` times onto residuals of crops [B, 1, N].

    audiocraft's own expiry is off: it moves the code but not its running average, which puts it back the same step.
    """
    residual = codec.encoder(wav).transpose(1, 2).flatten(0, 1)
    for layer in codec.quantizer.vq.layers:
        book = layer._codebook
        dead = (book.cluster_size < dead_usage).nonzero()[: len(residual), 0]
        fresh = residual[torch.randperm(len(residual))[: len(dead)]]
        usage = 2 * dead_usage
        book.embed[dead], book.embed_avg[dead], book.cluster_size[dead] = fresh, fresh * usage, usage
        residual = residual - book.dequantize(book.quantize(residual))


def train_step(
    codec: CompressionModel, optimiser: torch.optim.Optimizer, wav: Tensor, n_bypass: int, s: CodecSettings
) -> float:
    """One step on crops [B, 1, N], the first `n_bypass` of which go around the quantiser; their mean SNR in dB."""
    latents, penalty = codec.encoder(wav), torch.zeros(())
    if n_bypass < len(wav):
        quantised = codec.quantizer(latents, codec.frame_rate)
        latents, penalty = torch.cat([latents[:n_bypass], quantised.x[n_bypass:]]), quantised.penalty
    guess = codec.decoder(latents)
    snr = snr_db(wav, guess).mean()
    loss = s.l1_weight * l1_loss(guess, wav) + s.stft_weight * stft_loss(wav, guess) + s.commit_weight * penalty
    loss = loss - s.snr_weight * snr - s.band_snr_weight * band_snr_db(wav, guess)[..., : s.n_waveform_bands].mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
    optimiser.step()
    return float(snr.detach())


def learning_rate(s: CodecSettings, elapsed_s: float) -> float:
    """Warm-up, then a cosine to a twentieth, over wall time: the budget is minutes, not steps."""
    done = min(elapsed_s / (s.minutes * 60), 1.0)
    warmup = min(elapsed_s / s.warmup_s + 0.01, 1.0)
    return s.learning_rate * warmup * (0.525 + 0.475 * math.cos(math.pi * done))


def resume(path: Path, codec: CompressionModel, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    """Load a former run's state at `path`, if there is one; returns its (steps, seconds)."""
    if not path.exists():
        return 0, 0.0
    saved = torch.load(path, weights_only=True)
    codec.load_state_dict(saved["codec"])
    optimiser.load_state_dict(saved["optimiser"])
    return saved["step"], saved["elapsed_s"]


def report(codec: CompressionModel, step: int, elapsed_s: float, train_snr_db: float) -> None:
    """Print the losses; on unseen clips too, once there are codes."""
    figures = evaluate(codec) if codec.quantizer.vq.layers[0].inited else {}
    unseen = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    print(f"step {step} {elapsed_s:.0f} s, train snr_db {train_snr_db:.2f}, unseen {unseen}", flush=True)


def train(s: CodecSettings, path: Path) -> None:
    """Train for `s.minutes` in all, resuming from `path` if it is there, and leaves the codec at `path`."""
    torch.manual_seed(s.seed)
    codec = build_codec().train()
    optimiser = torch.optim.AdamW(codec.parameters(), s.learning_rate, betas=(0.8, 0.99), weight_decay=0.0)
    step, elapsed_s = resume(path, codec, optimiser)
    started, saved_at, snrs = time.monotonic() - elapsed_s, elapsed_s, list[float]()
    while elapsed_s < s.minutes * 60:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(s, elapsed_s)
        # Seeded by the step, so that a resumed run draws what an unbroken one would have.
        wav = draw_batch(np.random.default_rng((s.seed, step)), s.batch, s.crop_frames)
        settled = elapsed_s > s.settled_after * s.minutes * 60
        n_bypass = s.batch if step < s.n_unquantised else 0 if settled else round(s.bypass_share * s.batch)
        snrs.append(train_step(codec, optimiser, wav, n_bypass, s))
        step += 1
        if step == s.n_unquantised:
            rngs = [np.random.default_rng((s.seed, 1, i)) for i in range(s.n_kmeans_batches)]
            init_codes(codec, [draw_batch(rng, 2 * s.batch, s.crop_frames) for rng in rngs])
        elif step % s.revive_every == 0 and step > s.n_unquantised and not settled:
            revive_codes(codec, wav, s.dead_usage)
        elapsed_s = time.monotonic() - started
        if elapsed_s - saved_at > s.save_every_s or elapsed_s >= s.minutes * 60:
            saved_at = elapsed_s
            state = {"codec": codec.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**state, "step": step, "elapsed_s": elapsed_s}, path)
            report(codec, step, elapsed_s, float(np.mean(snrs)))
            snrs.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--minutes", type=float, default=CodecSettings.minutes)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(CodecSettings(minutes=args.minutes), args.work / "codec.pt")


if __name__ == "__main__":
    main()
