"""The CPU kernels against torch: results, bits alone and in a batch, and replay."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional

pytest.importorskip("llvmlite")

from audiocraft_ext.engine import decoder
from audiocraft_ext.engine.attention import CpuAttention, CpuKernelAttention, Span
from audiocraft_ext.engine.backends import cpu_kernels, llvm_jit
from audiocraft_ext.engine.backends.cpu_kernels import matmul
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.linear import Kernels, OnCpu, Quantize, dequantized, quantized
from audiocraft_ext.engine.replay import Replay
from tests.support import engines as models
from tests.support.engines import closing, results

KINDS: tuple[Kernels, ...] = ("cpu", "none")
N_HEADS, HEAD = 3, 32
filled_cache = partial(models.filled_cache, 8, N_HEADS, HEAD, 150, 70)
SPANS = [Span(0, 2, 0, 0, 70), Span(2, 1, 2, 15, 1), Span(3, 2, 6, 129, 64)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_attention_equals_torch_and_writes_the_same_cache(dtype: torch.dtype, on_threads: None) -> None:
    qkv = torch.randn(5, 3, N_HEADS, HEAD)
    ours_cache, plain_cache = filled_cache(dtype), filled_cache(dtype)
    ours, plain = CpuKernelAttention(ours_cache, 5).at(SPANS), CpuAttention(plain_cache, SPANS)
    torch.testing.assert_close(ours.self_attention(0, qkv), plain.self_attention(0, qkv), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours_cache.keys[0], plain_cache.keys[0])
    assert torch.equal(ours_cache.values[0], plain_cache.values[0])
    query = qkv[:, 0].contiguous()
    torch.testing.assert_close(ours.cross_attention(0, query), plain.cross_attention(0, query), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("head_width", [*range(16, 144, 16), 1024])
def test_attention_takes_heads_of_any_multiple_of_16(head_width: int, dtype: torch.dtype) -> None:
    qkv = torch.randn(5, 3, N_HEADS, head_width)
    cache, torch_cache = (models.filled_cache(8, N_HEADS, head_width, 150, 70, dtype) for _ in range(2))
    ours = CpuKernelAttention(cache, 5).at(SPANS).self_attention(0, qkv)
    expected = CpuAttention(torch_cache, SPANS).self_attention(0, qkv)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_attention_reads_nothing_past_a_row_s_length() -> None:
    cache = filled_cache()
    for span in SPANS:
        cache.keys[0][span.row : span.row + span.n_rows, :, span.position + 1 :] = torch.nan
        cache.values[0][span.row : span.row + span.n_rows, :, span.position + 1 :] = torch.nan
    assert CpuKernelAttention(cache, 5).at(SPANS).self_attention(0, torch.randn(5, 3, N_HEADS, HEAD)).isfinite().all()


@pytest.mark.parametrize("has_bias", [True, False])
def test_add_norm_equals_torch(has_bias: bool, on_threads: None) -> None:
    torch.manual_seed(0)
    x, y, weight = torch.randn(5, 96) * 40 + 7, torch.randn(5, 96), torch.randn(96)
    bias = torch.randn(96) if has_bias else None
    ours_x, plain_x = x.clone(), x.clone()
    ours = cpu_kernels.add_norm(ours_x, y, weight, bias, 1e-5, torch.float32)
    plain = decoder.add_norm(plain_x, y, weight, bias, 1e-5, torch.float32)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours_x, plain_x)


def test_rotary_equals_torch_and_leaves_values_alone(on_threads: None) -> None:
    torch.manual_seed(0)
    qkv, turn = torch.randn(5, 3, N_HEADS, HEAD), decoder.rotary_table(900, HEAD, 10_000.0, 0.8)[[0, 1, 77, 500, 899]]
    plain = decoder.rotated(qkv, turn)
    ours = cpu_kernels.apply_rotary(qkv.clone(), turn)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[:, 2], qkv[:, 2])


def test_gelu_is_within_a_millionth_of_exact(on_threads: None) -> None:
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
def test_non_finite_inputs_give_non_finite_outputs_in_their_row_alone(
    compute: Callable[[torch.Tensor], torch.Tensor], bad: float
) -> None:
    x = torch.ones(2, HEAD)
    x[1, 3] = bad
    y = compute(x)
    assert y[0].isfinite().all()
    assert not y[1].isfinite().all()


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


def test_weights_exact_in_int8_are_kept_in_it_and_the_cache_in_fp32() -> None:
    heads = models.decoder().heads
    assert isinstance(heads, OnCpu)
    assert heads.weight.dtype == torch.int8
    assert models.decoder().cache.dtype == torch.float32
    assert models.decoder(quantize="int8").cache.dtype == torch.int8


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("feed_width", [120, 131])
def test_a_model_of_widths_that_are_no_multiple_of_16_runs_on_plain_torch(feed_width: int, quantize: Quantize) -> None:
    """Kernels would read and write past the rows, as torch's int8 product does."""
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
def test_replayed_steps_equal_single_calls_even_after_the_cache_moves(has_cross: bool) -> None:
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


