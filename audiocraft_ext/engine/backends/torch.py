"""Plain torch on any device: a backend's interface, the oracle of the others, and what runs where they cannot.

A row of any result depends on the same row of the inputs alone, added up in a fixed order: that is what makes a job's
tokens the same alone and in company. Plain torch needs a fixed number of rows for it, and steps all slots. Knows
nothing of jobs.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from audiocraft_ext.engine.backends.threads import num_threads, set_own_num_threads
from audiocraft_ext.engine.kv_cache import KVCache, dequantize_kv
from audiocraft_ext.engine.quantize import dequantize, quantize

if TYPE_CHECKING:
    from audiocraft_ext.engine.slots import SlotTable
    from audiocraft_ext.engine.step import Step
    from audiocraft_ext.engine.transformer import WeightBias

NORM_EPS = 1e-5
# A narrower model's operations are too short to be divided among cores: threads wait for each other longer than they
# work, most of all where another program uses a core (benchmarks/LOG.md).
_MIN_DIM_OF_ALL_CORES = 512

_log = logging.getLogger(__name__)


class Linear:
    """The product with a matrix [out, in] and bias [out], or its exact GELU; of the input's layer norm, if it has one.

    The input is in `dtype`, or in fp32 where there is a norm.
    """

    def __init__(self, matrix: "WeightBias", norm: "WeightBias | None", gelu: bool, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.norm = matrix.weight, matrix.bias, norm and norm.float()
        self.gelu, self.dtype = gelu, dtype

    @property
    def plain_weight(self) -> Tensor:
        """The weight [out, in] in ``dtype``."""
        return self.weight

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, out] of x [B, in]; or the fp32 residual [B, out], to which it is added in place."""
        if self.norm is not None:
            x = functional.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias, NORM_EPS).to(self.dtype)
        y = functional.linear(x, self.plain_weight, self.bias)
        y = functional.gelu(y) if self.gelu else y
        return y if residual is None else residual.add_(y)


# Draws the next step of slots [J] from logits [B, K, V] and their (conditional, unconditional) rows [J]
Sampler = Callable[[Tensor, Tensor, tuple[Tensor, Tensor]], None]


class CaptureError(RuntimeError):
    """A step cannot be captured; nothing of it has run."""


class ReplayError(RuntimeError):
    """A captured step has failed; how much of it has run is unknown."""


