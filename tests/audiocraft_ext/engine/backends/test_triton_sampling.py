"""Sampling in one Triton kernel gives the tokens of plain torch: on CUDA if available, else in Triton's interpreter."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from audiocraft_ext.engine.backends import triton_sampling
from audiocraft_ext.engine.pattern import UNKNOWN
from audiocraft_ext.engine.slots import SlotTable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
N_SLOTS, N_CODEBOOKS, N_STEPS = 8, 4, 20
SLOTS = torch.tensor([0, 1, 2, 3, 5, 6, 7], device=DEVICE)  # one is not in the step


def table_of(generator: torch.Generator, vocabulary: int) -> SlotTable:
    """Slots of all kinds: guided or not, greedy, top-k, top-p, both, neither; some inactive; some tokens given."""
    table = SlotTable(N_SLOTS, N_CODEBOOKS, N_STEPS, 2 * N_STEPS, DEVICE)
    table.sequence[:] = torch.where(torch.rand(table.sequence.shape, generator=generator) < 0.8, UNKNOWN, 5)
    table.uniform_bits[:] = torch.randint(2**24, table.uniform_bits.shape, generator=generator)
    table.uniform_bits[:, ::2, 0] = 0
    table.step[:] = torch.randint(1, N_STEPS, (N_SLOTS,), generator=generator)
    table.position[:] = table.step + 3
    table.is_active[:] = torch.rand(N_SLOTS, generator=generator) < 0.8
    table.guidance[:] = torch.tensor([1, 3, 0, -2, 1, 3, 1.5, 1])
    table.params.temperature[:] = torch.tensor([1, 0, 0.7, 1, 1, 1.3, 1, 1e-6])
    table.params.top_k[:] = torch.tensor([0, 5, 250, 3, 1, vocabulary, 10, 1])
    table.params.top_p[:] = torch.tensor([0, 0, 0.8, 0, 0.5, 0.3, 1, 1e-12])
    return table


def logits_of(generator: torch.Generator, vocabulary: int, dtype: torch.dtype) -> Tensor:
    logits = 3 * torch.randn(2 * N_SLOTS, N_CODEBOOKS, vocabulary, generator=generator)
    logits[::3] = logits[::3].round()  # many equals, at the cuts too
    logits[2] = logits[3] = 0.25  # nothing but equals
    return logits.to(DEVICE, dtype)


def both(table: SlotTable, logits: Tensor) -> tuple[SlotTable, SlotTable]:
    """The table after a step of each kind."""
    ours, theirs = deepcopy(table), deepcopy(table)
    n_arrived = torch.zeros(N_SLOTS, dtype=torch.int32, device=DEVICE)
    rows = (2 * SLOTS, 2 * SLOTS + 1)
    triton_sampling.sample(ours, SLOTS, logits, rows, n_arrived)
    theirs.sample(SLOTS, logits[rows[0]], logits[rows[1]])
    assert not n_arrived.any()
    return ours, theirs


@pytest.mark.parametrize(("vocabulary", "dtype"), [(48, torch.float32), (64, torch.float16)], ids=str)
def test_a_step_draws_torch_s_tokens_and_advances_alike(vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    n_drawn = 0
    for _ in range(3):
        table = table_of(generator, vocabulary)
        ours, theirs = both(table, logits_of(generator, vocabulary, dtype))
        # Of 1,476 tokens, drawn so at both sizes and types, none differed.
        for name in ("sequence", "step", "position", "is_not_finite"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        n_drawn += int((ours.sequence != table.sequence).sum())
    assert n_drawn > 40


def test_logits_that_are_not_finite_mark_their_slot_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    table = table_of(generator, 64)
    table.is_active[:] = True
    logits = logits_of(generator, 64, torch.float32)
    logits[4, 1, 7], logits[7, 3, 0], logits[12, 0] = torch.nan, torch.inf, -torch.inf
    ours, theirs = both(table, logits)
    assert ours.is_not_finite.nonzero().flatten().tolist() == [2, 3, 6]
    assert torch.equal(ours.is_not_finite, theirs.is_not_finite)
    assert torch.equal(ours.sequence, theirs.sequence)
