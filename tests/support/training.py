"""Examples of random tokens for a tiny LM, and a small training of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from audiocraft_ext.training.loop import LoopSettings, Outcome, StepReport, fine_tune
from audiocraft_ext.training.tokens import Example
from audiocraft_ext.upstream import LMModel

SETTINGS = LoopSettings("lora", rank=2, lr=1e-2, n_steps=6, batch_size=3, warmup=2, save_every=2, evaluate_every=2)


def examples(lm: LMModel, n_examples: int = 5, seed: int = 0, n_frames: int = 30) -> list[Example]:
    """Of few tokens and different lengths, with captions of one to three words, and a melody if the LM follows one."""
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
    return fine_tune(
        lm, examples(lm), held_out, replace(SETTINGS, **settings), folder, on_step, examples(lm, 1, seed=2)
    )
