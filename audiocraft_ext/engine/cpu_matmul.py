"""A decoding step's matrix products on the CPU, as kernels of our own: few rows, and long matrices that are read once.

Their plain twin is torch's product with the (scaled) weights. A number is always added up in the same order, whatever
the other rows are, and however many cores there are: a row has the same bits alone and among others.
"""

import functools

import torch
from torch import Tensor

from audiocraft_ext.engine import native
from audiocraft_ext.engine.native import F32, F32S, I8, I16, I16S, I32S, I64, LANES, Code, Type, Value

# Rows and outputs that are added up at a time: the sums just fit 32 registers.
_ROWS, _OUTPUTS = 8, 2
# Inputs a turn of the loop.
_TURN = 64
# How far ahead weights are asked of the memory, in bytes.
_AHEAD = 8192
# The largest of the integers that a row is rounded to, and how many inputs surely fit sums of 32 bits, one a lane.
_LARGEST = 2**15 - 1
_MAX_ROUNDED_INPUTS = LANES * (2**31 // (_LARGEST * 127))


def can_round(n_inputs: int) -> bool:
    """Whether ``matmul_rounded`` takes rows of this many inputs."""
    return n_inputs % (2 * LANES) == 0 and n_inputs <= _MAX_ROUNDED_INPUTS


def matmul(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """x [M, in] times weight [out, in], times scale [out], plus bias [out]: [M, out]. All fp32, or the weight int8."""
    return _in_pieces(x.contiguous(), torch.ones(len(x)), weight, scale, bias)


def matmul_rounded(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``matmul`` by an int8 weight with each row of x rounded to 16 bits, 32,767 being its largest number.

    Integers are added up exactly, and eight rows of them in two thirds of fp32's time. For what ``can_round``.
    """
    rounded, steps = torch.empty(x.shape, dtype=torch.int16), torch.empty(len(x))
    native.run(_round(), x.contiguous(), rounded, steps, *x.shape)
    return _in_pieces(rounded, steps, weight, scale, bias)


def _in_pieces(x: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The product with x, whose rows stand for x times steps [M], of as many rows at a time as registers hold."""
    (n_outputs, n_inputs), types = weight.shape, {torch.float32: F32, torch.int16: I16, torch.int8: I8}
    y = torch.empty(len(x), n_outputs)
    for rows, own_steps, out in zip(x.split(_ROWS), steps.split(_ROWS), y.split(_ROWS), strict=True):
        kernel = _matmul(
            len(rows),
            types[x.dtype],
            types[weight.dtype],
            n_together=_OUTPUTS if n_outputs % _OUTPUTS == 0 else 1,
            is_unrolled=n_inputs % _TURN == 0,
        )
        native.run(kernel, rows, own_steps, weight, scale, bias, out, n_outputs, n_inputs)
    return y


@functools.cache
def _round() -> int:
    def write(c: Code, x: Value, rounded: Value, steps: Value, n_rows: Value, width: Value) -> None:
        with c.loop(*c.share(n_rows)) as row:
            start = c.mul(row, width)
            top, zero = c.variable(c.all(0.0)), c.variable(c.all(0.0))
            with c.loop(I64(0), width, LANES) as column:
                value = c.loads(F32, x, c.add(start, column))
                c.store(c.larger(c.get(top), c.call_of(f"llvm.fabs.v{LANES}f32", value)), top)
                c.store(c.fused(value, c.all(0.0), c.get(zero)), zero)  # unless one of them is no number
            largest = c.halved(c.get(top), c.larger)
            c.put(c.fadd(c.fdiv(largest, F32(_LARGEST)), c.added_up(c.get(zero))), steps, row)
            factor = c.all(c.fdiv(F32(_LARGEST), c.larger(largest, F32(1e-30))))
            with c.loop(I64(0), width, LANES) as column:
                here = c.add(start, column)
                c.put(c.trunc(c.rounded(c.fmul(c.loads(F32, x, here), factor)), I16S), rounded, here)

    return native.compiled(5, write)


@functools.cache
def _matmul(n_rows: int, inputs: Type, weights: Type, n_together: int, is_unrolled: bool) -> int:
    is_rounded = inputs == I16
    n_lanes, zero = (2 * LANES, I32S([0] * LANES)) if is_rounded else (LANES, F32S([0.0] * LANES))
    per_turn, n_bytes = _TURN if is_unrolled else n_lanes, 4 if weights == F32 else 1

    def write(
        c: Code, x: Value, steps: Value, weight: Value, scale: Value, bias: Value, y: Value,
        n_outputs: Value, n_inputs: Value,
    ) -> None:  # fmt: skip
        def multiplied(a: Value, b: Value, total: Value) -> Value:
            return c.add(c.paired(a, b), total) if is_rounded else c.fused(a, c.widened(b), total)

        first, stop = c.share(c.udiv(n_outputs, I64(n_together)))
        with c.loop(first, stop) as block:
            outputs = [c.add(c.mul(block, I64(n_together)), I64(i)) for i in range(n_together)]
            starts = [c.mul(output, n_inputs) for output in outputs]
            sums = [[c.variable(zero) for _ in range(n_rows)] for _ in outputs]
            with c.loop(I64(0), n_inputs, per_turn) as turn:
                for k in (c.add(turn, I64(i)) for i in range(0, per_turn, n_lanes)):
                    factors = [c.loads(weights, weight, c.add(start, k), n_lanes) for start in starts]
                    for row in range(n_rows):
                        own = c.loads(inputs, x, c.add(c.mul(I64(row), n_inputs), k), n_lanes)
                        for factor, totals in zip(factors, sums, strict=True):
                            c.store(multiplied(own, factor, c.get(totals[row], zero.type)), totals[row])
                for start in starts:
                    for line in range(0, per_turn * n_bytes, 64):
                        c.ask_for(c.at(I8, weight, c.add(c.mul(c.add(start, turn), I64(n_bytes)), I64(_AHEAD + line))))
            for output, totals in zip(outputs, sums, strict=True):
                factor, offset = c.load(F32, scale, output), c.load(F32, bias, output)
                for row, total in enumerate(totals):
                    value = c.added_up(c.get(total, zero.type))
                    value = c.fmul(c.fmul(value, c.load(F32, steps, I64(row))), factor)
                    c.put(c.fadd(value, offset), y, c.add(c.mul(I64(row), n_outputs), output))

    return native.compiled(8, write)
