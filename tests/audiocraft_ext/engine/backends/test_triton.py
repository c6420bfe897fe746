"""The Triton kernels, compared with plain torch: on CUDA if available, else in Triton's interpreter."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from audiocraft_ext.engine.backends import triton_attention, triton_linear
from audiocraft_ext.engine.backends.torch import StepAttention, TorchBackend
from audiocraft_ext.engine.backends.triton import TritonAttention, TritonBackend
from audiocraft_ext.engine.kv_cache import KVCache
from audiocraft_ext.engine.quantize import quantize
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
    rows = torch.arange(N_ROWS, device=DEVICE)
    first = attend(query, cache.keys[0], cache.values[0], rows, lengths, None)
    attend.parts.fill_(torch.nan)
    attend.stats.fill_(torch.nan)
    assert not attend.n_arrived.any()
    assert torch.equal(attend(query, cache.keys[0], cache.values[0], rows, lengths, None), first)


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


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("width", [48, 128])
@pytest.mark.parametrize("has_bias", [True, False])
def test_add_norm_is_torch_s(dtype: torch.dtype, width: int, has_bias: bool) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(5, width, device=DEVICE), torch.randn(5, width, device=DEVICE).to(dtype)
    weight = torch.randn(width, device=DEVICE)
    bias = torch.randn(width, device=DEVICE) if has_bias else None
    other = x.clone()
    ours = triton_linear.add_norm(x, y, weight, bias, 1e-5, dtype)
    theirs = TorchBackend(DEVICE, dtype, width, False, False).add_norm(other, y, weight, bias)
    torch.testing.assert_close(x, other, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCES[dtype], atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 48), (64, 512)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 8, 32])
def test_the_int8_product_is_that_of_the_scaled_weights(n_rows: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(2)
    weight, scale = quantize(torch.randn(shape, device=DEVICE))
    x = torch.randn(n_rows, shape[1], device=DEVICE).half()
    exact = x.double() @ (weight.double() * scale.double()[:, None]).T
    ours = triton_linear.matmul_int8(x, weight, scale)
    assert (ours.double() - exact).norm() / exact.norm() < 1e-3
    assert torch.equal(triton_linear.matmul_int8(x[:1], weight, scale), ours[:1])


def test_an_engine_on_kernels_gives_the_greedy_tokens_of_plain_torch() -> None:
    place: dict[str, Any] = {"device": DEVICE.type}
    nothing = torch.zeros(4, 0).long()
    jobs = [models.job(seed, temperature=0.0, n_frames=6, prompt=nothing, **place) for seed in range(3)]
    with (
        closing(models.engine(n_slots=2, backend="triton", **place)) as fast,
        closing(models.engine(n_slots=2, backend="torch", **place)) as slow,
    ):
        assert isinstance(fast.backend, TritonBackend)
        for a, b in zip(results(fast, jobs), results(slow, jobs), strict=True):
            assert torch.equal(a, b)


def test_kernels_that_do_not_compile_or_fit_are_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert triton_linear.is_available(DEVICE, 64)
    assert not triton_linear.is_available(DEVICE, 48)

    def without_a_compiler(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(triton_linear, "add_norm", without_a_compiler)
    assert not triton_linear.is_available(DEVICE, 64)
