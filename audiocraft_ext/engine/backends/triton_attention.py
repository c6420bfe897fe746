"""The Triton kernel of a step's attention, in one launch; its oracle is ``torch.StepAttention``.

Imported only where it is used: Triton exists on Linux alone. A row is reduced in an order that depends on its own
length and on nothing else.

An int8 cache has the CPU's layout, each head's quantisation step behind it: a tile's heads and steps are one stretch of
memory, read whole. Heads of 68 bytes are loaded by 4 bytes in place of 16, in more instructions and no more traffic.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiocraft_ext.engine.backends import triton_launch

# Positions that one program reads, and how many of them at a time. The loop starts the loads of two tiles before it
# needs the first: with two in all, it waits for the memory once. For one clip of the medium size that is 96 programs at
# 256 positions, 576 at 1,500: no more than an H100 runs at once. Not tuned yet: no GPU was available.
SPLIT, TILE = 128, 64


@triton.jit
def _load_heads(cache, steps, base, offsets, valid, columns, HEAD: tl.constexpr, WIDTH: tl.constexpr):
    """Numbers [TILE, HEAD] of the heads in cells base + offsets [TILE], and the steps [TILE] to multiply them by."""
    cells = base * WIDTH + offsets[:, None] * WIDTH + columns[None, :]
    x = tl.load(cache + cells, mask=valid[:, None], other=0.0).to(tl.float32)
    if WIDTH == HEAD:
        step = tl.full(offsets.shape, 1.0, tl.float32)
    else:
        words: tl.constexpr = WIDTH // 4
        step = tl.load(steps + base * words + offsets * words + words - 1, mask=valid, other=0.0)
    return x, step


@triton.jit
def _store_head(cache, steps, cell, x, columns, HEAD: tl.constexpr, WIDTH: tl.constexpr):
    """Write a head to a cell; what it reads as."""
    if WIDTH == HEAD:
        stored = x.to(cache.dtype.element_ty)
        step = 1.0
    else:
        largest = tl.max(tl.abs(x), axis=0)
        # The last bits of a sum whose first bits are known: to the nearest integer, ties to the even one.
        x = (x * tl.div_rn(127.0, tl.maximum(largest, 1e-30)) + 12582912.0) - 12582912.0
        stored = x.to(tl.int8)
        step = tl.div_rn(largest, 127.0) + tl.sum(x * 0.0, axis=0)  # NaN if a number is not finite
        tl.store(steps + (cell + 1) * (WIDTH // 4) - 1, step)
    tl.store(cache + cell * WIDTH + columns, stored)
    return stored.to(tl.float32) * step


@triton.jit
def _read(
    q, keys, values, key_steps, value_steps, base, columns, first, n_kept,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    mixed = tl.zeros((HEAD,), tl.float32)
    # Loads of a tile are started while those before are in use. For that they stand under no condition: masked
    # positions are not read, and a tile without valid ones changes nothing.
    for start in tl.range(0, SPLIT, TILE, num_stages=3):
        offsets = first + start + tl.arange(0, TILE)
        valid = offsets < n_kept
        k, k_step = _load_heads(keys, key_steps, base, offsets, valid, columns, HEAD, WIDTH)
        v, v_step = _load_heads(values, value_steps, base, offsets, valid, columns, HEAD, WIDTH)
        scores = tl.where(valid, tl.sum(k * q[None, :], axis=1) * k_step, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=0))
        origin = tl.where(first + start < n_kept, new_top, 0.0)
        share = tl.where(first + start < n_kept, tl.exp(top - origin), 1.0)
        weights = tl.where(valid, tl.exp(scores - origin), 0.0)
        total = total * share + tl.sum(weights, axis=0)
        mixed = mixed * share + tl.sum((weights * v_step)[:, None] * v, axis=0)
        top = new_top
    return top, total, mixed


@triton.jit
def _merge(parts, stats, part, is_read, columns, HEAD: tl.constexpr):
    # Past the first cache, which may hold what stood here before.
    tops = tl.load(stats + part * 2, mask=is_read, other=float("-inf"), cache_modifier=".cg")
    totals = tl.load(stats + part * 2 + 1, mask=is_read, other=0.0, cache_modifier=".cg")
    cells = part[:, None] * HEAD + columns[None, :]
    mixed = tl.load(parts + cells, mask=is_read[:, None], other=0.0, cache_modifier=".cg")
    shares = tl.where(is_read, tl.exp(tops - tl.max(tops, axis=0)), 0.0)
    return tl.sum(shares[:, None] * mixed, axis=0) / tl.sum(shares * totals, axis=0)


@triton.jit
def _attend(
    query, new_key, new_value, keys, values, key_steps, value_steps, rows, lengths, parts, stats, n_arrived, out,
    row_stride, n_heads, capacity, scale,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr, TILE: tl.constexpr, N_SPLITS: tl.constexpr,
    BLOCK: tl.constexpr, APPENDS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    triton_launch.launch_next(EARLY)
    row_head, split = tl.program_id(0), tl.program_id(1)
    row, head = row_head // n_heads, row_head % n_heads
    cache_row = tl.load(rows + row)  # written before this step
    triton_launch.wait(EARLY)
    length = tl.load(lengths + (row if APPENDS else cache_row)).to(tl.int32)
    columns = tl.arange(0, HEAD)
    out_cells = out + row_head * HEAD + columns
    if (length == 0) & (split == 0):  # an idle row
        tl.store(out_cells, tl.zeros((HEAD,), tl.float32).to(out.dtype.element_ty))
    first = split * SPLIT
    if first < length:
        here = row * row_stride + head * HEAD + columns
        base = (cache_row * n_heads + head) * capacity
        q = tl.load(query + here).to(tl.float32) * scale
        n_kept = length - 1 if APPENDS else length
        top, total, mixed = _read(
            q, keys, values, key_steps, value_steps, base, columns, first, n_kept, HEAD, WIDTH, SPLIT, TILE
        )
        if APPENDS:  # noqa: SIM102 (Triton decides this one when it compiles)
            # The newest position comes from the projection, and the row's last program alone writes it to the cache.
            if length <= first + SPLIT:
                k_new, v_new = tl.load(new_key + here).to(tl.float32), tl.load(new_value + here).to(tl.float32)
                k_new = _store_head(keys, key_steps, base + length - 1, k_new, columns, HEAD, WIDTH)
                v_new = _store_head(values, value_steps, base + length - 1, v_new, columns, HEAD, WIDTH)
                score = tl.sum(k_new * q, axis=0)
                new_top = tl.maximum(top, score)
                share, weight = tl.exp(top - new_top), tl.exp(score - new_top)
                total = total * share + weight
                mixed = mixed * share + weight * v_new
                top = new_top
        if length <= SPLIT:
            tl.store(out_cells, (mixed / total).to(out.dtype.element_ty))
        elif N_SPLITS > 1:
            part = row_head * N_SPLITS + split
            tl.store(parts + part * HEAD + columns, mixed)
            tl.store(stats + part * 2, top)
            tl.store(stats + part * 2 + 1, total)
            tl.debug_barrier()  # all threads have written before one of them reports it
            n_parts = tl.cdiv(length, SPLIT)
            if tl.atomic_add(n_arrived + row_head, 1, sem="acq_rel") == n_parts - 1:
                # The last program to arrive merges the parts, in their own order whichever it is.
                tl.store(n_arrived + row_head, 0)
                splits = tl.arange(0, BLOCK)
                merged = _merge(parts, stats, row_head * N_SPLITS + splits, splits < n_parts, columns, HEAD)
                tl.store(out_cells, merged.to(out.dtype.element_ty))


class Attend:
    """Attention of one query a row over the valid part of its cache, in one launch; scratch for R rows is kept."""

    def __init__(self, n_rows: int, n_heads: int, head_width: int, capacity: int, device: torch.device) -> None:
        self.n_splits = triton.cdiv(capacity, SPLIT)
        self.parts = torch.empty(n_rows, n_heads, self.n_splits, head_width, device=device)
        self.stats = torch.empty(n_rows, n_heads, self.n_splits, 2, device=device)
        self.n_arrived = torch.zeros(n_rows, n_heads, dtype=torch.int32, device=device)

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: Tensor, lengths: Tensor, new: Tensor | None
    ) -> Tensor:
        """[R, H Dh] from query [R, H, Dh] and the first positions of `rows` [R] of the cache; zeros where there are 0.

        Caches are [cache rows, H, S, Dh], or in int8 [..., Dh + 4] as in kv_cache.py. `new` [R, 2, H, Dh] is the key
        and value of position length - 1, which go to the cache; query and new are slices of one tensor, so that they
        have one row stride. `lengths` are [R] then; without `new`, of all cache rows.
        """
        n_rows, n_heads, head_width = query.shape
        new_key, new_value = (query, query) if new is None else (new[:, 0], new[:, 1])
        is_int8 = keys.dtype == torch.int8
        steps = [part.view(torch.float32) if is_int8 else part for part in (keys, values)]
        out = torch.empty(n_rows, n_heads * head_width, dtype=query.dtype, device=query.device)
        is_early = triton_launch.starts_early(query.device)
        _attend[(n_rows * n_heads, self.n_splits)](
            query, new_key, new_value, keys, values, *steps, rows, lengths, self.parts, self.stats, self.n_arrived,
            out, query.stride(0), n_heads, keys.shape[2], head_width**-0.5,
            HEAD=head_width, WIDTH=keys.shape[3], SPLIT=SPLIT, TILE=TILE, N_SPLITS=self.n_splits,
            BLOCK=triton.next_power_of_2(self.n_splits), APPENDS=new is not None, EARLY=is_early, launch_pdl=is_early,
            maxnreg=104 if is_int8 else 96,  # left to itself, the compiler takes 80 on sm_100 and spills
        )  # fmt: skip
        return out
