"""A decoding step's work on the CPU between its matrix products (``cpu_matmul``), as kernels of our own.

Each is beside a plain torch twin that it is tested against: ``Attend``'s is ``attention.CpuAttention``, those of
``add_norm`` and ``rotated`` are in ``decoder``, ``gelu``'s is torch's own.

A number is always added up in the same order, whatever the other rows are, and however many cores there are: a row has
the same bits alone and among others.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from audiocraft_ext.engine import native
from audiocraft_ext.engine.native import F32, F32S, I8, I8S, I32S, I64, LANES, Code, Value

# How far ahead keys and values are asked of the memory, in bytes.
_AHEAD = 4096


def is_available(*widths: int) -> bool:
    """Whether the kernels can be compiled and run here, and take rows and heads of these widths: in whole vectors."""
    return all(width % LANES == 0 for width in widths) and native.is_available()


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """Adds y [M, D] to the residual x [M, D] in place; its layer norm [M, D]. All in fp32, `dtype` too."""
    out, (n_rows, width) = torch.empty_like(x), x.shape
    bias = torch.zeros_like(weight) if bias is None else bias
    native.run(_add_norm(eps), x, y.contiguous(), weight, bias, out, n_rows, width)
    return out


@functools.cache
def _add_norm(eps: float) -> int:
    def write(c: Code, x: Value, y: Value, weight: Value, bias: Value, out: Value, n_rows: Value, width: Value) -> None:
        n = c.sitofp(width, F32)
        with c.loop(*c.share(n_rows)) as row:
            start = c.mul(row, width)
            total, square = c.variable(c.all(0.0)), c.variable(c.all(0.0))
            with c.loop(I64(0), width, LANES) as column:
                here = c.add(start, column)
                both = c.fadd(c.loads(F32, x, here), c.loads(F32, y, here))
                c.put(both, x, here)
                c.store(c.fadd(c.get(total), both), total)
            mean = c.all(c.fdiv(c.added_up(c.get(total)), n))
            with c.loop(I64(0), width, LANES) as column:
                far = c.fsub(c.loads(F32, x, c.add(start, column)), mean)
                c.store(c.fused(far, far, c.get(square)), square)
            variance = c.fadd(c.fdiv(c.added_up(c.get(square)), n), F32(eps))
            factor = c.all(c.fdiv(F32(1.0), c.call_of("llvm.sqrt.f32", variance)))
            with c.loop(I64(0), width, LANES) as column:
                here = c.add(start, column)
                far = c.fmul(c.fsub(c.loads(F32, x, here), mean), factor)
                c.put(c.fused(far, c.loads(F32, weight, column), c.loads(F32, bias, column)), out, here)

    return native.compiled(7, write)


def rotated(qkv: Tensor, turn: Tensor) -> Tensor:
    """qkv [M, 3, H, Dh], its queries and keys turned in place by complex factors [M, Dh / 2]."""
    n_rows, _, n_heads, head_width = qkv.shape
    native.run(_turn(head_width), qkv, turn, n_rows, n_heads)
    return qkv


@functools.cache
def _turn(head_width: int) -> int:
    pairs = [(i, i + 1) for i in range(0, LANES, 2)]

    def write(c: Code, qkv: Value, turn: Value, n_rows: Value, n_heads: Value) -> None:
        per_row = c.mul(n_heads, I64(2))
        with c.loop(*c.share(c.mul(n_rows, per_row))) as item:
            row, head = c.udiv(item, per_row), c.urem(item, per_row)
            start = c.mul(c.add(c.mul(c.mul(row, n_heads), I64(3)), head), I64(head_width))
            for part in range(0, head_width, LANES):
                here, factor = c.add(start, I64(part)), c.add(c.mul(row, I64(head_width)), I64(part))
                value, factors = c.loads(F32, qkv, here), c.loads(F32, turn, factor)
                real = c.lanes_of(factors, [a for a, _ in pairs for _ in range(2)])
                imaginary = c.lanes_of(factors, [b for _, b in pairs for _ in range(2)])
                across = c.fmul(
                    c.lanes_of(value, [i for a, b in pairs for i in (b, a)]), F32S([-1.0, 1.0] * len(pairs))
                )
                c.put(c.fused(value, real, c.fmul(across, imaginary)), qkv, here)

    return native.compiled(4, write)


def gelu(x: Tensor) -> Tensor:
    """x [M, D] becomes its exact GELU, in place; D is a multiple of ``LANES``."""
    native.run(_gelu(), x, x.numel() // LANES)
    return x


@functools.cache
def _gelu() -> int:
    def write(c: Code, x: Value, n_vectors: Value) -> None:
        with c.loop(*c.share(n_vectors)) as vector:
            here = c.mul(vector, I64(LANES))
            value = c.loads(F32, x, here)
            half = c.fmul(value, c.all(0.5))
            c.put(c.fused(half, _erf(c, c.fmul(value, c.all(math.sqrt(0.5)))), half), x, here)

    return native.compiled(2, write)


def _erf(c: Code, x: Value) -> Value:
    """The error function, within 2e-7: formula 7.1.26 of Abramowitz and Stegun's handbook."""
    size = c.call_of(f"llvm.fabs.v{LANES}f32", x)
    t = c.fdiv(c.all(1.0), c.fused(size, c.all(0.3275911), c.all(1.0)))
    polynomial = c.all(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial = c.fused(polynomial, t, c.all(coefficient))
    tail = c.fmul(c.fmul(polynomial, t), _exp(c, c.fneg(c.fmul(size, size))))
    return c.call_of(f"llvm.copysign.v{LANES}f32", c.fsub(c.all(1.0), tail), x)


def _exp(c: Code, x: Value) -> Value:
    """e^x for x up to 0, within 2e-7 of it: 2^n times a polynomial of what is left. NaN stays NaN."""
    x = c.select(c.fcmp_ordered("<", x, c.all(-87.0)), c.all(-87.0), x)
    n = c.call_of(f"llvm.rint.v{LANES}f32", c.fmul(x, c.all(1 / math.log(2))))
    rest = c.fused(n, c.all(-0.693359375), x)
    rest = c.fused(n, c.all(2.12194440e-4), rest)
    value = c.all(1 / 5040)
    for factorial in (720, 120, 24, 6, 2, 1, 1):
        value = c.fused(value, rest, c.all(1 / factorial))
    return c.fmul(value, c.bitcast(c.shl(c.add(c.rounded(n), I32S([127] * LANES)), I32S([23] * LANES)), F32S))


class Attend:
    """Attention of one position of some rows to what a cache holds in fp32 or int8, up to each row's length.

    Which rows [M] of the cache, and lengths [M], new positions included, are read when it is called: they may be
    written to between calls.
    """

    def __init__(self, rows: Tensor, lengths: Tensor, n_heads: int, n_positions: int) -> None:
        """Lengths are ``n_positions`` at most."""
        self.rows, self.lengths, self.n_heads = rows, lengths, n_heads
        # Scores of every row and head, and room for a vector that begins at the last.
        self._room = n_positions + LANES
        self._scores = torch.empty(len(rows) * n_heads * self._room)

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, new: Tensor | None) -> Tensor:
        """[M, H Dh] from query [M, H, Dh], Dh a multiple of ``LANES``, and the cache's keys and values [R, H, S, ...].

        `new` [M, 2, H, Dh], keys and values, becomes each row's last position.
        """
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        kernel = _attend(query.shape[2], keys.dtype == torch.int8, new is not None)
        tensors = (query, 0 if new is None else new, keys, values, self.rows, self.lengths, self._scores, out)
        sizes = (len(query), self.n_heads, keys.shape[2], self._room, query.stride(0))
        native.run(kernel, *tensors, *sizes)
        return out


