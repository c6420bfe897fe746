"""Keys and values of every row, allocated once: a new request writes over what the last one left.

A row is one stream through the transformer: a request has one, or two with guidance. Rows of a slot are neighbours.
"""

import math
import mmap

import torch
from torch import Tensor

# An int8 cache has the size of a head's integers behind them, as the four bytes of an fp32 number.
_STEP_BYTES = 4


def stored(given: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [..., Dh] as a cache of this type holds them: in int8 as [..., Dh + 4], the largest being 127."""
    if dtype != torch.int8:
        return given.to(dtype)
    largest = given.abs().amax(-1, keepdim=True)
    whole = (given * (127 / largest.clamp(min=1e-30))).round().to(torch.int8)
    return torch.cat([whole, (largest / 127).view(torch.int8)], -1)


def numbers(held: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [..., Dh] in this type of what a cache holds."""
    if held.dtype != torch.int8:
        return held.to(dtype)
    return held[..., :-_STEP_BYTES] * held[..., -_STEP_BYTES:].contiguous().view(torch.float32).to(dtype)


class Cache:
    """Self-attention keys and values [R, H, S, Dh] and cross-attention ones [R, H, T', Dh], one of each a layer.

    They are written as ``stored`` and read as ``numbers``.
    """

    def __init__(
        self,
        n_layers: int,
        n_rows: int,
        n_heads: int,
        head_width: int,
        n_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (n_rows, n_heads, n_positions, head_width + (_STEP_BYTES if dtype == torch.int8 else 0))
        # Zeros, since what is masked out is multiplied by 0, and 0 times what lay there before could be NaN.
        self.keys = [_zeros(shape, dtype, device) for _ in range(n_layers)]
        self.values = [_zeros(shape, dtype, device) for _ in range(n_layers)]
        self.cross_keys: list[Tensor] = []
        self.cross_values: list[Tensor] = []
        self.cross_lengths = torch.zeros(n_rows, dtype=torch.int64, device=device)

    @property
    def dtype(self) -> torch.dtype:
        """What keys and values are held in."""
        return self.keys[0].dtype

    @property
    def n_positions(self) -> int:
        """Positions S that a row can hold."""
        return self.keys[0].shape[2]

    @property
    def cross_capacity(self) -> int:
        """Positions T' of cross-attention that a row can hold."""
        return self.cross_keys[0].shape[2] if self.cross_keys else 0

    def clear(self, rows: slice) -> None:
        """Forgets rows that may hold NaN."""
        for part in (self.keys, self.values, self.cross_keys, self.cross_values):
            for tensor in part:
                tensor[rows] = 0

    def reserve_cross(self, length: int) -> None:
        """Makes room for `length` cross-attention positions, keeping what is there; it may have moved after."""
        if length <= self.cross_capacity:
            return
        n_rows, n_heads, _, width = self.keys[0].shape
        shape = (n_rows, n_heads, max(64, 1 << (length - 1).bit_length()), width)
        # All of them first: where memory runs out half-way, everything is as it was.
        keys, values = ([_zeros(shape, self.dtype, self.keys[0].device) for _ in self.keys] for _ in range(2))
        for grown, old in ((keys, self.cross_keys), (values, self.cross_values)):
            for new, kept in zip(grown, old, strict=False):
                new[:, :, : kept.shape[2]] = kept
        self.cross_keys, self.cross_values = keys, values


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on the CPU fresh pages, which are taken when written to: length costs nothing until it is used."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


def row_bytes(n_layers: int, width: int, n_positions: int, dtype: torch.dtype) -> int:
    """Bytes of self-attention that one row takes."""
    return 2 * n_layers * width * n_positions * dtype.itemsize
