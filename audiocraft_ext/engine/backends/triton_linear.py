"""The Triton kernel of a step's matrix products: norm, product, and GELU or residual, in one launch.

Its oracle is ``torch.Linear``. Imported only where it is used: Triton exists on Linux alone. A row has the same bits in
any number of rows: its sums are split into parts, and these added up, in an order that depends on the matrix alone.
"""

import logging
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiocraft_ext.engine.backends import triton_launch
from audiocraft_ext.engine.backends.torch import NORM_EPS, Linear
from audiocraft_ext.engine.quantize import dequantize, quantize

if TYPE_CHECKING:
    from audiocraft_ext.engine.backends.triton import TritonBackend
    from audiocraft_ext.engine.transformer import WeightBias

MAX_ROWS = 32
# Inputs that a program multiplies at a time, a part of them in each of its warps: one chain of all of them would take
# longer than the weights' way from memory.
IN, WARPS = 256, 4
# Outputs of a program: as few as the matrix units take. Where that makes few programs, they share out the inputs too:
# each requests its first weights before it waits, and together that should be half of a matrix. Not tuned yet: no GPU
# was available.
OUT, MAX_PROGRAMS = 16, 640

_log = logging.getLogger(__name__)


def is_available(device: torch.device, head_width: int) -> bool:
    """Whether the kernels take heads of this width, and can be compiled here: Triton needs a C compiler for that."""
    from audiocraft_ext.engine.backends.triton import TritonBackend
    from audiocraft_ext.engine.transformer import WeightBias

    if head_width != triton.next_power_of_2(head_width):
        return False
    try:
        square = torch.zeros(16, 16, device=device)
        TritonBackend(device, square.dtype, 16, False, False).linear(WeightBias(square))(square)
    except Exception as error:  # of whatever kind: plain torch works without
        _log.warning("Triton cannot compile here, and the engine is slower without: %s", error)
        return False
    return True