@functools.cache
def _attend(head_width: int, is_int8: bool, appends: bool) -> int:
    held, parts = _Held(head_width, is_int8), range(0, head_width, LANES)

    def write(
        c: Code, query: Value, new: Value, keys: Value, values: Value, rows: Value, lengths: Value, scores: Value,
        out: Value, n_rows: Value, n_heads: Value, n_positions: Value, room: Value, stride: Value,
    ) -> None:  # fmt: skip
        def start_of(item: Value) -> Value:
            lane = c.add(c.mul(c.load(I64, rows, c.udiv(item, n_heads)), n_heads), c.urem(item, n_heads))
            return c.mul(lane, n_positions)

        first, stop = c.share(c.mul(n_rows, n_heads))
        with c.loop(first, stop) as item:
            row, number = c.udiv(item, n_heads), c.urem(item, n_heads)
            following = c.smaller(c.add(item, I64(1)), c.sub(stop, I64(1)))
            head = _Head(start_of(item), c.load(I64, lengths, row), start_of(following))
            given = c.add(c.mul(row, stride), c.mul(number, I64(head_width)))
            if appends:
                last, to_values = c.add(head.start, c.sub(head.length, I64(1))), c.mul(n_heads, I64(head_width))
                for cache, place in ((keys, given), (values, c.add(given, to_values))):
                    held.put(c, [c.loads(F32, new, c.add(place, I64(part))) for part in parts], cache, last)
            asked = [c.fmul(c.loads(F32, query, c.add(given, I64(part))), c.all(head_width**-0.5)) for part in parts]
            own = c.add(scores, c.mul(item, c.mul(room, I64(4))))
            top = _put_scores(c, held, head, asked, keys, values, own)
            factor = c.all(c.fdiv(F32(1.0), _put_weights(c, head, own, top)))
            for part, total in zip(parts, _weighted(c, held, head, own, values, keys), strict=True):
                c.put(c.fmul(total, factor), out, c.add(c.mul(item, I64(head_width)), I64(part)))

    return native.compiled(13, write)


