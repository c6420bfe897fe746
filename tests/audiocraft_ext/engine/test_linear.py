"""The forms of a weight matrix: the same product, and rows that do not feel their neighbours."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from audiocraft_ext.engine.linear import (
    MAX_ROWS,
    Int8,
    Linear,
    OnCpu,
    Packed,
    Plain,
    dequantized,
    make_linear,
    quantized,
)
from tests.support.engines import needs_llvmlite

SHAPES = [(256, 256), (768, 256), (256, 1024), (2048, 512), (1024, 4096)]
OURS = pytest.param(partial(OnCpu, quantize="none"), id="ours", marks=needs_llvmlite)
OURS_INT8 = pytest.param(partial(OnCpu, quantize="int8"), id="ours in int8", marks=needs_llvmlite)
Form = Callable[[Tensor, Tensor | None], Linear]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", [Packed, Int8, OURS, OURS_INT8])
def test_a_row_is_the_same_among_any_number_of_others(form: Form, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    linear = form(torch.randn(shape), None)
    x = torch.randn(MAX_ROWS, shape[1])
    whole = linear(x)
    for n_rows in range(1, MAX_ROWS):
        assert torch.equal(linear(x[:n_rows]), whole[:n_rows])
    order = torch.randperm(MAX_ROWS)
    assert torch.equal(linear(x[order]), whole[order])


def test_packed_weights_give_torch_s_product() -> None:
    weight, bias, x = torch.randn(96, 64), torch.randn(96), torch.randn(3, 64)
    torch.testing.assert_close(Packed(weight, bias)(x), Plain(weight, bias)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [Int8, OURS_INT8])
def test_int8_is_within_a_hundredth_of_the_product(form: Form) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(512, 1024), torch.randn(512), torch.randn(4, 1024)
    exact = Plain(weight, bias)(x)
    error = (form(weight, bias)(x) - exact).norm() / exact.norm()
    assert error < 0.012  # 0.0083 measured


@pytest.mark.parametrize("between", [torch.float32, torch.float16])
def test_what_was_in_int8_gets_the_same_numbers_and_scales_again(between: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, scale = quantized(torch.randn(512, 256) * torch.logspace(-3, 1, 512)[:, None])
    again, scale_again = quantized(dequantized(weight, scale).to(between))
    assert torch.equal(again, weight)
    assert torch.equal(scale_again, scale)


def test_a_weight_of_zeros_survives_int8() -> None:
    assert torch.equal(Int8(torch.zeros(8, 16), None)(torch.randn(2, 16)), torch.zeros(2, 8))


@needs_llvmlite
def test_the_cpu_gets_our_kernels_or_what_torch_has() -> None:
    weight = torch.randn(32, 32)
    assert isinstance(make_linear(weight, None, "none", "cpu"), OnCpu)
    assert isinstance(make_linear(weight, None, "none", "none"), Packed)
    assert isinstance(make_linear(weight, None, "int8", "none"), Int8)
    assert isinstance(make_linear(weight.half(), None, "none", "none"), Plain)
