"""The CPU's kernels, held to their plain twins."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional

pytest.importorskip("llvmlite")

from audiocraft_ext.engine import cpu_kernels, decoder, native
from audiocraft_ext.engine.attention import CpuAttention, CpuKernelAttention, Span
from audiocraft_ext.engine.cpu_matmul import matmul
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.linear import Kernels, OnCpu, Quantize
from audiocraft_ext.engine.replay import Replay
from tests.support import engines as models
from tests.support.engines import closing, results

KINDS: tuple[Kernels, ...] = ("cpu", "none")
N_HEADS, HEAD = 3, 32
filled_cache = partial(models.filled_cache, 8, N_HEADS, HEAD, 150, 70)
SPANS = [Span(0, 2, 0, 0, 70), Span(2, 1, 2, 15, 1), Span(3, 2, 6, 129, 64)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_attention_is_torch_s_and_writes_the_same_cache(dtype: torch.dtype, on_threads: None) -> None:
    qkv = torch.randn(5, 3, N_HEADS, HEAD)
    ours_cache, plain_cache = filled_cache(dtype), filled_cache(dtype)
    ours, plain = CpuKernelAttention(ours_cache, 5).at(SPANS), CpuAttention(plain_cache, SPANS)
    torch.testing.assert_close(ours.self_attention(0, qkv), plain.self_attention(0, qkv), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours_cache.keys[0], plain_cache.keys[0])
    assert torch.equal(ours_cache.values[0], plain_cache.values[0])
    query = qkv[:, 0].contiguous()
    torch.testing.assert_close(ours.cross_attention(0, query), plain.cross_attention(0, query), rtol=1e-5, atol=1e-5)


def test_what_lies_behind_a_row_s_length_is_not_read() -> None:
    cache = filled_cache()
    for span in SPANS:
        cache.keys[0][span.row : span.row + span.n_rows, :, span.position + 1 :] = torch.nan
        cache.values[0][span.row : span.row + span.n_rows, :, span.position + 1 :] = torch.nan
    assert CpuKernelAttention(cache, 5).at(SPANS).self_attention(0, torch.randn(5, 3, N_HEADS, HEAD)).isfinite().all()


@pytest.mark.parametrize("has_bias", [True, False])
def test_add_norm_is_its_plain_twin(has_bias: bool, on_threads: None) -> None:
    torch.manual_seed(0)
    x, y, weight = torch.randn(5, 96) * 40 + 7, torch.randn(5, 96), torch.randn(96)
    bias = torch.randn(96) if has_bias else None
    ours_x, plain_x = x.clone(), x.clone()
    ours = cpu_kernels.add_norm(ours_x, y, weight, bias, 1e-5, torch.float32)
    plain = decoder.add_norm(plain_x, y, weight, bias, 1e-5, torch.float32)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours_x, plain_x)


def test_queries_and_keys_are_turned_as_by_the_plain_twin_and_values_left(on_threads: None) -> None:
    torch.manual_seed(0)
    qkv, turn = torch.randn(5, 3, N_HEADS, HEAD), decoder.rotary_table(900, HEAD, 10_000.0, 0.8)[[0, 1, 77, 500, 899]]
    plain = decoder.rotated(qkv, turn)
    ours = cpu_kernels.rotated(qkv.clone(), turn)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[:, 2], qkv[:, 2])


def test_gelu_is_within_a_millionth_of_the_exact_one(on_threads: None) -> None:
    x = torch.linspace(-30, 30, 64_000).view(4, -1)
    exact = functional.gelu(x.double())
    assert (cpu_kernels.gelu(x) - exact).abs().max() < 1e-6


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: cpu_kernels.gelu(x.clone()),
        lambda x: cpu_kernels.add_norm(x.clone(), x, torch.ones(32), None, 1e-5, torch.float32),
        lambda x: (
            CpuKernelAttention(filled_cache(), 2)
            .at(SPANS[2:])
            .self_attention(0, x[:, None, None].expand(2, 3, N_HEADS, HEAD).contiguous())
        ),
    ],
    ids=["gelu", "add_norm", "attention"],
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_no_number_afterwards(
    compute: Callable[[torch.Tensor], torch.Tensor], bad: float
) -> None:
    x = torch.ones(2, HEAD)
    x[1, 3] = bad
    made = compute(x)
    assert made[0].isfinite().all()
    assert not made[1].isfinite().all()


@pytest.mark.parametrize("has_cross", [True, False])
def test_an_engine_on_kernels_gives_the_tokens_of_plain_torch(has_cross: bool) -> None:
    jobs = [models.job(seed, temperature=0.0, n_frames=60, has_cross=has_cross) for seed in range(3)]
    ours, plain = (models.decoder(has_cross, 2, "none", kernels) for kernels in KINDS)
    with (
        closing(Engine(ours, models.PATTERN, 2, models.N_STEPS)) as fast,
        closing(Engine(plain, models.PATTERN, 2, models.N_STEPS)) as slow,
    ):
        for a, b in zip(results(fast, jobs), results(slow, jobs), strict=True):
            assert torch.equal(a, b)


def test_weights_that_int8_holds_are_kept_in_it_and_the_cache_in_fp32() -> None:
    heads = models.decoder().heads
    assert isinstance(heads, OnCpu)
    assert heads.weight.dtype == torch.int8
    assert models.decoder().cache.dtype == torch.float32
    assert models.decoder(quantize="int8").cache.dtype == torch.int8


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("feed_width", [120, 131])
def test_a_model_whose_widths_are_no_whole_vectors_runs_on_plain_torch(feed_width: int, quantize: Quantize) -> None:
    """A checkpoint says how wide it is: kernels would read and write beyond its rows, and so does torch's for int8."""
    jobs = [models.job(seed, temperature=0.0) for seed in range(2)]
    odd, plain = (models.decoder(True, 2, quantize, kernels, feed_width=feed_width) for kernels in (None, "none"))
    assert odd.kernels == "none"
    with (
        closing(Engine(odd, models.PATTERN, 2, models.N_STEPS)) as engine,
        closing(Engine(plain, models.PATTERN, 2, models.N_STEPS)) as expected,
    ):
        for a, b in zip(results(engine, jobs), results(expected, jobs), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("has_cross", [True, False])
def test_replayed_steps_give_the_bits_of_single_calls_and_follow_a_cache_that_moves(has_cross: bool) -> None:
    # The second job's conditions are longer than there is room for, so that the cache moves while the first runs.
    jobs = [models.job(seed, n_frames=40, has_cross=has_cross) for seed in range(4)]
    if has_cross:
        jobs[2] = models.job(2, n_frames=40, cross=torch.randn(2, 200, models.WIDTH), guidance=3.0)
    with (
        closing(Engine(models.decoder(has_cross), models.PATTERN, 4, models.N_STEPS)) as replayed,
        closing(Engine(models.decoder(has_cross), models.PATTERN, 4, models.N_STEPS, use_graph=False)) as called,
    ):
        for a, b in zip(results(replayed, jobs), results(called, jobs), strict=True):
            assert torch.equal(a, b)


def test_a_recording_is_run_again_on_the_same_tensors(on_threads: None) -> None:
    torch.manual_seed(0)
    x, weight, ones = torch.randn(2, 64), torch.randn(64, 64), torch.ones(64)
    with native.recorded() as recording:
        y = cpu_kernels.gelu(matmul(matmul(x, weight, ones, ones), weight, ones, ones))
    x.copy_(torch.randn(2, 64))
    expected = cpu_kernels.gelu(matmul(matmul(x, weight, ones, ones), weight, ones, ones))
    assert not torch.equal(y, expected)
    for _ in range(3):
        recording.replay()
        assert torch.equal(y, expected)


def test_a_step_that_fails_while_it_is_recorded_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.decoder()
    model.write_cross(0, torch.randn(2, 9, models.WIDTH))
    step = partial(Replay(model, 2).step, torch.randn(2, models.WIDTH), model.encoded(torch.tensor([0, 0])))
    with monkeypatch.context() as broken:
        broken.setattr(model, "logits", None)
        with pytest.raises(TypeError):
            step([Span(0, 2, 0, 0, 9)])
    first = step([Span(0, 2, 0, 0, 9)]).clone()
    assert torch.equal(step([Span(0, 2, 0, 0, 9)]), first)
    assert first.shape == (2, models.N_CODEBOOKS, models.CARD)


def test_kernels_can_be_had_here() -> None:
    """Else all of this would be about nothing."""
    assert native.is_available()
    assert models.decoder().kernels == "cpu"
    assert models.decoder(dtype=torch.bfloat16).kernels == "none"
