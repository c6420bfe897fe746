"""The CPU's backend, compared with plain torch."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("llvmlite")

from audiocraft_ext.engine.backends import llvm_jit
from audiocraft_ext.engine.backends.cpu import CPUAttention, CPUBackend, CPULinear
from audiocraft_ext.engine.backends.cpu_kernels import matmul
from audiocraft_ext.engine.backends.llvm_jit import record
from audiocraft_ext.engine.backends.torch import StepAttention, TorchBackend
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.kv_cache import KVCache
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.engine.slots import SlotTable
from audiocraft_ext.engine.step import Step
from audiocraft_ext.engine.transformer import WeightBias, rotary_table
from tests.support import engines as models
from tests.support.engines import closing, results

N_HEADS, HEAD = 3, 32
PLACE = (torch.device("cpu"), torch.float32, N_HEADS * HEAD, False, True)
OURS, PLAIN = CPUBackend(*PLACE), TorchBackend(*PLACE)
# Rows of the cache, the positions of their inputs, and how many positions they cross-attend to.
ROWS, POSITIONS, CROSS = [0, 1, 2, 6, 7], [0, 0, 15, 129, 129], [70, 70, 1, 64, 64]


def filled_cache(dtype: torch.dtype = torch.float32) -> KVCache:
    cache = models.filled_cache(8, N_HEADS, HEAD, 150, 70, dtype)
    cache.cross_lengths[ROWS] = torch.tensor(CROSS)
    return cache


def attend(
    kind: type[CPUAttention] | type[StepAttention], cache: KVCache, qkv: Tensor, inputs: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Self- and cross-attention of some of the inputs, or of all."""
    inputs = inputs or list(range(len(ROWS)))
    attention = kind(cache, torch.tensor(ROWS)[inputs])
    attention.update(torch.tensor(POSITIONS)[inputs])
    qkv = qkv[inputs]
    return attention.self_attention(0, qkv), attention.cross_attention(0, qkv[:, 0].contiguous())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_attention_is_torch_s_and_writes_the_same_cache(dtype: torch.dtype, on_threads: None) -> None:
    qkv = torch.randn(5, 3, N_HEADS, HEAD)
    ours_cache, plain_cache = filled_cache(dtype), filled_cache(dtype)
    ours, plain = attend(CPUAttention, ours_cache, qkv), attend(StepAttention, plain_cache, qkv)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours_cache.keys[0], plain_cache.keys[0])
    assert torch.equal(ours_cache.values[0], plain_cache.values[0])


