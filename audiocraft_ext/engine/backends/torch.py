"""Plain torch on any device: a backend's interface, the oracle of the others, and what runs where they cannot.

A row of any result depends on the same row of the inputs alone, added up in a fixed order: that is what makes a job's
tokens the same alone and in company. A backend that needs a fixed number of rows for it steps all slots. Knows nothing
of jobs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from audiocraft_ext.engine.backends.threads import set_own_num_threads
from audiocraft_ext.engine.kv_cache import KVCache, dequantize_kv
from audiocraft_ext.engine.quantize import dequantize, quantize

if TYPE_CHECKING:
    from audiocraft_ext.engine.step import Step

NORM_EPS = 1e-5
# A narrower model's operations are too short to be divided among cores: threads wait for each other longer than they
# work, most of all where another program uses a core (benchmarks/LOG.md).
_MIN_DIM_OF_ALL_CORES = 512

# x [B, in] → x W^T + b [B, out]
Linear = Callable[[Tensor], Tensor]


class Attention(Protocol):
    """Attention of the inputs of one pass, layer by layer."""

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        """[B, H Dh] from [B, 3, H, Dh]; keys and values go to the cache first."""

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """[B, H Dh] from [B, H, Dh]."""


class StepAttention(Attention, Protocol):
    """Attention of one position of each of some rows."""

    def update(self, positions: Tensor) -> None:
        """Set the position [B] of each row's input; the cache's last one is an idle row's."""


class TorchBackend:
    """One device, and how to compute there what a decoding step needs; subclasses replace what they do faster."""

    prefill_positions = 128  # of a prompt, fed between two steps of the others: a newcomer must not delay them
    # A step is of all slots and reads all positions, idle and masked ones too, so that NaN must not stay there; else
    # it is of the busy slots, each read up to its length.
    has_fixed_shapes = True
    is_host = True  # reading a value of a tensor waits for nothing

    def __init__(self, device: torch.device, dtype: torch.dtype, dim: int, is_int8: bool, captures: bool) -> None:
        """`dtype` is that of weights and activations; residuals are fp32. `is_int8` asks for weights in int8."""
        self.device, self.dtype, self.is_int8, self.captures = device, dtype, is_int8, captures
        self._n_threads = torch.get_num_threads() if dim >= _MIN_DIM_OF_ALL_CORES else 1

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """The product with a weight [out, in] and bias [out]; here, int8 rounds the weights and no more."""
        if self.is_int8:
            weight = dequantize(*quantize(weight)).to(weight.dtype)
        return partial(functional.linear, weight=weight, bias=bias)

    def add_norm(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Add y [B, D] to the fp32 residual x [B, D] in place; its layer norm [B, D] in ``dtype``."""
        x += y
        return functional.layer_norm(x, x.shape[-1:], weight, bias, NORM_EPS).to(self.dtype)

    def apply_rotary(self, qkv: Tensor, factors: Tensor) -> Tensor:
        """[B, 3, H, Dh] with queries and keys rotated by complex factors [B, Dh / 2]; may overwrite qkv."""
        pairs = torch.view_as_complex(qkv[:, :2].float().unflatten(-1, (-1, 2)).contiguous())
        rotated = torch.view_as_real(pairs * factors[:, None, None]).flatten(-2)
        return torch.cat([rotated.to(qkv.dtype), qkv[:, 2:]], dim=1)

    def gelu(self, x: Tensor) -> Tensor:
        """Exact GELU of x [B, D]; may overwrite it."""
        return functional.gelu(x)

    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        """A step's attention for rows [B] of the cache; what `rows` contains may change between steps."""
        return MaskedAttention(cache, rows)

    def capture(self, step: "Step") -> Callable[[], None]:
        """``step.run_eagerly``, perhaps captured when it is first called and replayed from then on."""
        return step.run_eagerly

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.dtype

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def fitting_slots(self, n_requested: int, slot_bytes: int) -> int:
        """As many slots as requested, or fewer: those whose rows keep apart, and that fit into the free memory."""
        del n_requested, slot_bytes
        return 1  # idle slots cost as much as busy ones

    def synchronize_caller(self) -> None:
        """Wait for what the calling thread has queued on the device: the engine's thread reads it."""

    @contextmanager
    def engine_thread(self) -> Iterator[None]:
        """The context of the engine's thread: its cores, its stream."""
        set_own_num_threads(self._n_threads)
        yield


class PrefillAttention:
    """Attention of consecutive positions [start, stop) of neighbouring rows; B = R C, position by position in a row."""

    def __init__(self, cache: KVCache, rows: slice, start: int, stop: int, n_cross: int) -> None:
        self.cache, self.rows, self.positions, self.n_cross = cache, rows, slice(start, stop), n_cross
        reach = torch.arange(stop, device=cache.keys[0].device)
        self.mask = reach <= reach[start:, None]

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        query, keys, values = qkv.view(self._n_rows, -1, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        cached = self.cache.update(layer, self.rows, self.positions, keys, values)
        keys, values = (dequantize_kv(part[:, :, : self.positions.stop], qkv.dtype) for part in cached)
        out = scaled_dot_product_attention(query, keys, values, self.mask)
        return out.transpose(1, 2).reshape(len(qkv), -1)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        cached = self.cache.cross(layer, self.rows)
        keys, values = (dequantize_kv(part[:, :, : self.n_cross], query.dtype) for part in cached)
        heads = query.view(self._n_rows, -1, *query.shape[1:]).transpose(1, 2)
        return scaled_dot_product_attention(heads, keys, values).transpose(1, 2).reshape(len(query), -1)

    @property
    def _n_rows(self) -> int:
        return int(self.rows.stop - self.rows.start)


class MaskedAttention:
    """A step's attention over the whole cache, masked: shapes and host know no lengths."""

    def __init__(self, cache: KVCache, rows: Tensor) -> None:
        self.cache, self.rows = cache, rows
        self._reach = torch.arange(max(cache.n_positions, cache.cross_capacity), device=rows.device)

    def update(self, positions: Tensor) -> None:
        self._positions = positions
        self._mask = self._reach[: self.cache.n_positions] <= positions[:, None]
        # A row without a job reads position 0: a row with nothing to read would give NaN.
        lengths = self.cache.cross_lengths[self.rows].clamp(min=1)
        self._cross_mask = self._reach[: self.cache.cross_capacity] < lengths[:, None]

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        query, keys, values = qkv.unbind(1)
        return self._attend(query, *self.cache.update(layer, self.rows, self._positions, keys, values), self._mask)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        return self._attend(query, *self.cache.cross(layer, self.rows), self._cross_mask)

    @staticmethod
    def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """[B, H Dh] from query [B, H, Dh], cached [B, H, S, ...] and mask [B, S]."""
        keys, values = dequantize_kv(keys, query.dtype), dequantize_kv(values, query.dtype)
        out = scaled_dot_product_attention(query[:, :, None], keys, values, mask[:, None, None])
        return out.flatten(1)
