"""Keys and values written to a cache in each of its types, and read from it."""

import pytest
import torch
from torch import Tensor

from audiocraft_ext.engine.kv_cache import KVCache, dequantize_kv, kv_bytes_per_row, quantize_kv

HEAD = 32


def heads_of_many_sizes() -> Tensor:
    """Keys or values [5, 3, 2, Dh], the largest of a head being from 10^-6 to 10^6."""
    x = torch.randn(5, 3, 2, HEAD, generator=torch.Generator().manual_seed(0))
    return x * 10 ** torch.linspace(-6, 6, 30).view(5, 3, 2, 1)


def test_int8_is_read_within_half_a_step_of_each_head_s_largest_number() -> None:
    x = heads_of_many_sizes()
    step = x.abs().amax(-1, keepdim=True) / 127
    read = dequantize_kv(quantize_kv(x, torch.int8), torch.float32)
    error = (read - x).abs() / step
    assert error.max() < 0.5001  # the most measured is 0.4993; fp32 may round a value half-way between two
    assert error.max() > 0.4, "it is finer than int8"


def test_zeros_survive_int8() -> None:
    x = heads_of_many_sizes()
    x[..., ::3] = 0
    x[2, 1] = 0
    read = dequantize_kv(quantize_kv(x, torch.int8), torch.float32)
    assert torch.equal(read[x == 0], torch.zeros(int((x == 0).sum())))
    empty = KVCache((1, 2, 3, 7, HEAD), torch.int8, lambda shape, dtype: torch.zeros(shape, dtype=dtype))
    assert torch.equal(dequantize_kv(empty.keys[0], torch.float32), torch.zeros(2, 3, 7, HEAD))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_types_come_back_as_they_are(dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, HEAD, generator=torch.Generator().manual_seed(0)).to(dtype)
    read = dequantize_kv(quantize_kv(x, dtype), dtype)
    assert read.dtype == dtype
    assert torch.equal(read, x)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_non_finite_head_stays_so_in_int8_and_leaves_the_others(bad: float) -> None:
    x = heads_of_many_sizes()
    right = dequantize_kv(quantize_kv(x, torch.int8), torch.float32)
    x[1, 2, 0, 5] = bad
    read = dequantize_kv(quantize_kv(x, torch.int8), torch.float32)
    is_bad = torch.zeros(5, 3, 2, dtype=torch.bool)
    is_bad[1, 2, 0] = True
    assert not read[is_bad].isfinite().any()
    assert torch.equal(read[~is_bad], right[~is_bad])


def test_half_precision_is_quantised_as_the_same_numbers_in_fp32() -> None:
    x = torch.randn(5, 3, 2, HEAD, generator=torch.Generator().manual_seed(0)).half()
    x[0, 0, 0] = 0
    assert torch.equal(quantize_kv(x, torch.int8), quantize_kv(x.float(), torch.int8))


@pytest.mark.parametrize(("dtype", "head_bytes"), [(torch.float16, 2 * 64), (torch.float32, 4 * 64), (torch.int8, 68)])
def test_bytes_of_a_row_are_those_of_the_cache_s_type(dtype: torch.dtype, head_bytes: int) -> None:
    assert kv_bytes_per_row(48, 24, 1505, 64, dtype) == 2 * 48 * 24 * 1505 * head_bytes