@dataclass(frozen=True)
class _Head:
    """One row's head: where its positions begin, counted through all rows and heads; their number; the next's begin."""

    start: Value
    length: Value
    next_start: Value

    def ask_ahead(self, c: Code, held: "_Held", position: Value, cache: Value, next_start: Value, then: Value) -> None:
        """Asks for what is read later: of this cache, and behind the last position the beginning of the one then."""
        ahead = c.add(position, I64(-(-_AHEAD // held.n_bytes)))
        is_own = c.icmp_signed("<", ahead, self.length)
        place = c.select(is_own, c.add(self.start, ahead), c.add(next_start, c.sub(ahead, self.length)))
        held.ask_for(c, c.select(is_own, cache, then), place)


def _put_scores(
    c: Code, held: "_Held", head: _Head, query: list[Value], keys: Value, values: Value, scores: Value
) -> Value:
    """The query's products with a head's keys, whose values are read next; the largest."""
    top = c.variable(F32(-math.inf))
    with c.loop(I64(0), head.length) as position:
        head.ask_ahead(c, held, position, keys, head.start, values)
        step, key = held.get(c, keys, c.add(head.start, position))
        score = c.all(0.0)
        for q, k in zip(query, key, strict=True):
            score = c.fused(q, k, score)
        score = c.fmul(c.added_up(score), step)
        c.put(score, scores, position)
        c.store(c.larger(c.get(top, F32), score), top)
    c.put(c.all(-math.inf), scores, head.length)
    return c.get(top, F32)


def _put_weights(c: Code, head: _Head, scores: Value, top: Value) -> Value:
    """Scores become weights, which are e to the power of their distance from the largest; their sum."""
    total = c.variable(c.all(0.0))
    with c.loop(I64(0), head.length, LANES) as position:
        weights = _exp(c, c.fsub(c.loads(F32, scores, position), c.all(top)))
        c.put(weights, scores, position)
        c.store(c.fadd(c.get(total), weights), total)
    return c.added_up(c.get(total))


def _weighted(c: Code, held: "_Held", head: _Head, weights: Value, values: Value, keys: Value) -> list[Value]:
    """The weighted sum of a head's values; the next head's keys are read next."""
    sums = [c.variable(c.all(0.0)) for _ in range(0, held.head_width, LANES)]
    with c.loop(I64(0), head.length) as position:
        head.ask_ahead(c, held, position, values, head.next_start, keys)
        step, value = held.get(c, values, c.add(head.start, position))
        weight = c.all(c.fmul(c.load(F32, weights, position), step))
        for v, place in zip(value, sums, strict=True):
            c.store(c.fused(weight, v, c.get(place)), place)
    return [c.get(place) for place in sums]


@dataclass(frozen=True)
class _Held:
    """A head's keys or values of one position, as the cache holds them (``cache.stored``)."""

    head_width: int
    is_int8: bool

    @property
    def n_bytes(self) -> int:
        return self.head_width + 4 if self.is_int8 else 4 * self.head_width

    def at(self, c: Code, cache: Value, position: Value) -> Value:
        """The address of a position, counted through all rows and heads."""
        return c.add(cache, c.mul(position, I64(self.n_bytes)))

    def ask_for(self, c: Code, cache: Value, position: Value) -> None:
        for line in range(0, self.n_bytes, 64):
            c.ask_for(c.at(I8, self.at(c, cache, position), I64(line)))

    def get(self, c: Code, cache: Value, position: Value) -> tuple[Value, list[Value]]:
        """Numbers, in vectors, and what one of them counts."""
        place, kind = self.at(c, cache, position), I8 if self.is_int8 else F32
        step = c.load(F32, c.add(place, I64(self.head_width)), I64(0)) if self.is_int8 else F32(1.0)
        return step, [c.widened(c.loads(kind, place, I64(part))) for part in range(0, self.head_width, LANES)]

    def put(self, c: Code, numbers: list[Value], cache: Value, position: Value) -> None:
        place = self.at(c, cache, position)
        if self.is_int8:
            sizes = functools.reduce(c.larger, (c.call_of(f"llvm.fabs.v{LANES}f32", each) for each in numbers))
            zeros = functools.reduce(c.fadd, (c.fmul(each, c.all(0.0)) for each in numbers))
            step, factor = c.integers_of(sizes, zeros, 127)
            c.put(step, c.add(place, I64(self.head_width)), I64(0))
            numbers = [c.trunc(c.rounded(c.fmul(each, factor)), I8S) for each in numbers]
        for i, each in enumerate(numbers):
            c.put(each, place, I64(i * LANES))
