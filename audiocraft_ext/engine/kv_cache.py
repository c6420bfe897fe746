"""Keys and values of every row, allocated once: a new job overwrites the last one's. Knows nothing of jobs or devices.

A row is one stream through the transformer: a job has one, or two with guidance. Rows of a slot are neighbours.
"""

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_PER_SLOT = 2
# The int8 form of a head ends in its quantisation step: an fp32 number in four bytes.
_STEP_BYTES = 4

# Allocates a tensor of a shape and type
Zeros = Callable[[tuple[int, ...], torch.dtype], Tensor]


def quantize_kv(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [..., Dh] in the cache's form: in int8 [..., Dh + 4], scaled to each head's largest magnitude."""
    if dtype != torch.int8:
        return x.to(dtype)
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True)
    # By tensors: a quotient with a number, torch computes as a product with a reciprocal. Backends divide.
    full = torch.full_like(largest, 127)
    integers = (x * (full / largest.clamp(min=1e-30))).round().to(torch.int8)
    return torch.cat([integers, (largest / full).view(torch.int8)], -1)


def dequantize_kv(cached: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [..., Dh] in `dtype` from the cache's form."""
    if cached.dtype != torch.int8:
        return cached.to(dtype)
    return (cached[..., :-_STEP_BYTES] * cached[..., -_STEP_BYTES:].contiguous().view(torch.float32)).to(dtype)


class KVCache:
    """Self-attention keys and values [B, H, S, Dh] and cross-attention ones [B, H, T', Dh], one of each a layer."""

    def __init__(self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, zeros: Zeros) -> None:
        """`shape` is [L, B, H, S, Dh]. Zeros, since masked positions are multiplied by 0, and 0 times NaN is NaN."""
        n_layers, *rows_of_heads, head_dim = shape
        self.dtype, self._zeros = dtype, zeros
        self.head_dim = head_dim
        layer_shape = (*rows_of_heads, head_dim + (_STEP_BYTES if dtype == torch.int8 else 0))
        self.keys, self.values = ([zeros(layer_shape, dtype) for _ in range(n_layers)] for _ in range(2))
        self.cross_keys: list[Tensor] = []
        self.cross_values: list[Tensor] = []
        self.cross_lengths = zeros(shape[1:2], torch.int64)

    @property
    def n_positions(self) -> int:
        """Positions S that a row has."""
        return self.keys[0].shape[2]

    @property
    def cross_capacity(self) -> int:
        """Cross-attention positions T' that a row has."""
        return self.cross_keys[0].shape[2] if self.cross_keys else 0

    @property
    def n_bytes(self) -> int:
        """Bytes of all keys and values."""
        parts = (self.keys, self.values, self.cross_keys, self.cross_values)
        return sum(tensor.nbytes for part in parts for tensor in part)

    def update(
        self, layer: int, rows: Tensor | slice, positions: Tensor | slice, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values, shaped as ``cache[rows, :, positions]``; these rows' [B, H, S, ...] after it."""
        self.keys[layer][rows, :, positions] = quantize_kv(keys, self.dtype)
        self.values[layer][rows, :, positions] = quantize_kv(values, self.dtype)
        return self._rows(self.keys[layer], rows), self._rows(self.values[layer], rows)

    def cross(self, layer: int, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Cross-attention keys and values [B, H, T', ...] of these rows."""
        return self._rows(self.cross_keys[layer], rows), self._rows(self.cross_values[layer], rows)

    @staticmethod
    def _rows(cached: Tensor, rows: Tensor | slice) -> Tensor:
        """`rows` of a layer; ascending, so that as many as there are need no copy."""
        return cached if isinstance(rows, Tensor) and len(rows) == len(cached) else cached[rows]

    def write_cross(self, layer: int, rows: slice, keys_values: Tensor) -> None:
        """Write one layer's keys and values [B, T', 2, H, Dh]; ``reserve_cross`` made room."""
        new = quantize_kv(keys_values, self.dtype).permute(2, 0, 3, 1, 4)
        for cached, part in zip((self.cross_keys[layer], self.cross_values[layer]), new, strict=True):
            cached[rows, :, : part.shape[2]] = part

    def clear(self, rows: slice) -> None:
        """Zero rows that may contain NaN."""
        for part in (self.keys, self.values, self.cross_keys, self.cross_values):
            for tensor in part:
                tensor[rows] = 0

    def reserve_cross(self, length: int) -> None:
        """Make room for `length` cross-attention positions in every row, contents kept; reallocates where it grows."""
        if length <= self.cross_capacity:
            return
        n_rows, n_heads, _, width = self.keys[0].shape
        shape = (n_rows, n_heads, max(64, 1 << (length - 1).bit_length()), width)
        # Allocate everything first: out of memory half-way leaves the cache as it was.
        keys, values = ([self._zeros(shape, self.dtype) for _ in self.keys] for _ in range(2))
        for grown, old in ((keys, self.cross_keys), (values, self.cross_values)):
            for new, kept in zip(grown, old, strict=False):
                new[:, :, : kept.shape[2]] = kept
        self.cross_keys, self.cross_values = keys, values


def kv_bytes_per_row(n_layers: int, n_heads: int, n_positions: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of self-attention keys and values that one row takes; `dtype` is the cache's."""
    shape = (n_layers, 1, n_heads, n_positions, head_dim)
    return KVCache(shape, dtype, lambda shape, dtype: torch.empty(shape, dtype=dtype, device="meta")).n_bytes
