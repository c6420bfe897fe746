"""Attention over the cache: which keys and values the inputs of a pass write, and which they read.

``Prefill`` takes consecutive positions of one job's rows. ``CpuAttention`` takes one position of each row, at lengths
that the host knows, and ``CudaAttention`` one of all rows, at lengths that only the device knows, over the whole cache.
``CpuKernelAttention`` and ``CudaKernelAttention`` are these two by kernels, which read what is valid alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from audiocraft_ext.engine.cache import Cache, numbers, stored


class Attention(Protocol):
    """What a decoder's pass asks, layer by layer."""

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        """[M, H Dh] from [M, 3, H, Dh]; keys and values go to the cache first."""

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """[M, H Dh] from [M, H, Dh]."""


@dataclass(frozen=True)
class Span:
    """The rows of one job in a pass: inputs from `first` on, cache rows from `row` on, position and length."""

    first: int
    n_rows: int
    row: int
    position: int
    cross_length: int


class Prefill:
    """C positions of a span's R rows, from its own on; M = R C, position by position within a row."""

    def __init__(self, cache: Cache, span: Span, n_positions: int) -> None:
        self.cache = cache
        self.rows = slice(span.row, span.row + span.n_rows)
        self.n_rows = span.n_rows
        self.start, self.stop = span.position, span.position + n_positions
        self.cross_length = span.cross_length
        reach = torch.arange(self.stop, device=cache.keys[0].device)
        self.mask = reach <= reach[self.start :, None]

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        query, new_keys, new_values = qkv.view(self.n_rows, -1, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        keys[self.rows, :, self.start : self.stop] = stored(new_keys, self.cache.dtype)
        values[self.rows, :, self.start : self.stop] = stored(new_values, self.cache.dtype)
        keys, values = (numbers(part[self.rows, :, : self.stop], qkv.dtype) for part in (keys, values))
        out = scaled_dot_product_attention(query, keys, values, self.mask)
        return out.transpose(1, 2).reshape(len(qkv), -1)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys = self.cache.cross_keys[layer][self.rows, :, : self.cross_length]
        values = self.cache.cross_values[layer][self.rows, :, : self.cross_length]
        heads = query.view(self.n_rows, -1, *query.shape[1:]).transpose(1, 2)
        out = scaled_dot_product_attention(heads, numbers(keys, query.dtype), numbers(values, query.dtype))
        return out.transpose(1, 2).reshape(len(query), -1)


class CpuAttention:
    """One new position of each row, at lengths that the host knows; a row's result is its own whoever is beside it."""

    def __init__(self, cache: Cache, spans: list[Span]) -> None:
        self.cache = cache
        self.spans = spans

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        new = stored(qkv[:, 1:], self.cache.dtype)
        for inputs, rows, span in self._parts():
            keys[rows, :, span.position], values[rows, :, span.position] = new[inputs, 0], new[inputs, 1]
        return self._attended(qkv[:, 0], keys, values, [span.position + 1 for span in self.spans])

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys, values = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return self._attended(query, keys, values, [span.cross_length for span in self.spans])

    def _parts(self) -> Iterator[tuple[slice, slice, Span]]:
        """Which inputs and which rows of the cache are a span's."""
        for span in self.spans:
            yield slice(span.first, span.first + span.n_rows), slice(span.row, span.row + span.n_rows), span

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, lengths: list[int]) -> Tensor:
        outs = [
            _attend(query[inputs], keys[rows, :, :length], values[rows, :, :length])
            for (inputs, rows, _), length in zip(self._parts(), lengths, strict=True)
        ]
        return torch.cat(outs).flatten(1)


class CpuKernelAttention:
    """``CpuAttention`` by our kernel for the CPU, all rows at once."""

    def __init__(self, cache: Cache, n_rows: int) -> None:
        from audiocraft_ext.engine.backends.cpu_kernels import CachedAttention

        _, n_heads, n_positions, _ = cache.keys[0].shape
        self.cache = cache
        self.rows, self.lengths, self.cross_lengths = torch.zeros(3, n_rows, dtype=torch.int64)
        self._attend_self = CachedAttention(self.rows, self.lengths, n_heads, n_positions)
        self._attend_cross = CachedAttention(self.rows, self.cross_lengths, n_heads, cache.cross_capacity)

    def at(self, spans: list[Span]) -> "CpuKernelAttention":
        """This, for a step of these spans, which have as many rows."""
        rows = [(span.row + i, span.position + 1, span.cross_length) for span in spans for i in range(span.n_rows)]
        for part, values in zip((self.rows, self.lengths, self.cross_lengths), zip(*rows, strict=True), strict=True):
            part.copy_(torch.tensor(values))
        return self

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        return self._attend_self(qkv[:, 0], self.cache.keys[layer], self.cache.values[layer], qkv[:, 1:])

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        return self._attend_cross(query, self.cache.cross_keys[layer], self.cache.cross_values[layer], None)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """[n, H, Dh] from query [n, H, Dh], keys and values [n, H, S, Dh] and mask [n, 1, 1, S]."""
    keys, values = numbers(keys, query.dtype), numbers(values, query.dtype)
    return scaled_dot_product_attention(query[:, :, None], keys, values, mask)[:, :, 0]


class CudaAttention:
    """One new position of each of all rows; positions [R] and cross lengths [R] stay on the device.

    An idle row's position is the cache's last, which no job reaches.
    """

    def __init__(self, cache: Cache, position: Tensor) -> None:
        self.cache = cache
        self.rows = torch.arange(len(position), device=position.device)
        self.position = position
        self.mask = torch.arange(cache.n_positions, device=position.device) <= position[:, None]
        reach = torch.arange(max(cache.cross_capacity, 1), device=position.device)
        # A row that has no request reads position 0: a row with nothing to read would give NaN.
        self.cross_mask = reach < cache.cross_lengths.clamp(min=1)[:, None]

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.position] = qkv[:, 1]
        values[self.rows, :, self.position] = qkv[:, 2]
        return _attend(qkv[:, 0], keys, values, self.mask[:, None, None]).flatten(1)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys, values = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return _attend(query, keys, values, self.cross_mask[:, None, None]).flatten(1)


class CudaKernelAttention:
    """``CudaAttention`` by Triton kernels, which read no more than is valid."""

    def __init__(self, cache: Cache) -> None:
        from audiocraft_ext.engine.cuda_kernels import Attend

        n_rows, n_heads, n_positions, head_width = cache.keys[0].shape
        device = cache.keys[0].device
        self.cache = cache
        self.lengths = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self._attend_self = Attend(n_rows, n_heads, head_width, n_positions, device)
        self._attend_cross = Attend(n_rows, n_heads, head_width, max(cache.cross_capacity, 1), device)

    def at(self, position: Tensor) -> "CudaKernelAttention":
        """This, for a step with rows at `position` [R]."""
        self.lengths.copy_(torch.where(position == self.cache.n_positions - 1, 0, position + 1))
        return self

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        return self._attend_self(qkv[:, 0], keys, values, self.lengths, qkv[:, 1:])

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys, values = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return self._attend_cross(query, keys, values, self.cache.cross_lengths, None)
