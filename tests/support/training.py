"""Examples of random tokens for a tiny LM, and a small training of it, also as a program that a test kills."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.training.loop import LoopSettings, Outcome, StepReport, fine_tune
from audiocraft_ext.training.tokens import Example
from audiocraft_ext.upstream import LMModel
from tests.support import tiny

SETTINGS = LoopSettings("lora", rank=2, lr=1e-2, n_steps=6, batch_size=3, warmup=2, save_every=2, evaluate_every=2)


def examples(lm: LMModel, n_examples: int = 5, seed: int = 0, n_frames: int = 30) -> list[Example]:
    """Of different lengths, of few tokens, with captions of one to three words, and a melody where the LM follows one.
    """
    generator = torch.Generator().manual_seed(seed)
    melody: Any = dict(lm.condition_provider.conditioners.items()).get("self_wav")
    made = []
    for i in range(n_examples):
        codes = torch.randint(4, (lm.n_q, n_frames + i), generator=generator, dtype=torch.int16)
        chroma = None if melody is None else torch.rand(melody.chroma_len, 12, generator=generator)
        made.append(Example(codes, " ".join(["drums", "bass", "pad"][: 1 + i % 3]), f"song {seed} {i}", chroma))
    return made


def train(lm: LMModel, folder: Path, reports: list[StepReport] | None = None, **settings: Any) -> Outcome:
    """A small training; ``settings`` replace some of ``SETTINGS``."""
    held_out = examples(lm, 2, seed=1)
    on_step = ([] if reports is None else reports).append
    return fine_tune(lm, examples(lm), held_out, replace(SETTINGS, **settings), folder, on_step, examples(lm, 1, seed=2))


def main() -> None:
    """Train the tiny checkpoint in ``argv[1]`` with the state in ``argv[2]``, slowly; the steps are printed."""
    torch.set_num_threads(1)
    lm = checkpoint.load(sys.argv[1], "cpu").lm

    def on_step(report: StepReport) -> None:
        print(report.step, flush=True)
        time.sleep(0.05)

    settings = replace(SETTINGS, n_steps=40, save_every=1)
    fine_tune(lm, examples(lm), examples(lm, 2, seed=1), settings, Path(sys.argv[2]), on_step)


def load(folder: Path, kind: tiny.Kind) -> LMModel:
    """A tiny checkpoint's LM, written to ``folder``."""
    return checkpoint.load(str(tiny.write(folder, kind)), "cpu").lm


if __name__ == "__main__":
    main()