@pytest.mark.parametrize("inputs", [[0, 1], [2], [3, 4], [2, 3, 4]], ids=str)
def test_rows_get_the_bits_that_they_get_alone(inputs: list[int], on_threads: None) -> None:
    qkv = torch.randn(5, 3, N_HEADS, HEAD, generator=torch.Generator().manual_seed(1))
    cache, cache_alone = filled_cache(), filled_cache()
    together, alone = attend(CPUAttention, cache, qkv), attend(CPUAttention, cache_alone, qkv, inputs)
    for part, part_alone in zip(together, alone, strict=True):
        assert torch.equal(part[inputs], part_alone)
    rows = torch.tensor(ROWS)[inputs]
    assert torch.equal(cache.keys[0][rows], cache_alone.keys[0][rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("head_dim", [*range(16, 144, 16), 1024])
def test_attention_takes_heads_of_any_multiple_of_16(head_dim: int, dtype: torch.dtype) -> None:
    qkv = torch.randn(5, 3, N_HEADS, head_dim)
    caches = [models.filled_cache(8, N_HEADS, head_dim, 150, 70, dtype) for _ in range(2)]
    for cache in caches:
        cache.cross_lengths[ROWS] = torch.tensor(CROSS)
    ours, plain = attend(CPUAttention, caches[0], qkv), attend(StepAttention, caches[1], qkv)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_positions_beyond_a_row_s_length_are_not_read() -> None:
    cache = filled_cache()
    for row, position in zip(ROWS, POSITIONS, strict=True):
        cache.keys[0][row, :, position + 1 :] = torch.nan
        cache.values[0][row, :, position + 1 :] = torch.nan
    assert attend(CPUAttention, cache, torch.randn(5, 3, N_HEADS, HEAD))[0].isfinite().all()


@pytest.mark.parametrize("n_rows", [1, 5, 19])
@pytest.mark.parametrize(("has_bias", "gelu"), [(True, True), (False, False)])
def test_a_product_with_norm_gelu_and_residual_is_torch_s(
    n_rows: int, has_bias: bool, gelu: bool, on_threads: None
) -> None:
    torch.manual_seed(0)
    x, residual, weight = torch.randn(n_rows, 96) * 40 + 7, torch.randn(n_rows, 176), torch.randn(176, 96) / 10
    biases = (torch.randn(96), torch.randn(176)) if has_bias else (None, None)
    norm, matrix = WeightBias(torch.randn(96), biases[0]), WeightBias(weight, biases[1])
    ours, plain = (backend.linear(matrix, norm, gelu) for backend in (OURS, PLAIN))
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)  # 2e-6 measured
    if not gelu:
        expected = residual + ours(x)
        assert ours(x, residual) is residual
        assert torch.equal(residual, expected)


def test_rotary_factors_are_applied_as_by_torch_and_values_left(on_threads: None) -> None:
    torch.manual_seed(0)
    factors = rotary_table(900, torch.logspace(0, -4, HEAD // 2), 0.8)[[0, 1, 77, 500, 899]]
    qkv = torch.randn(5, 3, N_HEADS, HEAD)
    ours = OURS.apply_rotary(qkv.clone(), factors)
    torch.testing.assert_close(ours, PLAIN.apply_rotary(qkv, factors), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[:, 2], qkv[:, 2])


def test_gelu_is_within_a_millionth_of_the_exact_one(on_threads: None) -> None:
    x = torch.linspace(-30, 30, 64_000).view(4, -1)
    product = OURS.linear(WeightBias(torch.eye(16)), gelu=True)
    ours = torch.cat([product(part) for part in x.view(-1, 4, 16)])
    assert (ours.view(4, -1) - functional.gelu(x.double())).abs().max() < 1e-6


def attend_last_rows(x: Tensor) -> Tensor:
    qkv = torch.ones(5, 3, N_HEADS, HEAD)
    qkv[3:] = x[:, None, None]
    return attend(CPUAttention, filled_cache(), qkv, [3, 4])[0]


@pytest.mark.parametrize(
    "compute",
    [
        OURS.linear(WeightBias(torch.eye(HEAD)), gelu=True),
        OURS.linear(WeightBias(torch.eye(HEAD)), WeightBias(torch.ones(HEAD))),
        attend_last_rows,
    ],
    ids=["gelu", "norm", "attention"],
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_not_finite_stay_so_in_their_own_row(compute: Callable[[Tensor], Tensor], bad: float) -> None:
    x = torch.ones(2, HEAD)
    x[1, 3] = bad
    result = compute(x)
    assert result[0].isfinite().all()
    assert not result[1].isfinite().all()


@pytest.mark.parametrize("has_cross", [True, False])
def test_an_engine_on_kernels_gives_the_tokens_of_plain_torch(has_cross: bool) -> None:
    jobs = [models.job(seed, temperature=0.0, n_frames=60, has_cross=has_cross) for seed in range(3)]
    with (
        closing(models.engine(has_cross, 2, backend="cpu")) as fast,
        closing(models.engine(has_cross, 2, backend="torch")) as slow,
    ):
        for a, b in zip(results(fast, jobs), results(slow, jobs), strict=True):
            assert torch.equal(a, b)


def test_int8_exact_weights_are_kept_in_int8_and_the_cache_in_fp32() -> None:
    qkv = models.transformer().layers[0].qkv
    assert isinstance(qkv, CPULinear)
    assert qkv.weight.dtype == torch.int8
    assert models.transformer().cache.dtype == torch.float32
    assert models.transformer(quantize="int8").cache.dtype == torch.int8


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("ffn_dim", [120, 131])
def test_a_model_whose_widths_are_no_whole_vectors_runs_on_torch(ffn_dim: int, quantize: Quantize) -> None:
    """A checkpoint says how wide it is: kernels would read and write beyond its rows."""
    odd = models.transformer(True, 2, quantize, ffn_dim=ffn_dim)
    assert type(odd.backend) is TorchBackend
    assert odd.backend.fitting_slots(4, 1) == 1
    jobs = [models.job(seed) for seed in range(4)]
    with closing(Engine(odd, models.PATTERN, 2, models.N_STEPS)) as engine:
        alone = [engine.submit(job).result(models.PATIENCE_S) for job in jobs]
        assert all(torch.equal(a, b) for a, b in zip(results(engine, jobs), alone, strict=True))


@pytest.mark.parametrize("has_cross", [True, False])
def test_replayed_steps_give_the_bits_of_single_calls_and_follow_the_cache(has_cross: bool) -> None:
    # The third job's conditions are longer than there is room for: the cache moves while the first one runs.
    jobs = [models.job(seed, n_frames=40, has_cross=has_cross) for seed in range(4)]
    if has_cross:
        jobs[2] = models.job(2, n_frames=40, cross=torch.randn(2, 200, models.WIDTH), guidance=3.0)
    with closing(models.engine(has_cross)) as replayed, closing(models.engine(has_cross, capture=False)) as called:
        for a, b in zip(results(replayed, jobs), results(called, jobs), strict=True):
            assert torch.equal(a, b)


def test_recorded_calls_are_replayed_on_the_same_tensors() -> None:
    torch.manual_seed(0)
    x, weight, ones = torch.randn(2, 64), torch.randn(64, 64), torch.ones(64)
    outputs: list[Tensor] = []

    def compute() -> None:
        outputs.append(matmul(matmul(x, weight, ones, ones), weight, ones, ones, gelu=True))

    replay = record(compute)
    x.copy_(torch.randn(2, 64))
    compute()
    y, expected = outputs
    assert not torch.equal(y, expected)
    for n_threads in (3, 1, 2, 3):
        y.zero_()
        replay(n_threads)
        assert torch.equal(y, expected)


def test_threads_that_sleep_at_a_barrier_are_all_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm_jit, "_N_SPINS", 0)
    x, weight, ones = torch.randn(2, 64), torch.randn(64, 64), torch.ones(64)
    outputs: list[Tensor] = []

    def compute() -> None:
        outputs.append(x)
        for _ in range(10):
            outputs.append(matmul(outputs[-1], weight, ones, ones, gelu=True))

    replay = record(compute)
    expected = outputs[-1].clone()
    for repetition in range(200):
        outputs[-1].zero_()
        replay(1 + repetition % 5)
        assert torch.equal(outputs[-1], expected)


def test_a_step_that_fails_while_it_is_captured_is_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.transformer()
    model.cache_cross_kv(0, torch.randn(2, 9, models.WIDTH))
    table = SlotTable(4, models.N_CODEBOOKS, models.N_STEPS, model.cache.n_positions, torch.device("cpu"))
    table.activate(0, 0)
    step = Step(model, table, 2)
    run = partial(step.run, [(0, 2)])
    with monkeypatch.context() as broken:
        broken.setattr(model, "logits", None)
        with pytest.raises(TypeError):
            run()
    for _ in range(2):
        table.step[0], table.position[0] = 1, 0
        run()
        assert step.logits.shape == (2, models.N_CODEBOOKS, models.CARD)
        first = step.logits.clone()
    assert torch.equal(step.logits, first)


def test_kernels_are_chosen_here_for_fp32() -> None:
    """Else all of this would test nothing."""
    assert isinstance(models.transformer().backend, CPUBackend)
    assert type(models.transformer(dtype=torch.bfloat16).backend) is TorchBackend
