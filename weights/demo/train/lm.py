"""Train the LM of the melody kind on codes, chroma and embedded captions. Knows nothing of audio.

    python -m weights.demo.train.lm

audiocraft builds and runs it; only the conditions are assembled here, because text and chroma were embedded once, in
advance. A dropped condition equals audiocraft's absent condition: zeros for text, the projection of silence for chroma.
Text is cross-attended to and chroma prepended, so a frame's position does not depend on the prompt, and positions are
rotary too: "one bar ago" is then a distance to learn, not a sum.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import cross_entropy

from audiocraft_ext.checkpoint.build import untrained_lm
from audiocraft_ext.upstream import LMModel
from weights.demo.train.lm_config import LM_CONFIG
from weights.demo.train.text_encoder import TextSettings
from weights.demo.train.tokens import CLIP_FRAMES


@dataclass(frozen=True)
class LMSettings:
    """How the LM is trained."""

    minutes: float = 127.0
    seed: int = 0
    batch: int = 8
    learning_rate: float = 2e-3
    warmup_s: float = 30.0
    weight_decay: float = 0.05
    # Four-second crops teach sounds, tempo and instruments at half the price; whole clips come after.
    short_until: float = 0.2
    short_frames: int = 200
    # A prompt decides the first bar; later bars repeat it and soon add no loss. First bars come without a melody, which
    # would give away the tempo: the text is needed.
    bars_from: float = 0.3
    bars_p: float = 0.8
    bar_batch: int = 16
    null_p: float = LM_CONFIG["classifier_free_guidance"]["training_dropout"]
    no_text_p: float = 0.1
    melody_p: float = 0.4
    codebook_weights: tuple[float, ...] = (3.0, 1.0, 0.4, 0.25)
    n_held_out: int = 256
    save_every_s: float = 120.0


def build_lm(text_folder: Path) -> LMModel:
    """The untrained LM on the CPU, with the text encoder in `text_folder`."""
    config = OmegaConf.create(LM_CONFIG)
    config.conditioners.description.t5.name = text_folder.name
    config.transformer_lm.memory_efficient = True  # whole clips are safe with it, and faster
    return untrained_lm(config, text_folder.parent, "cpu")


@dataclass(frozen=True)
class Batch:
    """codes [B, K, T]; chroma [B, T', 12], zeros where dropped; text [B, tokens, W] and its mask; loss_from [B]."""

    codes: Tensor
    chroma: Tensor
    text: Tensor
    text_mask: Tensor
    loss_from: Tensor


def pad_texts(embeddings: list[Tensor | None], n_padding: int) -> tuple[Tensor, Tensor]:
    """([B, tokens, W], mask [B, tokens]); None is an absent text, and all rows get at least one token."""
    longest = max([len(states) for states in embeddings if states is not None], default=1) + n_padding
    text = torch.zeros(len(embeddings), longest, TextSettings.width)
    mask = torch.zeros(len(embeddings), longest)
    for row, states in enumerate(embeddings):
        if states is not None:
            text[row, : len(states)] = states.float()
            mask[row, : len(states)] = 1
    return text, mask


def draw_batch(data: dict[str, Any], rows: list[int], rng: np.random.Generator, n_frames: int, s: LMSettings) -> Batch:
    """The captions `rows` (numbered through all clips) with their clips, conditions dropped at random."""
    n_captions = len(data["embeddings"]) // len(data["codes"])
    clips = torch.tensor(rows) // n_captions
    null = rng.random(len(rows)) < s.null_p
    no_text = null | (rng.random(len(rows)) < s.no_text_p)
    melody = torch.from_numpy(~null & (rng.random(len(rows)) < s.melody_p))
    texts = [None if no_text[i] else data["embeddings"][row] for i, row in enumerate(rows)]
    text, text_mask = pad_texts(texts, int(rng.integers(4)))
    chroma = data["chroma"][clips].float() * melody[:, None, None]
    return Batch(data["codes"][clips, :, :n_frames].long(), chroma, text, text_mask, data["loss_from"][clips])


def draw_first_bars(bars: dict[str, Any], rows: list[int], rng: np.random.Generator, no_text_p: float) -> Batch:
    """First bars `rows` with their captions, some dropped, and the chroma of no melody."""
    texts = [None if rng.random() < no_text_p else bars["embeddings"][row] for row in rows]
    text, text_mask = pad_texts(texts, int(rng.integers(4)))
    chroma = torch.zeros(len(rows), *bars["chroma_shape"])
    return Batch(bars["codes"][rows].long(), chroma, text, text_mask, torch.zeros(len(rows)))


def conditions(lm: LMModel, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """Condition tensors and their masks, as audiocraft's conditioners give them."""
    conditioners = lm.condition_provider.conditioners
    text = conditioners["description"].output_proj(batch.text) * batch.text_mask[..., None]
    chroma = conditioners["self_wav"].output_proj(batch.chroma)
    return {"description": (text, batch.text_mask), "self_wav": (chroma, torch.ones(chroma.shape[:2]))}


def codebook_losses(lm: LMModel, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats of each codebook [K] over the frames that count."""
    output = lm.compute_predictions(batch.codes, [], conditions(lm, batch))
    frames = torch.arange(batch.codes.shape[-1])
    keep = output.mask & (frames >= batch.loss_from[:, None])[:, None]
    losses = []
    for k in range(batch.codes.shape[1]):
        losses.append(cross_entropy(output.logits[:, k][keep[:, k]].float(), batch.codes[:, k][keep[:, k]]))
    return torch.stack(losses)


def epochs(data: dict[str, Any], s: LMSettings, first_step: int) -> Iterator[tuple[int, list[int]]]:
    """(step, caption numbers) for ever; a batch's captions are alike in length, so that every prefix length is seen."""
    lengths = np.array([len(states) for states in data["embeddings"]])
    step = 0
    for epoch in range(10**6):
        rng = np.random.default_rng((s.seed, 11, epoch))
        order = rng.permutation(len(lengths))
        pools = [order[i : i + 64 * s.batch] for i in range(0, len(order), 64 * s.batch)]
        for pool in pools:
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches = [pool[i : i + s.batch] for i in range(0, len(pool), s.batch)]
            for i in rng.permutation(len(batches)):
                if step >= first_step:
                    yield step, batches[i].tolist()
                step += 1


def make_optimisers(lm: LMModel, s: LMSettings) -> list[torch.optim.Optimizer]:
    """Muon for the transformer's matrices, AdamW for embeddings, heads, norms and projections."""
    matrices = [p for p in lm.transformer.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in lm.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, s.learning_rate, weight_decay=s.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, s.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def set_learning_rate(optimisers: list[torch.optim.Optimizer], s: LMSettings, elapsed_s: float) -> None:
    """Warm-up, then a cosine to zero, over wall time."""
    done = min(elapsed_s / (s.minutes * 60), 1.0)
    rate = s.learning_rate * min(elapsed_s / s.warmup_s + 0.01, 1.0) * 0.5 * (1 + math.cos(math.pi * done))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate


def train_step(
    lm: LMModel, optimisers: list[torch.optim.Optimizer], batch: Batch, codebook_weights: tuple[float, ...]
) -> Tensor:
    """One step; the losses in nats [K] before it."""
    with torch.autocast("cpu", torch.bfloat16):
        losses = codebook_losses(lm, batch)
    lm.zero_grad(set_to_none=True)
    (losses * torch.tensor(codebook_weights)).sum().backward()
    torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
    return losses.detach()


def resume(path: Path, lm: LMModel, optimisers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    """Load a former run's state at `path`, if there is one; returns its (steps, seconds)."""
    if not path.exists():
        return 0, 0.0
    saved = torch.load(path, weights_only=True)
    lm.load_state_dict(saved["lm"])
    for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    return saved["step"], saved["elapsed_s"]


@torch.no_grad()
def held_out_losses(lm: LMModel, bars: dict[str, Any], s: LMSettings) -> Tensor:
    """Losses in nats [K] on first bars that training does not see: they reveal memorisation."""
    rng, rows = np.random.default_rng(s.seed), range(len(bars["codes"]))
    batches = [draw_first_bars(bars, list(rows[i : i + s.batch]), rng, 0.0) for i in rows[:: s.batch]]
    with torch.autocast("cpu", torch.bfloat16):
        return torch.stack([codebook_losses(lm, batch) for batch in batches]).mean(0)


def split(data: dict[str, Any], n_held_out: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """First bars to train on, and the last ones."""
    bars, shape = data["first_bars"], data["chroma"].shape[1:]
    cut = len(bars["codes"]) - n_held_out
    train, held_out = ({name: bars[name][part] for name in bars} for part in (slice(cut), slice(cut, None)))
    return {**train, "chroma_shape": shape}, {**held_out, "chroma_shape": shape}


def in_words(losses: Tensor) -> str:
    """Losses [K] to print."""
    return " ".join(f"{loss:.3f}" for loss in losses.tolist())


def train(s: LMSettings, work: Path) -> None:
    """Train for `s.minutes` in all, resuming from `work`/lm.pt if it is there."""
    torch.manual_seed(s.seed)
    data = torch.load(work / "tokens.pt", weights_only=True)
    bars, held_out = split(data, s.n_held_out)
    lm, path = build_lm(work / "text_encoder").train(), work / "lm.pt"
    optimisers = make_optimisers(lm, s)
    first_step, elapsed_s = resume(path, lm, optimisers)
    started, saved_at, recent = time.monotonic() - elapsed_s, elapsed_s, list[Tensor]()
    for step, rows in epochs(data, s, first_step):
        done = elapsed_s / (s.minutes * 60)
        rng = np.random.default_rng((s.seed, 12, step))
        if done > s.bars_from and rng.random() < s.bars_p:
            batch = draw_first_bars(bars, rng.integers(len(bars["codes"]), size=s.bar_batch).tolist(), rng, s.no_text_p)
        else:
            batch = draw_batch(data, rows, rng, s.short_frames if done < s.short_until else CLIP_FRAMES, s)
        set_learning_rate(optimisers, s, elapsed_s)
        recent.append(train_step(lm, optimisers, batch, s.codebook_weights))
        elapsed_s = time.monotonic() - started
        if elapsed_s - saved_at > s.save_every_s or elapsed_s >= s.minutes * 60:
            saved_at = elapsed_s
            state = {"lm": lm.state_dict(), "optimisers": [optimiser.state_dict() for optimiser in optimisers]}
            torch.save({**state, "step": step + 1, "elapsed_s": elapsed_s}, path)
            nats = in_words(torch.stack(recent).mean(0))
            unseen = in_words(held_out_losses(lm, held_out, s))
            print(f"step {step + 1} {elapsed_s:.0f} s, nats {nats}, unseen first bars {unseen}", flush=True)
            recent.clear()
        if elapsed_s >= s.minutes * 60:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--minutes", type=float, default=LMSettings.minutes)
    args = parser.parse_args()
    train(LMSettings(minutes=args.minutes), args.work)


if __name__ == "__main__":
    main()
