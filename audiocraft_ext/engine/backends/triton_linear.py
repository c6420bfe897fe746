"""Triton kernels of norms and products for one decoding step; their oracles are ``TorchBackend``'s.

Imported only where they are used: Triton exists on Linux alone. A row is reduced in a fixed order.
"""

import logging

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_MATMUL_ROWS = 64

_log = logging.getLogger(__name__)


def is_available(device: torch.device, head_width: int) -> bool:
    """Whether the kernels take heads of this width, and can be compiled here: Triton needs a C compiler for that."""
    if head_width != triton.next_power_of_2(head_width):
        return False
    try:
        row = torch.zeros(1, 16, device=device)
        add_norm(row, row, row[0], None, 1.0, torch.float32)
    except Exception as error:  # of whatever kind: plain torch works without
        _log.warning("Triton cannot compile here, and the engine is slower without: %s", error)
        return False
    return True


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
