"""Triton kernels for one decoding step on CUDA, each beside a plain torch twin that it is tested against.

Imported only where they are used: Triton exists on Linux alone. Every kernel adds up a row in an order that depends on
that row's own length and on nothing else. ``Attend``'s twin is ``attention.Masked``, ``add_norm``'s the one in
``decoder``, ``matmul_int8``'s a product with the scaled weights.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Positions that one program reads: not tuned yet, for want of a GPU.
SPLIT = 64
MAX_MATMUL_ROWS = 64


@triton.jit
def _attend_part(
    query, new_key, new_value, keys, values, lengths, parts, stats, row_stride, n_heads, capacity, n_splits, scale,
    HEAD: tl.constexpr, SPLIT: tl.constexpr, APPENDS: tl.constexpr,
):  # fmt: skip
    row_head = tl.program_id(0)
    row, head = row_head // n_heads, row_head % n_heads
    split = tl.program_id(1)
    length = tl.load(lengths + row)
    if split * SPLIT < length:
        columns = tl.arange(0, HEAD)
        offsets = split * SPLIT + tl.arange(0, SPLIT)
        valid = offsets < length
        here = row * row_stride + head * HEAD + columns
        cells = (row_head.to(tl.int64) * capacity + offsets)[:, None] * HEAD + columns[None, :]
        q = tl.load(query + here).to(tl.float32) * scale
        k = tl.load(keys + cells, mask=valid[:, None], other=0.0)
        v = tl.load(values + cells, mask=valid[:, None], other=0.0)
        if APPENDS:
            # The newest position comes from the projection, and this program alone writes it to the cache.
            is_new = (offsets == length - 1)[:, None]
            k = tl.where(is_new, tl.load(new_key + here)[None, :].to(k.dtype), k)
            v = tl.where(is_new, tl.load(new_value + here)[None, :].to(v.dtype), v)
            tl.store(keys + cells, k, mask=is_new & valid[:, None])
            tl.store(values + cells, v, mask=is_new & valid[:, None])
        scores = tl.sum(k.to(tl.float32) * q[None, :], axis=1)
        scores = tl.where(valid, scores, float("-inf"))
        top = tl.max(scores, axis=0)
        weights = tl.exp(scores - top)
        part = row_head * n_splits + split
        tl.store(parts + part * HEAD + columns, tl.sum(weights[:, None] * v.to(tl.float32), axis=0))
        tl.store(stats + part * 2, top)
        tl.store(stats + part * 2 + 1, tl.sum(weights, axis=0))


@triton.jit
def _attend_merge(
    parts, stats, lengths, out, n_heads, HEAD: tl.constexpr, SPLIT: tl.constexpr, N_SPLITS: tl.constexpr
):  # fmt: skip
    row_head = tl.program_id(0)
    columns = tl.arange(0, HEAD)
    length = tl.load(lengths + row_head // n_heads)
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    mixed = tl.zeros((HEAD,), tl.float32)
    for split in range(0, N_SPLITS):
        if split * SPLIT < length:
            part = row_head * N_SPLITS + split
            part_top = tl.load(stats + part * 2)
            new_top = tl.maximum(top, part_top)
            old_share, part_share = tl.exp(top - new_top), tl.exp(part_top - new_top)
            total = total * old_share + tl.load(stats + part * 2 + 1) * part_share
            mixed = mixed * old_share + tl.load(parts + part * HEAD + columns) * part_share
            top = new_top
    # An idle row has no positions, and its output is zeros.
    mixed = tl.where(total > 0, mixed / total, 0.0)
    tl.store(out + row_head * HEAD + columns, mixed.to(out.dtype.element_ty))


class Attend:
    """Attention of one query a row over the valid part of its cache, in two launches; scratch for R rows is kept."""

    def __init__(self, n_rows: int, n_heads: int, head_width: int, capacity: int, device: torch.device) -> None:
        self.n_splits = triton.cdiv(capacity, SPLIT)
        self.parts = torch.empty(n_rows, n_heads, self.n_splits, head_width, device=device)
        self.stats = torch.empty(n_rows, n_heads, self.n_splits, 2, device=device)

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, new: Tensor | None) -> Tensor:
        """[R, H Dh] from query [R, H, Dh], caches [R, H, S, Dh] and lengths [R]; zeros where 0.

        `new` [R, 2, H, Dh] is the key and value of position length - 1, which go to the cache; query and new are
        slices of one tensor, so that they have one row stride.
        """
        n_rows, n_heads, head_width = query.shape
        capacity = keys.shape[2]
        new_key, new_value = (query, query) if new is None else (new[:, 0], new[:, 1])
        out = torch.empty(n_rows, n_heads * head_width, dtype=query.dtype, device=query.device)
        _attend_part[(n_rows * n_heads, self.n_splits)](
            query, new_key, new_value, keys, values, lengths, self.parts, self.stats, query.stride(0), n_heads,
            capacity, self.n_splits, head_width**-0.5, HEAD=head_width, SPLIT=SPLIT, APPENDS=new is not None,
        )  # fmt: skip
        _attend_merge[(n_rows * n_heads,)](
            self.parts, self.stats, lengths, out, n_heads, HEAD=head_width, SPLIT=SPLIT, N_SPLITS=self.n_splits
        )
        return out


@triton.jit
def _add_norm(x, y, weight, bias, normed, width, eps, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    total = tl.load(x + row + columns, mask=inside, other=0.0) + tl.load(y + row + columns, mask=inside, other=0.0).to(
        tl.float32
    )
    tl.store(x + row + columns, total, mask=inside)
    mean = tl.sum(total, axis=0) / width
    centred = tl.where(inside, total - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / width
    out = centred / tl.sqrt(variance + eps) * tl.load(weight + columns, mask=inside, other=0.0)
    if HAS_BIAS:
        out += tl.load(bias + columns, mask=inside, other=0.0)
    tl.store(normed + row + columns, out.to(normed.dtype.element_ty), mask=inside)


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """Adds y [M, D] to the fp32 residual x [M, D] in place; its layer norm [M, D] in `dtype`."""
    n_rows, width = x.shape
    normed = torch.empty(n_rows, width, dtype=dtype, device=x.device)
    _add_norm[(n_rows,)](
        x, y.contiguous(), weight, weight if bias is None else bias, normed, width, eps,
        BLOCK=triton.next_power_of_2(width), HAS_BIAS=bias is not None,
    )  # fmt: skip
    return normed


@triton.jit
def _matmul_int8(
    x, weight, scale, out, n_rows, n_out,
    N_IN: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
):  # fmt: skip
    rows = tl.arange(0, ROWS)
    outs = tl.program_id(0) * OUT + tl.arange(0, OUT)
    is_row, is_out = (rows < n_rows)[:, None], (outs < n_out)[:, None]
    total = tl.zeros((ROWS, OUT), tl.float32)
    for start in range(0, N_IN, IN):
        ins = start + tl.arange(0, IN)
        is_in = (ins < N_IN)[None, :]
        a = tl.load(x + rows[:, None] * N_IN + ins[None, :], mask=is_row & is_in, other=0.0)
        w = tl.load(weight + outs[:, None].to(tl.int64) * N_IN + ins[None, :], mask=is_out & is_in, other=0)
        total = tl.dot(a, tl.trans(w.to(a.dtype)), total)
    total *= tl.load(scale + outs, mask=outs < n_out, other=0.0)[None, :]
    cells = rows[:, None] * n_out + outs[None, :]
    tl.store(out + cells, total.to(out.dtype.element_ty), mask=is_row & (outs < n_out)[None, :])


def matmul_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [M, in] times int8 weight [out, in] with fp32 scale [out] → [M, out] in x's dtype; M up to 64."""
    n_rows, n_in = x.shape
    n_out = len(weight)
    out = torch.empty(n_rows, n_out, dtype=x.dtype, device=x.device)
    # As few outputs a program as the matrix units take: the weights are read by as many programs as can be.
    _matmul_int8[(triton.cdiv(n_out, 16),)](
        x.contiguous(), weight, scale, out, n_rows, n_out,
        N_IN=n_in, ROWS=max(16, triton.next_power_of_2(n_rows)), OUT=16, IN=256,
    )  # fmt: skip
    return out