def test_captured_calls_replay_on_the_same_tensors(on_threads: None) -> None:
    torch.manual_seed(0)
    x, weight, ones = torch.randn(2, 64), torch.randn(64, 64), torch.ones(64)
    with llvm_jit.capture_calls() as captured:
        y = cpu_kernels.gelu(matmul(matmul(x, weight, ones, ones), weight, ones, ones))
    x.copy_(torch.randn(2, 64))
    expected = cpu_kernels.gelu(matmul(matmul(x, weight, ones, ones), weight, ones, ones))
    assert not torch.equal(y, expected)
    for _ in range(3):
        captured.replay()
        assert torch.equal(y, expected)


def test_a_step_that_fails_during_capture_is_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_kernels_are_available_here() -> None:
    """Otherwise the tests of this file test nothing."""
    assert llvm_jit.is_available()
    assert models.decoder().kernels == "cpu"
    assert models.decoder(dtype=torch.bfloat16).kernels == "none"


@pytest.mark.parametrize("shape", [(64, 64), (6, 1024), (7, 48), (1, 16)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 8, 19])
def test_matmul_equals_torch_with_the_scaled_weights(shape: tuple[int, int], n_rows: int, on_threads: None) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(n_rows, shape[1]), torch.randn(shape[0])
    weight, scale = quantized(torch.randn(shape))
    for kind, wide in ((weight, dequantized(weight, scale)), (weight.float(), dequantized(weight, scale))):
        ours = cpu_kernels.matmul(x, kind, scale, bias)
        torch.testing.assert_close(ours, functional.linear(x, wide, bias), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (6, 1024), (7, 96), (1, 32)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 8, 19])
def test_matmul_int16_equals_exact_integer_sums(shape: tuple[int, int], n_rows: int, on_threads: None) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(n_rows, shape[1]) * torch.logspace(-20, 20, n_rows)[:, None], torch.randn(shape[0])
    weight, scale = quantized(torch.randn(shape))
    top, largest = x.abs().amax(1, keepdim=True), torch.tensor(32767.0)
    rounded = (x * (largest / top)).round()
    exact = (rounded.long() @ weight.T.long()).double() * (top / largest) * scale + bias
    size = (rounded.abs().double() @ weight.T.abs().double()) * (top / largest) * scale + bias.abs()
    error = cpu_kernels.matmul_int16(x, weight, scale, bias) - exact
    assert (error.abs() / size).max() < 2.0**-22  # 2^-23.7 is the largest ever seen


def test_int16_sums_of_the_longest_row_do_not_overflow() -> None:
    n = cpu_kernels._MAX_INT16_INPUTS // 32 * 32
    assert n >= 8192  # the widest matrix of MusicGen large
    x, weight, one = torch.ones(2, n), torch.full((1, n), -127, dtype=torch.int8), torch.ones(1)
    x[1] = -1
    y = cpu_kernels.matmul_int16(x, weight, one, 0 * one)
    torch.testing.assert_close(y, torch.tensor([[-127.0 * n], [127.0 * n]]))


def test_a_row_of_zeros_gives_the_bias() -> None:
    weight, bias = torch.ones(8, 32, dtype=torch.int8), torch.randn(8)
    assert torch.equal(cpu_kernels.matmul_int16(torch.zeros(1, 32), weight, torch.ones(8), bias)[0], bias)


@pytest.mark.parametrize("n_inputs", [48, 8288])
def test_widths_unfit_for_int16_are_multiplied_in_fp32(n_inputs: int) -> None:
    torch.manual_seed(0)
    linear, x = OnCpu(torch.randn(8, n_inputs), None, "int8"), torch.randn(2, n_inputs)
    expected = functional.linear(x, dequantized(linear.weight, linear.scale))
    torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("product", [cpu_kernels.matmul, cpu_kernels.matmul_int16])
def test_matmul_has_the_same_bits_on_any_number_of_threads(product: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    x, ones = torch.randn(3, 256), torch.ones(130)
    weight, scale = quantized(torch.randn(130, 256))
    before = torch.get_num_threads()
    outputs = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        outputs.append(product(x, weight, scale, ones))
    torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("product", [cpu_kernels.matmul, cpu_kernels.matmul_int16])
def test_matmul_gives_a_row_the_same_bits_alone_and_in_a_batch(product: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    x, ones = torch.randn(9, 1600), torch.ones(6)
    weight, scale = quantized(torch.randn(6, 1600))
    alone = torch.cat([product(row[None], weight, scale, ones) for row in x])
    for n_rows in range(2, 10):
        assert torch.equal(product(x[:n_rows], weight, scale, ones), alone[:n_rows])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("product", [cpu_kernels.matmul, cpu_kernels.matmul_int16])
def test_a_non_finite_input_makes_its_whole_output_row_non_finite(
    product: Callable[..., torch.Tensor], bad: float
) -> None:
    x = torch.ones(2, 32)
    x[1, 3] = bad
    y = product(x, torch.ones(8, 32, dtype=torch.int8), torch.ones(8), torch.ones(8))
    assert y[0].isfinite().all()
    assert not y[1].isfinite().any()