@triton.jit
def _load_weight(weight, outs, start, n_out, N_IN: tl.constexpr, IN: tl.constexpr, WARPS: tl.constexpr):
    # [warps, outputs, inputs of a warp]
    ins = tl.arange(0, WARPS)[:, None, None] * (IN // WARPS) + tl.arange(0, IN // WARPS)[None, None, :] + start
    cells = outs[None, :, None].to(tl.int64) * N_IN + ins
    return tl.load(weight + cells, mask=(outs < n_out)[None, :, None] & (ins < N_IN), other=0)


@triton.jit
def _load_inputs(
    x, norm_weight, norm_bias, mean, factor, rows, start, n_rows,
    N_IN: tl.constexpr, IN: tl.constexpr, WARPS: tl.constexpr, HAS_NORM: tl.constexpr, HAS_NORM_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    # [warps, inputs of a warp, rows]
    ins = tl.arange(0, WARPS)[:, None, None] * (IN // WARPS) + tl.arange(0, IN // WARPS)[None, None, :] + start
    is_in = ins < N_IN
    y = tl.load(x + rows[None, :, None] * N_IN + ins, mask=(rows < n_rows)[None, :, None] & is_in, other=0.0)
    if HAS_NORM:
        y = (y - mean[None, :, None]) * factor[None, :, None] * tl.load(norm_weight + ins, mask=is_in, other=0.0)
        if HAS_NORM_BIAS:
            y += tl.load(norm_bias + ins, mask=is_in, other=0.0)
    return tl.trans(y.to(DTYPE), 0, 2, 1)


@triton.jit
def _moments(x, rows, n_rows, EPS: tl.constexpr, N_IN: tl.constexpr, IN: tl.constexpr):
    # Of each row: the mean, and the factor that makes the variance 1. As many loads at once as registers allow.
    total = tl.zeros((rows.shape[0], IN), tl.float32)
    for start in tl.range(0, N_IN, IN, loop_unroll_factor=32 // rows.shape[0]):
        ins = start + tl.arange(0, IN)
        valid = (rows < n_rows)[:, None] & (ins < N_IN)[None, :]
        total += tl.load(x + rows[:, None] * N_IN + ins[None, :], mask=valid, other=0.0)
    mean = tl.sum(total, axis=1) / N_IN
    total = tl.zeros((rows.shape[0], IN), tl.float32)
    for start in tl.range(0, N_IN, IN, loop_unroll_factor=32 // rows.shape[0]):
        ins = start + tl.arange(0, IN)
        valid = (rows < n_rows)[:, None] & (ins < N_IN)[None, :]
        centred = tl.load(x + rows[:, None] * N_IN + ins[None, :], mask=valid, other=0.0) - mean[:, None]
        centred = tl.where(valid, centred, 0.0)
        # Rounded once whatever the number of rows; a compiler that may choose does not always choose alike.
        total = tl.fma(centred, centred, total)
    return mean, 1 / tl.sqrt(tl.sum(total, axis=1) / N_IN + EPS)


@triton.jit
def _store(
    y, out, scale, bias, outs, n_out, cells, valid,
    HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_GELU: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    if HAS_SCALE:
        y *= tl.load(scale + outs, mask=outs < n_out, other=0.0)[:, None]
    if HAS_BIAS:
        y += tl.load(bias + outs, mask=outs < n_out, other=0.0).to(tl.float32)[:, None]
    if HAS_GELU:
        y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    if ADDS:
        y += tl.load(out + cells, mask=valid, other=0.0)
    tl.store(out + cells, y.to(out.dtype.element_ty), mask=valid)


# Compiled once for each power of two of rows, whatever their number is.
@triton.jit(do_not_specialize=["n_rows"])
def _linear(
    x, weight, scale, bias, norm_weight, norm_bias, out, parts, n_arrived, n_rows, n_out,
    EPS: tl.constexpr, N_IN: tl.constexpr, IN: tl.constexpr, WARPS: tl.constexpr, ROWS: tl.constexpr,
    OUT: tl.constexpr, SPLITS: tl.constexpr, DTYPE: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_NORM_BIAS: tl.constexpr, HAS_GELU: tl.constexpr, ADDS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    outs, rows = tile * OUT + tl.arange(0, OUT), tl.arange(0, ROWS)
    PART: tl.constexpr = IN * (N_IN // IN // SPLITS if SPLITS > 1 else (N_IN + IN - 1) // IN)
    first = split * PART
    triton_launch.launch_next(EARLY)
    w = _load_weight(weight, outs, first, n_out, N_IN, IN, WARPS)
    triton_launch.wait(EARLY)
    mean, factor = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    if HAS_NORM:
        mean, factor = _moments(x, rows, n_rows, EPS, N_IN, IN)
    a = _load_inputs(x, norm_weight, norm_bias, mean, factor, rows, first, n_rows,
                     N_IN, IN, WARPS, HAS_NORM, HAS_NORM_BIAS, DTYPE)  # fmt: skip
    total = tl.dot(w.to(DTYPE), a, tl.zeros((WARPS, OUT, ROWS), tl.float32), input_precision="ieee")
    for start in tl.range(IN, PART, IN, num_stages=3):
        w = _load_weight(weight, outs, first + start, n_out, N_IN, IN, WARPS)
        a = _load_inputs(x, norm_weight, norm_bias, mean, factor, rows, first + start, n_rows,
                         N_IN, IN, WARPS, HAS_NORM, HAS_NORM_BIAS, DTYPE)  # fmt: skip
        total = tl.dot(w.to(DTYPE), a, total, input_precision="ieee")
    y = tl.sum(total, axis=0)
    cells = rows[None, :] * n_out + outs[:, None]
    valid = (rows < n_rows)[None, :] & (outs < n_out)[:, None]
    if SPLITS == 1:
        _store(y, out, scale, bias, outs, n_out, cells, valid, HAS_SCALE, HAS_BIAS, HAS_GELU, ADDS)
    else:
        tl.store(parts + split * n_rows * n_out + cells, y, mask=valid)
        tl.debug_barrier()  # all threads have written before one of them reports it
        if tl.atomic_add(n_arrived + tile, 1, sem="acq_rel") == SPLITS - 1:
            # The last program to arrive adds up the parts, in their own order whichever it is.
            tl.store(n_arrived + tile, 0)
            y = tl.zeros((OUT, ROWS), tl.float32)
            for i in tl.static_range(SPLITS):  # past the first cache, which may hold what stood here before
                y += tl.load(parts + i * n_rows * n_out + cells, mask=valid, other=0.0, cache_modifier=".cg")
            _store(y, out, scale, bias, outs, n_out, cells, valid, HAS_SCALE, HAS_BIAS, HAS_GELU, ADDS)


class TritonLinear(Linear):
    """A product by one kernel for the rows of a step; for a prompt's many rows, by plain operations."""

    n_outs = OUT, 2 * OUT  # a program's outputs of up to 16 rows, and of more

    def __init__(self, matrix: "WeightBias", norm: "WeightBias | None", gelu: bool, backend: "TritonBackend") -> None:
        super().__init__(matrix, norm, gelu, backend.dtype)
        self.scale: Tensor | None = None
        if backend.is_int8:
            self.weight, self.scale = quantize(self.weight)
        n_out, n_in = self.weight.shape
        device, n_tiles, n_most = self.weight.device, triton.cdiv(n_out, OUT), MAX_PROGRAMS * OUT // n_out
        self.n_splits = max(n for n in range(1, max(n_most, 1) + 1) if n == 1 or n_in % (n * IN) == 0)
        self._scratch = backend.scratch
        if n_out not in self._scratch or len(self._scratch[n_out][0]) < self.n_splits:
            parts = torch.empty(self.n_splits, MAX_ROWS, n_out, device=device)
            self._scratch[n_out] = parts, torch.zeros(n_tiles, dtype=torch.int32, device=device)
        for n_rows in (8, 16, 32) if self.weight.is_cuda else ():  # compile now, not while serving
            x = torch.zeros(n_rows, n_in, dtype=self.dtype if norm is None else torch.float32, device=device)
            self(x)
            if norm is None:
                self(x, torch.zeros(n_rows, n_out, device=device))

    @property
    def plain_weight(self) -> Tensor:
        return self.weight if self.scale is None else dequantize(self.weight, self.scale, self.dtype)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if len(x) > MAX_ROWS:
            return super().__call__(x, residual)
        (n_rows, n_in), n_out = x.shape, len(self.weight)
        out = torch.empty(n_rows, n_out, dtype=self.dtype, device=x.device) if residual is None else residual
        norm_weight, norm_bias = (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)
        n_of_tile = self.n_outs[n_rows > 16]
        is_early = triton_launch.starts_early(x.device)
        _linear[(triton.cdiv(n_out, n_of_tile), self.n_splits)](
            x.contiguous(), self.weight, self.scale, self.bias, norm_weight, norm_bias, out, *self._scratch[n_out],
            n_rows, n_out,
            EPS=NORM_EPS, N_IN=n_in, IN=IN, WARPS=WARPS, ROWS=max(8, triton.next_power_of_2(n_rows)), OUT=n_of_tile,
            SPLITS=self.n_splits, DTYPE=getattr(tl, str(self.dtype).removeprefix("torch.")),
            HAS_SCALE=self.scale is not None, HAS_BIAS=self.bias is not None, HAS_NORM=self.norm is not None,
            HAS_NORM_BIAS=norm_bias is not None, HAS_GELU=self.gelu, ADDS=residual is not None, EARLY=is_early,
            num_warps=WARPS if n_rows <= 8 else 2 * WARPS,  # with four, more rows spill
            launch_pdl=is_early,
        )  # fmt: skip
        return out
