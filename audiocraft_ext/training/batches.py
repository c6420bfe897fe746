"""Which examples a step is made of, and their tokens in one tensor. All of it is a function of the seed and the step.

So a training that was killed, or that runs in several processes, sees the same batches.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiocraft_ext.training.conditions import Conditions, Prepared
from audiocraft_ext.training.tokens import Example


@dataclass(frozen=True)
class Batch:
    """Codes [B, K, T] of examples, which of their frames are not padding [B, 1, T], and their conditions."""

    codes: Tensor
    is_music: Tensor
    conditions: Prepared

    def __getitem__(self, rows: list[int]) -> "Batch":
        return Batch(self.codes[rows], self.is_music[rows], self.conditions[rows])


def collate(examples: Sequence[Example], conditions: Conditions, seed: int | None) -> Batch:
    """A batch, padded at its end; ``seed`` draws what conditions are dropped, None is for an evaluation."""
    lengths = torch.tensor([example.codes.shape[-1] for example in examples])
    n_frames = int(lengths.max())
    codes = torch.zeros(len(examples), examples[0].codes.shape[0], n_frames, dtype=torch.int64)
    for row, example in enumerate(examples):
        codes[row, :, : lengths[row]] = example.codes
    prepared = conditions.prepare(examples, seed)
    is_music = (torch.arange(n_frames) < lengths[:, None])[:, None]
    return Batch(codes.to(prepared.mask.device), is_music.to(prepared.mask.device), prepared)


def derived_seed(seed: int, what: str, index: int) -> int:
    """A seed of its own for each use of randomness."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what} {index}".encode()).digest()[:7], "big")


def rows_of_step(n_examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The examples of a step, counted from 0: one random order a pass through them, cut into batches."""
    rows = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, index = divmod(position, n_examples)
        generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
        rows.append(int(torch.randperm(n_examples, generator=generator)[index]))
    return rows
