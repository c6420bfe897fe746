"""The CPU's matrix products, held to torch's."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

pytest.importorskip("llvmlite")

from audiocraft_ext.engine.backends.cpu import MAX_ROWS, CPULinear, can_use_int16, matmul, matmul_int16
from audiocraft_ext.engine.quantize import dequantize, quantize


@pytest.mark.parametrize("shape", [(64, 64), (6, 1024), (7, 48), (1, 16)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 8, 19])
def test_the_product_is_torch_s_with_the_scaled_weights(shape: tuple[int, int], n_rows: int, on_threads: None) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(n_rows, shape[1]), torch.randn(shape[0])
    weight, scale = quantize(torch.randn(shape))
    for kind, wide in ((weight, dequantize(weight, scale)), (weight.float(), dequantize(weight, scale))):
        ours = matmul(x, kind, scale, bias)
        torch.testing.assert_close(ours, functional.linear(x, wide, bias), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (6, 1024), (7, 96), (1, 32)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 8, 19])
def test_the_product_of_rounded_rows_is_that_of_exact_integers(
    shape: tuple[int, int], n_rows: int, on_threads: None
) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(n_rows, shape[1]) * torch.logspace(-20, 20, n_rows)[:, None], torch.randn(shape[0])
    weight, scale = quantize(torch.randn(shape))
    top, largest = x.abs().amax(1, keepdim=True), torch.tensor(32767.0)
    rounded = (x * (largest / top)).round()
    exact = (rounded.long() @ weight.T.long()).double() * (top / largest) * scale + bias
    size = (rounded.abs().double() @ weight.T.abs().double()) * (top / largest) * scale + bias.abs()
    far = matmul_int16(x, weight, scale, bias) - exact
    assert (far.abs() / size).max() < 2.0**-22  # 2^-23.7 is the largest that was seen


def test_the_sums_of_the_most_rounded_inputs_do_not_overflow() -> None:
    n = max(n for n in range(32, 2**14, 32) if can_use_int16(n))
    assert n >= 8192  # the widest matrix of MusicGen large
    x, weight, one = torch.ones(2, n), torch.full((1, n), -127, dtype=torch.int8), torch.ones(1)
    x[1] = -1
    made = matmul_int16(x, weight, one, 0 * one)
    torch.testing.assert_close(made, torch.tensor([[-127.0 * n], [127.0 * n]]))


def test_a_row_of_zeros_gives_the_bias() -> None:
    weight, bias = torch.ones(8, 32, dtype=torch.int8), torch.randn(8)
    assert torch.equal(matmul_int16(torch.zeros(1, 32), weight, torch.ones(8), bias)[0], bias)


@pytest.mark.parametrize("n_inputs", [48, 8288])
def test_widths_that_cannot_be_added_up_in_integers_are_multiplied_in_fp32(n_inputs: int) -> None:
    torch.manual_seed(0)
    linear, x = CPULinear(torch.randn(8, n_inputs), None, is_int8=True), torch.randn(2, n_inputs)
    expected = functional.linear(x, dequantize(linear.weight, linear.scale))
    torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("product", [matmul, matmul_int16])
def test_the_number_of_threads_changes_no_bit(product: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    x, ones = torch.randn(3, 256), torch.ones(130)
    weight, scale = quantize(torch.randn(130, 256))
    before = torch.get_num_threads()
    made = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        made.append(product(x, weight, scale, ones))
    torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("product", [matmul, matmul_int16])
def test_what_is_not_finite_is_no_number_afterwards(product: Callable[..., torch.Tensor], bad: float) -> None:
    x = torch.ones(2, 32)
    x[1, 3] = bad
    made = product(x, torch.ones(8, 32, dtype=torch.int8), torch.ones(8), torch.ones(8))
    assert made[0].isfinite().all()
    assert not made[1].isfinite().any()


SHAPES = [(256, 256), (768, 256), (256, 1024), (2048, 512), (1024, 4096)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("is_int8", [False, True], ids=["fp32", "int8"])
def test_a_row_is_the_same_among_any_number_of_others(is_int8: bool, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    linear = CPULinear(torch.randn(shape), None, is_int8)
    x = torch.randn(MAX_ROWS, shape[1])
    whole = linear(x)
    for n_rows in range(1, MAX_ROWS):
        assert torch.equal(linear(x[:n_rows]), whole[:n_rows])
    order = torch.randperm(MAX_ROWS)
    assert torch.equal(linear(x[order]), whole[order])


def test_int8_is_within_a_hundredth_of_the_product() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(512, 1024), torch.randn(512), torch.randn(4, 1024)
    exact = functional.linear(x, weight, bias)
    error = (CPULinear(weight, bias, is_int8=True)(x) - exact).norm() / exact.norm()
    assert error < 0.012  # 0.0083 measured
