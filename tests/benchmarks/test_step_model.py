"""The model of a step: its bytes are those of the real module, its figures those that it was derived from."""

import re
from pathlib import Path

import pytest

from audiocraft_ext import checkpoint
from benchmarks.engine import write_checkpoint
from benchmarks.step_model import CARDS, DESIGNS, Design, n_bytes, n_cached, n_weights, realtime, step_ms


def test_weights_are_those_that_a_real_step_multiplies_with(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "tiny")
    lm = checkpoint.load(str(tmp_path), "cpu").lm
    layers = dict(lm.transformer.layers.named_parameters())
    read = sum(weight.numel() for name, weight in layers.items() if weight.dim() == 2)
    # Two thirds of cross-attention's stacked matrices make keys and values, once a job.
    read -= sum(weight.numel() * 2 // 3 for name, weight in layers.items() if "cross_attention.in_proj" in name)
    assert n_weights("tiny") == read + sum(head.weight.numel() for head in lm.linears)


@pytest.mark.parametrize(("size", "gigabytes"), [("small", 0.721), ("medium", 3.196), ("large", 5.671)])
def test_fp16_weights_in_gigabytes(size: str, gigabytes: float) -> None:
    assert n_bytes(size, 0, 0) / 1e9 == pytest.approx(gigabytes, abs=0.001)


@pytest.mark.parametrize(("size", "gigabytes"), [("small", 0.147), ("medium", 0.442), ("large", 0.590)])
def test_keys_and_values_of_a_clip_at_750_positions_in_gigabytes(size: str, gigabytes: float) -> None:
    assert 2 * n_cached(size, 1, 750) / 1e9 == pytest.approx(gigabytes, abs=0.001)


@pytest.mark.parametrize(("size", "n_today", "n_design"), [("small", 436, 195), ("medium", 772, 387)])
def test_kernels_of_a_step(size: str, n_today: int, n_design: int) -> None:
    assert [design.n_kernels(size) for design in DESIGNS.values()] == [n_today, n_design]


def test_the_engine_s_design_has_the_launches_that_gpu_aot_counts() -> None:
    table = Path(__file__).parents[2] / "benchmarks" / "results" / "gpu_aot.md"
    counted = re.findall(r"^\| (\w+) \| fp16 \|.* (\d+) \|$", table.read_text(), re.MULTILINE)
    assert len(counted) == 3
    assert {size: int(n) for size, n in counted} == {size: DESIGNS["8 a layer"].n_kernels(size) for size, _ in counted}


@pytest.mark.parametrize(
    ("card", "n_clips", "weight_bytes", "cache_bytes", "expected"),
    [("H100", 1, 2, 2, 11.5), ("H200", 1, 2, 2, 12.5), ("H100", 1, 1, 2, 16.5), ("H200", 16, 1, 1, 165)],
)
def test_medium_s_goals_follow_from_seven_kernels_a_layer(
    card: str, n_clips: int, weight_bytes: int, cache_bytes: int, expected: float
) -> None:
    read = n_bytes("medium", n_clips, 750, weight_bytes, cache_bytes)
    assert realtime(step_ms(Design(7, 4), CARDS[card], "medium", read), n_clips) == pytest.approx(expected, rel=0.02)


def test_a_plain_graph_of_today_s_kernels_takes_3_8_ms_for_medium() -> None:
    ms = step_ms(DESIGNS["14 a layer"], CARDS["H100"], "medium", n_bytes("medium", 1, 750))
    assert ms == pytest.approx(3.76, abs=0.01)
