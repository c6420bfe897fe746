"""A decoding step's matrix products on the CPU, as kernels of our own: few rows, and long matrices that are read once.

Their plain twin is torch's product with the (scaled) weights. A number is always added up in the same order, whatever
the other rows are, and however many cores there are: a row has the same bits alone and among others.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from audiocraft_ext.engine import native
from audiocraft_ext.engine.native import F32, F32S, I8, I16, I16S, I32S, I64, LANES, Code, Type, Value

# Rows and outputs that are added up at a time: their sums just fit 32 registers, and then one vector.
_ROWS, _OUTPUTS = 8, 2
# Inputs a turn of the loop.
_TURN = 64
# Rows are multiplied in pieces of so many bytes, eight of which fit the first-level cache, by so many outputs' weights
# in turn. Meanwhile as many weights behind these are asked of the memory.
_PIECE, _GROUP = 2048, 16
# How many inputs one instruction multiplies.
_LANES_OF = {F32: LANES, I16: 2 * LANES}
# The largest of the integers that a row is rounded to, and how many inputs surely fit sums of 32 bits, one a lane.
_LARGEST = 2**15 - 1
_MAX_ROUNDED_INPUTS = LANES * (2**31 // (_LARGEST * 127))


def can_round(n_inputs: int) -> bool:
    """Whether ``matmul_rounded`` takes rows of this many inputs."""
    return n_inputs % (2 * LANES) == 0 and n_inputs <= _MAX_ROUNDED_INPUTS


def matmul(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """x [M, in] times weight [out, in], times scale [out], plus bias [out]: [M, out]. All fp32, or the weight int8."""
    return _multiplied(x, torch.float32, weight, scale, bias)


def matmul_rounded(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``matmul`` by an int8 weight with each row of x rounded to 16 bits, 32,767 being its largest number.

    Sums of integers are exact, one a lane; the lanes are added up in fp32. For what ``can_round``.
    """
    return _multiplied(x, torch.int16, weight, scale, bias)


