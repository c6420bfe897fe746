"""The Triton kernels, compared with plain torch: on CUDA if available, else in Triton's interpreter."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from audiocraft_ext.engine.backends import BackendName, triton_attention
from audiocraft_ext.engine.backends.torch import StepAttention
from audiocraft_ext.engine.backends.triton import TritonAttention, TritonBackend
from audiocraft_ext.engine.kv_cache import KVCache, dequantize_kv, quantize_kv
from audiocraft_ext.engine.pattern import UNKNOWN
from audiocraft_ext.engine.slots import SlotTable
from audiocraft_ext.engine.step import Step
from tests.support import engines as models
from tests.support.engines import PATIENCE_S, closing, results

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAMES: tuple[BackendName, ...] = ("triton", "cpu")
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# More positions than one program reads, and lengths on both sides of its tiles' and its own ends.
N_ROWS, N_HEADS, HEAD, N_POSITIONS = 6, 3, 16, 600


def filled_cache(dtype: torch.dtype) -> KVCache:
    cache = models.filled_cache(N_ROWS, N_HEADS, HEAD, N_POSITIONS, 140, dtype, DEVICE.type)
    cache.cross_lengths.copy_(torch.tensor([140, 1, 64, 65, 7, 128]))
    return cache


def attention_at(
    kind: type[TritonAttention] | type[StepAttention],
    cache: KVCache,
    positions: list[int],
    rows: Sequence[int] = range(N_ROWS),
) -> TritonAttention | StepAttention:
    attention = kind(cache, torch.tensor(rows, device=DEVICE))
    attention.update(torch.tensor(positions, device=DEVICE))
    return attention


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_split_attention_is_masked_attention_and_writes_the_same_cache(dtype: torch.dtype, is_int8: bool) -> None:
    torch.manual_seed(0)
    positions = [0, 63, 64, 127, 128, 598]
    qkv = torch.randn(N_ROWS, 3, N_HEADS, HEAD, device=DEVICE).to(dtype)
    split_cache, masked_cache = (filled_cache(torch.int8 if is_int8 else dtype) for _ in range(2))
    split, masked = (
        attention_at(kind, cache, positions)
        for kind, cache in ((TritonAttention, split_cache), (StepAttention, masked_cache))
    )
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(
        split.self_attention(0, qkv), masked.self_attention(0, qkv), rtol=tolerance, atol=tolerance
    )
    for ours, plain in ((split_cache.keys[0], masked_cache.keys[0]), (split_cache.values[0], masked_cache.values[0])):
        # Compiled, the product with the scale and the rounding are one operation, plain torch's two: near a tie they
        # may round to neighbours.
        differing = (ours.int() - plain.int()).abs() if is_int8 else (ours != plain).int()
        assert differing.max() <= (is_int8 and DEVICE.type == "cuda")
        assert differing.double().mean() < 1e-3
    query = qkv[:, 0].contiguous()
    torch.testing.assert_close(
        split.cross_attention(0, query), masked.cross_attention(0, query), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
def test_some_rows_have_the_bits_that_they_have_among_all(dtype: torch.dtype) -> None:
    some, positions = [1, 4], [5, 300, 64, 8, 150, 598]
    qkv = torch.randn(N_ROWS, 3, N_HEADS, HEAD, device=DEVICE)
    all_cache, cache = filled_cache(dtype), filled_cache(dtype)
    among_all = attention_at(TritonAttention, all_cache, positions)
    alone = attention_at(TritonAttention, cache, [positions[row] for row in some], some)
    query = qkv[:, 0].contiguous()
    assert torch.equal(alone.self_attention(0, qkv[some]), among_all.self_attention(0, qkv)[some])
    assert torch.equal(alone.cross_attention(0, query[some]), among_all.cross_attention(0, query)[some])
    others = [row for row in range(N_ROWS) if row not in some]
    for written, before, all_written in zip(cache.keys, filled_cache(dtype).keys, all_cache.keys, strict=True):
        assert torch.equal(written[some], all_written[some])
        assert torch.equal(written[others], before[others])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_key_that_is_not_finite_stays_so_in_int8(bad: float) -> None:
    cache = filled_cache(torch.int8)
    qkv = torch.randn(N_ROWS, 3, N_HEADS, HEAD, device=DEVICE)
    qkv[2, 1, 0, 3] = bad
    out = attention_at(TritonAttention, cache, [40] * N_ROWS).self_attention(0, qkv).view(N_ROWS, N_HEADS, HEAD)
    assert not out[2, 0].isfinite().any()
    assert not dequantize_kv(cache.keys[0][2, 0, 40], torch.float32).isfinite().any()
    out[2, 0] = 0
    assert out.isfinite().all()


def test_parts_are_merged_in_order_and_counted_from_zero_again() -> None:
    lengths = torch.tensor([600, 513, 512, 129, 128, 0], device=DEVICE)
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


def step_of(slots: list[int], busy: list[int], backend: BackendName = "triton") -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [J, 2, K, V] and tokens [J, K] of a step of `slots`, those that are busy among them at other positions."""
    made = models.transformer(n_slots=4, backend=backend, quantize="int8", device=DEVICE.type)
    assert made.cache.dtype == torch.int8
    generator = torch.Generator().manual_seed(0)
    for part in (*made.cache.keys, *made.cache.values):
        drawn = torch.randn(*part.shape[:3], models.WIDTH // models.N_HEADS, generator=generator)
        part.copy_(quantize_kv(drawn, torch.int8))
    states = torch.randn(8, 5, models.WIDTH, generator=generator).to(DEVICE)
    states[3::4] = 0
    table = SlotTable(4, models.N_CODEBOOKS, models.N_STEPS, made.cache.n_positions, DEVICE, is_host=False)
    table.sequence.fill_(UNKNOWN)
    table.uniform_bits.copy_(torch.randint(2**24, table.uniform_bits.shape, generator=generator))
    for slot, position in enumerate((3, 0, 130, 64)):
        made.cache_cross_kv(2 * slot, states[2 * slot : 2 * slot + 2])
        table.sequence[slot, :, :5] = slot
        table.step[slot], table.guidance[slot] = 5, 3.0
        table.params.temperature[slot] = 1.0
        if slot in busy:
            table.activate(slot, position)
    step = Step(made, table, 2 * len(slots))
    step.run([(slot, 2) for slot in slots])
    logits = step.logits.view(len(slots), 2, models.N_CODEBOOKS, -1)[[slots.index(slot) for slot in busy]]
    return logits, table.sequence[busy, :, 5]


def test_a_slot_s_step_is_the_same_alone_and_among_others() -> None:
    logits, tokens = step_of([0, 1, 2, 3], [0, 2, 3])
    for slots, places in (([2], [1]), ([0, 3], [0, 2])):
        fewer, their_tokens = step_of(slots, slots)
        assert torch.equal(fewer, logits[places])
        assert torch.equal(their_tokens, tokens[places])
    assert (tokens >= 0).all()


@models.needs_llvmlite
@pytest.mark.skipif(DEVICE.type != "cpu", reason="a step of the CPU's")
def test_a_step_over_an_int8_cache_is_that_of_the_cpu_s_kernels() -> None:
    (ours, _), (theirs, _) = (step_of([0, 3], [0, 3], name) for name in NAMES)
    assert (ours - theirs).norm() / theirs.norm() < 5e-4  # 1.3e-4 measured: the activations of the CPU have 16 bits


@pytest.mark.slow
def test_jobs_in_steps_of_any_size_get_the_tokens_that_they_get_alone() -> None:
    place: dict[str, Any] = {"device": DEVICE.type}
    nothing = torch.zeros(4, 0).long()
    jobs = [models.job(seed, n_frames=n, prompt=nothing, **place) for seed, n in ((1, 7), (2, 3), (5, 1))]
    with closing(models.engine(n_slots=4, backend="triton", quantize="int8", **place)) as made:
        alone = [made.submit(one).result(timeout=PATIENCE_S) for one in jobs]
        assert {*made._steps} == {2}
        together = results(made, jobs)
        assert {*made._steps} == {2, 4, 8}
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
