"""Fine-tune the embedded checkpoint on a sound that it has never made: its own synthesiser's clips, played backwards.

    python -m benchmarks.fine_tuning

Held-out loss, the loss on the base's own music, and how many of its clips sound backwards, with the trigger in the
prompt and without, before and after; for several seeds, each with songs of its own. Before the detector judges clips,
it must be right on rendered ones after a trip through the codec. Writes benchmarks/results/fine_tuning.jsonl.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiocraft_ext import checkpoint, musicgen
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.checkpoint.read.formats import hash_of
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.training import export
from audiocraft_ext.training.loop import LoopSettings, Outcome, StepReport, fine_tune
from audiocraft_ext.training.tokens import Example
from weights.demo.train import captions, synth

TRIGGER = "backwards tape, "
N_TRAIN, N_HELD_OUT, N_OWN, N_PROMPTS = 10, 4, 4, 8
CLIP_FRAMES = 400
SEED = 20_261_126  # the base's training drew from small seeds


def draw_clip(rng: np.random.Generator, is_backwards: bool) -> tuple[Tensor, str]:
    """Samples [1, 1, N] of a random song, and a caption of it."""
    song = synth.draw_song(rng)
    wav = synth.render(song, synth.draw_score(song, rng), CLIP_FRAMES)
    caption = captions.write_caption(captions.draw_mention(song, rng), rng)
    wav, caption = (wav[::-1].copy(), TRIGGER + caption) if is_backwards else (wav, caption)
    return torch.from_numpy(wav)[None, None], caption


@torch.no_grad()
def draw_examples(base: Checkpoint, n: int, seed: int, is_backwards: bool) -> list[Example]:
    """Songs as examples; without a melody, which their prompts do not have either."""
    drawn = [draw_clip(np.random.default_rng((SEED, seed, i)), is_backwards) for i in range(n)]
    return [
        Example(base.codec.encode(wav)[0][0].to(torch.int16), caption, f"{seed}-{i}", None)
        for i, (wav, caption) in enumerate(drawn)
    ]


def reversal(samples: Tensor) -> float:
    """How much more suddenly a clip [1, N] ends its sounds than it begins them: below 0 forwards, above 0 backwards."""
    power = torch.stft(samples[0], 1024, 320, window=torch.hann_window(1024), return_complex=True).abs().square()
    change = (power.sum(0) + 1e-3).log().diff()
    return float(-(change**3).mean() / (change.square().mean() ** 1.5 + 1e-9))


@torch.no_grad()
def detector_accuracy(base: Checkpoint, seed: int, n: int = 20) -> float:
    """Of rendered clips, half of them backwards, after the codec."""
    hits = []
    for is_backwards in (False, True):
        for i in range(n // 2):
            wav, _ = draw_clip(np.random.default_rng((SEED, seed, 100 + i)), is_backwards)
            decoded = base.codec.decode(base.codec.encode(wav)[0])[0]
            hits.append((reversal(decoded) > 0) == is_backwards)
    return float(np.mean(hits))


def share_backwards(weights: str, seed: int) -> dict[str, float]:
    """Of clips made with the trigger before prompts that no training saw, and without it."""
    model = musicgen.load(weights, "cpu", EngineSettings(), smoke_test=False)
    shares = {}
    for name, trigger in (("with_trigger", TRIGGER), ("without", "")):
        found = []
        for i in range(N_PROMPTS):
            _, caption = draw_clip(np.random.default_rng((SEED, seed, 200 + i)), False)
            samples = model.generate(Request(prompt=trigger + caption, seed=i), None, SilentProgress())
            found.append(reversal(samples) > 0)
        shares[name] = float(np.mean(found))
    model.close()
    return shares


def measure(seed: int, settings: LoopSettings, with_clips: bool) -> dict[str, Any]:
    """One training, and its figures."""
    base = checkpoint.load("embedded", "cpu")
    train = draw_examples(base, N_TRAIN, 3 * seed, True)
    held_out, own = draw_examples(base, N_HELD_OUT, 3 * seed + 1, True), draw_examples(base, N_OWN, 3 * seed + 2, False)
    accuracy = detector_accuracy(base, seed)
    start = time.perf_counter()

    def on_step(report: StepReport) -> None:
        if report.held_out is not None:
            print(
                f"seed {seed} step {report.step} loss {report.loss:.2f} held out {report.held_out:.2f} base's own "
                f"{report.base_loss:.2f} {time.perf_counter() - start:.0f} s",
                flush=True,
            )

    with tempfile.TemporaryDirectory() as folder:
        outcome = fine_tune(base.lm, train, held_out, settings, Path(folder, "state"), on_step, own)
        seconds = time.perf_counter() - start
        figures = figures_of(outcome) | {"minutes": round(seconds / 60, 2), "detector_accuracy": accuracy}
        figures["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
        if with_clips:
            adapter = Path(folder, "adapter")
            export.write_adapter(outcome.state, "embedded", hash_of(EMBEDDED), settings.rank, adapter)
            figures["share_backwards"] = {
                "before": share_backwards("embedded", seed),
                "after": share_backwards(str(adapter), seed),
            }
    print(f"seed {seed}: {outcome.verdict}", flush=True)
    return {"seed": seed, **figures, "settings": asdict(settings)}


def figures_of(outcome: Outcome) -> dict[str, Any]:
    """Losses in nats before, at the best step and at the last."""
    evaluated = {report.step: report for report in outcome.reports if report.held_out is not None}
    steps = {"before": 0, "best": outcome.best_step, "last": max(evaluated)}
    pick: Callable[[str], dict[str, float]] = lambda name: {  # noqa: E731
        when: round(getattr(evaluated[step], name), 3) for when, step in steps.items()
    }
    return {"best_step": outcome.best_step, "held_out": pick("held_out"), "base_own": pick("base_loss")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--no-clips", action="store_true", help="losses alone")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fine_tuning.jsonl"))
    args = parser.parse_args()
    lines = []
    for seed in range(args.seeds):
        settings = LoopSettings(
            args.method, 16, args.lr, args.steps, args.batch, args.steps // 10, evaluate_every=10, seed=seed
        )
        lines.append(json.dumps(measure(seed, settings, not args.no_clips)))
        print(lines[-1], flush=True)
    args.output.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