class TorchBackend:
    """One device, and how to compute there what a decoding step needs; subclasses replace what they do faster."""

    prefill_positions = 128  # of a prompt, fed between two steps of the others: a newcomer must not delay them
    reads_masked = True  # positions too, which then are multiplied by 0: NaN must not stay in the cache
    has_int8_cache = False  # beside int8 weights
    is_host = True  # reading a value of a tensor waits for nothing
    is_self_checked = False  # at set-up
    cross_positions = 0  # reserved from the start: where the cache grows later, steps are captured again

    def __init__(self, device: torch.device, dtype: torch.dtype, dim: int, is_int8: bool, captures: bool) -> None:
        """`dtype` is that of weights and activations; residuals are fp32. `is_int8` asks for weights in int8."""
        self.device, self.dtype, self.is_int8 = device, dtype, is_int8
        self.cache_dtype = torch.int8 if is_int8 and self.has_int8_cache else dtype
        self.captures = captures and type(self).capture is not TorchBackend.capture
        self._n_threads = num_threads() if dim >= _MIN_DIM_OF_ALL_CORES else 1

    def linear(self, matrix: "WeightBias", norm: "WeightBias | None" = None, gelu: bool = False) -> Linear:
        """A matrix of the model, ready to multiply with; here, int8 rounds the weights and no more."""
        linear = Linear(matrix, norm, gelu, self.dtype)
        if self.is_int8:
            linear.weight = dequantize(*quantize(matrix.weight), matrix.weight.dtype)
        return linear

    def apply_rotary(self, qkv: Tensor, factors: Tensor) -> Tensor:
        """[B, 3, H, Dh] with queries and keys rotated by complex factors [B, Dh / 2]; may overwrite qkv."""
        pairs = torch.view_as_complex(qkv[:, :2].float().unflatten(-1, (-1, 2)).contiguous())
        rotated = torch.view_as_real(pairs * factors[:, None, None]).flatten(-2)
        return torch.cat([rotated.to(qkv.dtype), qkv[:, 2:]], dim=1)

    def attention(self, cache: KVCache, rows: Tensor) -> "StepAttention":
        """A step's attention for rows [B] of the cache; what `rows` contains may change between steps."""
        return StepAttention(cache, rows)

    def prepare(self, step: "Step") -> None:
        """Fill the step's inputs [B, D] and rotary factors [B, Dh / 2], and update its attention."""
        positions = step.table.position[step.row_slots]
        sines, factors = step.transformer.position_encoding(positions)
        step.inputs.copy_(step.transformer.embed(step.table.last_tokens(step.row_slots)) + sines)
        if step.rotary is not None and factors is not None:
            step.rotary.copy_(factors)
        step.attention.update(positions)

    def step_sizes(self, n_slots: int) -> list[int]:
        """Numbers of slots that a step may have, ascending; none: it is of the busy slots' rows alone."""
        return [n_slots]

    def sampler(self, table: "SlotTable") -> Sampler:
        """``SlotTable.sample``, for one step's tensors."""
        return lambda slots, logits, rows: table.sample(slots, logits[rows[0]], logits[rows[1]])

    def capture(self, step: "Step") -> Callable[[], None]:
        """``step.run_eagerly``, perhaps captured when it is first called and replayed from then on.

        That first call may raise ``CaptureError``, a later one ``ReplayError``.
        """
        return step.run_eagerly

    def stop_capturing(self, reason: str) -> None:
        """Capture no step any more, and log why."""
        self.captures = False
        _log.warning("%s The engine goes on as: %s.", reason, self.description)

    @property
    def description(self) -> str:
        """Its name, and whether steps are captured."""
        name = type(self).__name__.removesuffix("Backend").lower()
        return f"{name}, {'captured' if self.captures else 'eager'}"

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
        """As in ``StepAttention``."""
        query, keys, values = self._by_row(qkv).permute(2, 0, 3, 1, 4)
        cached = self.cache.update(layer, self.rows, self.positions, keys, values)
        return _attend(query, cached, self.positions.stop, self.mask)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """As in ``StepAttention``."""
        return _attend(self._by_row(query).transpose(1, 2), self.cache.cross(layer, self.rows), self.n_cross, None)

    def _by_row(self, x: Tensor) -> Tensor:
        """[R, C, ...] from [B, ...]."""
        return x.view(self.rows.stop - self.rows.start, -1, *x.shape[1:])


class StepAttention:
    """Attention of one position of each row; here over the whole cache, masked: no shape depends on a length."""

    def __init__(self, cache: KVCache, rows: Tensor) -> None:
        self.cache, self.rows = cache, rows
        self._reach = torch.arange(max(cache.n_positions, cache.cross_capacity), device=rows.device)

    def update(self, positions: Tensor) -> None:
        """Set the position [B] of each row's input; the cache's last one is an idle row's."""
        self._positions = positions
        self._mask = (self._reach[: self.cache.n_positions] <= positions[:, None])[:, None, None]
        # A row without a job reads position 0: a row with nothing to read would give NaN.
        lengths = self.cache.cross_lengths[self.rows].clamp(min=1)
        self._cross_mask = (self._reach[: self.cache.cross_capacity] < lengths[:, None])[:, None, None]

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        """[B, H Dh] from [B, 3, H, Dh]; keys and values go to the cache first."""
        query, keys, values = qkv.unbind(1)
        cached = self.cache.update(layer, self.rows, self._positions, keys, values)
        return _attend(query[:, :, None], cached, None, self._mask)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """[B, H Dh] from [B, H, Dh]."""
        return _attend(query[:, :, None], self.cache.cross(layer, self.rows), None, self._cross_mask)


def _attend(query: Tensor, cached: tuple[Tensor, Tensor], length: int | None, mask: Tensor | None) -> Tensor:
    """[R C, H Dh] from query [R, H, C, Dh] and the first positions of cached keys and values [R, H, S, ...]."""
    keys, values = (dequantize_kv(part[:, :, :length], query.dtype) for part in cached)
    out = scaled_dot_product_attention(query, keys, values, mask)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)
