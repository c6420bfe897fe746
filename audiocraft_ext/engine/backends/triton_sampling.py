"""The Triton kernel that samples a step: logits of all rows → tokens in the slots' sequences, in one launch.

The oracle is ``SlotTable.sample`` with the functions of sampling.py. Knows nothing of models.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiocraft_ext.engine.backends import triton_launch
from audiocraft_ext.engine.pattern import UNKNOWN
from audiocraft_ext.engine.slots import SlotTable


@triton.jit
def _mass(probability):
    return (probability.to(tl.float64) * 4294967296.0).to(tl.int64)


@triton.jit
def _cut(bits, weight, bound):
    # The largest number from which on the weights add up to more than the bound, by bisection: the bits of numbers
    # from 0 to 1 are in their order.
    cut = tl.full((), 0, tl.int32)
    bit = tl.full((), 1 << 29, tl.int32)
    for _ in range(30):
        total = tl.sum(tl.where(bits >= (cut | bit), weight, 0), axis=0)
        cut = tl.where(total > bound, cut | bit, cut)
        bit = bit >> 1
    return cut


@triton.jit
def _draw(x, inside, temperature, top_k, top_p, noise, V: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    z = tl.where(inside, x / tl.where(temperature > 0.0, temperature, 1.0), float("-inf"))
    z = tl.exp(z - tl.max(z, axis=0))
    p = z / tl.sum(z, axis=0)
    bits, mass = p.to(tl.int32, bitcast=True), _mass(p)
    # The candidates are the first of all tokens, the most probable first, of equals the lower token: those above a
    # cut, and some or all of those at it.
    k = tl.where((top_k > 0) & (top_k < V), top_k, V)
    limit = _mass(top_p)
    cut = _cut(bits, tl.where(limit > 0, mass, 1), tl.where(limit > 0, limit, k - 1))
    above = tl.sum(tl.where(bits > cut, mass, 0), axis=0)
    at_cut = _mass(cut.to(tl.float32, bitcast=True))
    n_equal = tl.sum((bits == cut).to(tl.int64), axis=0)
    n_kept = tl.where(limit > 0, tl.minimum(n_equal, (limit - above) // tl.maximum(at_cut, 1) + 1), n_equal)
    # Before the target and at it lie none but candidates.
    target = (noise * (above + n_kept * at_cut)) >> 24
    cut = _cut(bits, mass, target)
    above = tl.sum(tl.where(bits > cut, mass, 0), axis=0)
    place = (target - above) // tl.maximum(_mass(cut.to(tl.float32, bitcast=True)), 1)
    is_equal = bits == cut
    return tl.sum(tl.where(is_equal & (tl.cumsum(is_equal.to(tl.int32), axis=0) == place + 1), index, 0), axis=0)


@triton.jit
def _sample(
    logits, slots, conditional, unconditional, sequence, noise, step, position, is_active, is_not_finite,
    guidance, temperature, top_k, top_p, n_arrived, n_steps,
    K: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr, UNKNOWN: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    triton_launch.start(EARLY)
    job, codebook = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + job)
    at, active = tl.load(step + slot), tl.load(is_active + slot) != 0
    index = tl.arange(0, BLOCK)
    inside = index < V
    cells = codebook * V + index
    c = tl.load(logits + tl.load(conditional + job) * (K * V) + cells, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(logits + tl.load(unconditional + job) * (K * V) + cells, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(guidance + slot)
    x = tl.where(scale == 1.0, c, u + (c - u) * scale)
    n_bad = tl.sum(tl.where((x - x) == 0.0, 0, 1), axis=0)
    tl.store(is_not_finite + slot, 1, mask=active & (n_bad > 0))
    x = tl.minimum(tl.maximum(tl.where(x == x, x, 0.0), -1e30), 1e30)
    t = tl.load(temperature + slot)
    token = tl.argmax(tl.where(inside, x, float("-inf")), axis=0)
    if active & (t > 0.0):
        bits = tl.load(noise + (slot * n_steps + at) * K + codebook)
        token = _draw(x, inside, t, tl.load(top_k + slot), tl.load(top_p + slot), bits, V, BLOCK)
    cell = sequence + (slot * K + codebook) * n_steps + at
    tl.store(cell, token.to(tl.int64), mask=active & (tl.load(cell) == UNKNOWN))
    # The last of a slot's programs advances it: by then, all of them have read the step.
    if tl.atomic_add(n_arrived + slot, 1) == K - 1:
        tl.store(n_arrived + slot, 0)
        tl.store(step + slot, at + active.to(tl.int64))
        tl.store(position + slot, tl.load(position + slot) + active.to(tl.int64))


def sample(table: SlotTable, slots: Tensor, logits: Tensor, rows: tuple[Tensor, Tensor], n_arrived: Tensor) -> None:
    """``SlotTable.sample`` of slots [J] from logits [B, K, V] and their (conditional, unconditional) rows [J].

    `n_arrived` [slots] counts a slot's programs, int32 and zeros before and after.
    """
    _, n_codebooks, vocabulary = logits.shape
    params = table.params
    is_early = triton_launch.starts_early(logits.device)
    # As torch does, each operation is rounded by itself.
    _sample[(len(slots), n_codebooks)](
        logits, slots, *rows, table.sequence, table.uniform_bits, table.step, table.position,
        table.is_active.view(torch.int8), table.is_not_finite.view(torch.int8), table.guidance,
        params.temperature, params.top_k, params.top_p, n_arrived, table.sequence.shape[-1],
        K=n_codebooks, V=vocabulary, BLOCK=triton.next_power_of_2(vocabulary), UNKNOWN=UNKNOWN,
        EARLY=is_early, launch_pdl=is_early, num_warps=8, enable_fp_fusion=False,
    )  # fmt: skip