def _multiplied(x: Tensor, dtype: torch.dtype, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The product with x in fp32 or int16, of as many rows at a time as registers hold."""
    (n_outputs, n_inputs), types = weight.shape, {torch.float32: F32, torch.int16: I16, torch.int8: I8}
    inputs, n_together = types[dtype], _OUTPUTS if n_outputs % _OUTPUTS == 0 else 1
    per_turn = _TURN if n_inputs % _TURN == 0 else _LANES_OF[inputs]
    y = torch.empty(len(x), n_outputs)
    for rows, out in zip(x.contiguous().split(_ROWS), y.split(_ROWS), strict=True):
        arranged, steps = torch.empty(rows.shape, dtype=dtype), torch.empty(len(rows))
        native.run(_arrange(inputs), rows, arranged, steps, *rows.shape)
        kernel = _matmul(_Form(len(rows), n_together, per_turn, inputs, types[weight.dtype]))
        native.run(kernel, arranged, steps, weight, scale, bias, out, n_outputs, n_inputs)
    return y


@functools.cache
def _arrange(inputs: Type) -> int:
    """Rows [M, in] in the order in which they are multiplied, [in / lanes, M, lanes], and what one counts there [M].

    As they are they would push each other out of the cache: they begin a power of two apart.
    """
    lanes = _LANES_OF[inputs]

    def write(c: Code, x: Value, arranged: Value, steps: Value, n_rows: Value, width: Value) -> None:
        def place_of(row: Value, column: Value) -> Value:
            whole = c.and_(column, I64(-lanes))
            return c.add(c.add(c.mul(whole, n_rows), c.mul(row, I64(lanes))), c.sub(column, whole))

        with c.loop(*c.share(n_rows)) as row:
            start = c.mul(row, width)
            step, rounded = (F32(1.0), lambda values: values) if inputs == F32 else _rounding(c, x, start, width)
            c.put(step, steps, row)
            with c.loop(I64(0), width, LANES) as column:
                c.put(rounded(c.loads(F32, x, c.add(start, column))), arranged, place_of(row, column))

    return native.compiled(5, write)


def _rounding(c: Code, x: Value, start: Value, width: Value) -> tuple[Value, Callable[[Value], Value]]:
    """What one of a row's integers counts, and what makes them of its numbers."""
    top, zero = c.variable(c.all(0.0)), c.variable(c.all(0.0))
    with c.loop(I64(0), width, LANES) as column:
        value = c.loads(F32, x, c.add(start, column))
        c.store(c.larger(c.get(top), c.call_of(f"llvm.fabs.v{LANES}f32", value)), top)
        c.store(c.fused(value, c.all(0.0), c.get(zero)), zero)
    step, factor = c.integers_of(c.get(top), c.get(zero), _LARGEST)
    return step, lambda values: c.trunc(c.rounded(c.fmul(values, factor)), I16S)


@dataclass(frozen=True)
class _Form:
    """Of what a kernel is compiled: rows and outputs that are added up together, inputs a turn of the loop, types."""

    n_rows: int
    n_together: int
    per_turn: int
    inputs: Type
    weights: Type

    @property
    def is_rounded(self) -> bool:
        return self.inputs == I16

    @property
    def zero(self) -> Value:
        """What a sum's lanes begin with."""
        return I32S([0] * LANES) if self.is_rounded else F32S([0.0] * LANES)

    @property
    def weight_bytes(self) -> int:
        return 4 if self.weights == F32 else 1


@functools.cache
def _matmul(form: _Form) -> int:
    """The product with arranged rows: group of outputs by group, and of each group piece of the rows by piece."""
    zero, n_sums = form.zero, form.n_rows * form.n_together
    per_piece, per_group = _PIECE // (2 if form.is_rounded else 4), _GROUP // form.n_together

    def write(
        c: Code, x: Value, steps: Value, weight: Value, scale: Value, bias: Value, y: Value,
        n_outputs: Value, n_inputs: Value,
    ) -> None:  # fmt: skip
        kept = c.room(zero.type, per_group * n_sums)
        first, stop = c.share(c.udiv(n_outputs, I64(form.n_together)))
        with c.loop(first, stop, per_group) as group:
            group_stop = c.smaller(c.add(group, I64(per_group)), stop)
            with c.loop(I64(0), n_inputs, per_piece) as piece:
                piece_stop = c.smaller(c.add(piece, I64(per_piece)), n_inputs)
                is_first, is_last = (c.icmp_signed("==", a, b) for a, b in ((piece, I64(0)), (piece_stop, n_inputs)))
                with c.loop(group, group_stop) as block:
                    place = c.mul(c.sub(block, group), I64(n_sums))
                    places = [c.at(zero.type, kept, c.add(place, I64(i))) for i in range(n_sums)]
                    sums = [c.variable(zero) for _ in places]
                    with c.if_then(c.not_(is_first)):
                        c.copy(places, sums, zero.type)
                    output = c.mul(block, I64(form.n_together))
                    _add_products(c, form, x, weight, output, n_inputs, piece, piece_stop, sums)
                    with c.if_else(is_last) as (then, otherwise):
                        with then:
                            _put_sums(c, form, sums, steps, scale, bias, output, y, n_outputs)
                        with otherwise:
                            c.copy(sums, places, zero.type)

    return native.compiled(8, write)


def _add_products(
    c: Code, form: _Form, x: Value, weight: Value, output: Value, n_inputs: Value,
    start: Value, stop: Value, sums: list[Value],
) -> None:  # fmt: skip
    """Adds to the sums of each row, and of outputs from ``output`` on, the products of inputs from start up to stop."""
    firsts = [c.mul(c.add(output, I64(i)), n_inputs) for i in range(form.n_together)]
    ahead, n_lanes = c.mul(n_inputs, I64(_GROUP * form.weight_bytes)), _LANES_OF[form.inputs]
    with c.loop(start, stop, form.per_turn) as turn:
        for k in (c.add(turn, I64(i)) for i in range(0, form.per_turn, n_lanes)):
            factors = [c.loads(form.weights, weight, c.add(first, k), n_lanes) for first in firsts]
            for row in range(form.n_rows):
                own = c.loads(form.inputs, x, c.add(c.mul(k, I64(form.n_rows)), I64(row * n_lanes)), n_lanes)
                for factor, place in zip(factors, sums[row * form.n_together :], strict=False):
                    total = c.get(place, form.zero.type)
                    if form.is_rounded:
                        total = c.add(c.paired(own, factor), total)
                    else:
                        total = c.fused(own, c.widened(factor), total)
                    c.store(total, place)
        for first in firsts:
            here = c.add(c.mul(c.add(first, turn), I64(form.weight_bytes)), ahead)
            for line in range(0, form.per_turn * form.weight_bytes, 64):
                c.ask_for(c.at(I8, weight, c.add(here, I64(line))))


def _put_sums(
    c: Code, form: _Form, sums: list[Value], steps: Value, scale: Value, bias: Value,
    output: Value, y: Value, n_outputs: Value,
) -> None:  # fmt: skip
    """Adds up the lanes of all sums at once; what they count, and the bias, make them outputs of y [M, out]."""
    n_together, lanes = form.n_together, [c.get(place, form.zero.type) for place in sums]
    totals = c.all_added_up([c.sitofp(each, F32S) for each in lanes] if form.is_rounded else lanes)
    step = c.lanes_of(c.loads(F32, steps, I64(0), form.n_rows), [i // n_together % form.n_rows for i in range(LANES)])
    factor, offset = (
        c.lanes_of(c.loads(F32, numbers, output, n_together), [i % n_together for i in range(LANES)])
        for numbers in (scale, bias)
    )
    totals = c.fadd(c.fmul(c.fmul(totals, step), factor), offset)
    for row in range(form.n_rows):
        own = c.lanes_of(totals, [row * n_together + i for i in range(n_together)])
        c.put(own, y, c.add(c.mul(I64(row), n_outputs), output))
