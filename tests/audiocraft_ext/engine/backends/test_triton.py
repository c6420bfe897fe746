"""The Triton kernels, compared with plain torch: on CUDA if available, else in Triton's interpreter."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from audiocraft_ext.engine.backends import triton_attention
from audiocraft_ext.engine.backends.torch import StepAttention
from audiocraft_ext.engine.backends.triton import TritonAttention, TritonBackend
from audiocraft_ext.engine.kv_cache import KVCache
from tests.support import engines as models
from tests.support.engines import closing, results

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# More positions than one program reads, and lengths on both sides of its tiles' and its own ends.
N_ROWS, N_HEADS, HEAD, N_POSITIONS = 6, 3, 16, 600


def filled_cache(dtype: torch.dtype) -> KVCache:
    cache = models.filled_cache(N_ROWS, N_HEADS, HEAD, N_POSITIONS, 70, dtype, DEVICE.type)
    cache.cross_lengths.copy_(torch.tensor([70, 1, 64, 65, 7, 2]))
    return cache


def attention_at(
    kind: type[TritonAttention] | type[StepAttention], cache: KVCache, positions: list[int]
) -> TritonAttention | StepAttention:
    attention = kind(cache, torch.arange(N_ROWS, device=DEVICE))
    attention.update(torch.tensor(positions, device=DEVICE))
    return attention


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_split_attention_is_masked_attention_and_writes_the_same_cache(dtype: torch.dtype) -> None:
    positions = [0, 63, 64, 255, 256, 598]
    qkv = torch.randn(N_ROWS, 3, N_HEADS, HEAD, device=DEVICE).to(dtype)
    split_cache, masked_cache = filled_cache(dtype), filled_cache(dtype)
    split, masked = (
        attention_at(kind, cache, positions)
        for kind, cache in ((TritonAttention, split_cache), (StepAttention, masked_cache))
    )
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(
        split.self_attention(0, qkv), masked.self_attention(0, qkv), rtol=tolerance, atol=tolerance
    )
    assert torch.equal(split_cache.keys[0], masked_cache.keys[0])
    assert torch.equal(split_cache.values[0], masked_cache.values[0])
    query = qkv[:, 0].contiguous()
    torch.testing.assert_close(
        split.cross_attention(0, query), masked.cross_attention(0, query), rtol=tolerance, atol=tolerance
    )


def test_parts_are_merged_in_order_and_counted_from_zero_again() -> None:
    lengths = torch.tensor([600, 513, 512, 257, 256, 0], device=DEVICE)
    cache, query = filled_cache(torch.float16), torch.randn(N_ROWS, N_HEADS, HEAD, device=DEVICE).half()
    attend = triton_attention.Attend(N_ROWS, N_HEADS, HEAD, N_POSITIONS, DEVICE)
    first = attend(query, cache.keys[0], cache.values[0], lengths, None)
    attend.parts.fill_(torch.nan)
    attend.stats.fill_(torch.nan)
    assert not attend.n_arrived.any()
    assert torch.equal(attend(query, cache.keys[0], cache.values[0], lengths, None), first)


def test_an_idle_row_writes_nothing_and_gives_zeros() -> None:
    cache = filled_cache(torch.float32)
    cache.keys[0][1] = torch.nan
    before = cache.values[0].clone()
    attention = attention_at(TritonAttention, cache, [N_POSITIONS - 1] * N_ROWS)
    out = attention.self_attention(0, torch.randn(N_ROWS, 3, N_HEADS, HEAD, device=DEVICE))
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(cache.values[0], before)


def test_positions_beyond_a_row_s_length_are_not_read() -> None:
    cache = filled_cache(torch.float32)
    cache.keys[0][:, :, 40:] = torch.nan
    cache.values[0][:, :, 40:] = torch.nan
    attention = attention_at(TritonAttention, cache, [39] * N_ROWS)
    out = attention.self_attention(0, torch.randn(N_ROWS, 3, N_HEADS, HEAD, device=DEVICE))
    assert out.isfinite().all()


def test_an_engine_on_kernels_gives_the_greedy_tokens_of_plain_torch() -> None:
    place: dict[str, Any] = {"device": DEVICE.type}
    nothing = torch.zeros(4, 0).long()
    jobs = [models.job(seed, temperature=0.0, n_frames=3, prompt=nothing, **place) for seed in range(3)]
    with (
        closing(models.engine(n_slots=2, backend="triton", **place)) as fast,
        closing(models.engine(n_slots=2, backend="torch", **place)) as slow,
    ):
        assert isinstance(fast.backend, TritonBackend)
        for a, b in zip(results(fast, jobs), results(slow, jobs), strict=True):
            assert torch.equal(a, b)
