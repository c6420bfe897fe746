"""The CPU's matrix products against torch and exact integer sums: results, and bits alone and in a batch."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional

pytest.importorskip("llvmlite")

from audiocraft_ext.engine.backends import cpu_kernels
from audiocraft_ext.engine.backends.cpu import CPULinear
from audiocraft_ext.engine.quantize import dequantize, quantize
from audiocraft_ext.engine.transformer import WeightBias

matmul_int16 = partial(cpu_kernels.matmul, packed_dtype=torch.int16)


@pytest.mark.parametrize("shape", [(64, 64), (6, 1024), (7, 48), (1, 16)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 8, 19])
def test_matmul_equals_torch_with_the_scaled_weights(shape: tuple[int, int], n_rows: int, on_threads: None) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(n_rows, shape[1]), torch.randn(shape[0])
    weight, scale = quantize(torch.randn(shape))
    for kind, wide in ((weight, dequantize(weight, scale)), (weight.float(), dequantize(weight, scale))):
        ours = cpu_kernels.matmul(x, kind, scale, bias)
        torch.testing.assert_close(ours, functional.linear(x, wide, bias), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (6, 1024), (7, 96), (1, 32)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 8, 19])
def test_matmul_int16_equals_exact_integer_sums(shape: tuple[int, int], n_rows: int, on_threads: None) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(n_rows, shape[1]) * torch.logspace(-20, 20, n_rows)[:, None], torch.randn(shape[0])
    weight, scale = quantize(torch.randn(shape))
    top, largest = x.abs().amax(1, keepdim=True), torch.tensor(32767.0)
    rounded = (x * (largest / top)).round()
    exact = (rounded.long() @ weight.T.long()).double() * (top / largest) * scale + bias
    size = (rounded.abs().double() @ weight.T.abs().double()) * (top / largest) * scale + bias.abs()
    error = matmul_int16(x, weight, scale, bias) - exact
    assert (error.abs() / size).max() < 2.0**-22  # 2^-23.7 is the largest ever seen


def test_int16_sums_of_the_longest_row_do_not_overflow() -> None:
    n = cpu_kernels._MAX_INT16_INPUTS // 32 * 32
    assert n >= 8192  # the widest matrix of MusicGen large
    x, weight, one = torch.ones(2, n), torch.full((1, n), -127, dtype=torch.int8), torch.ones(1)
    x[1] = -1
    y = matmul_int16(x, weight, one, 0 * one)
    torch.testing.assert_close(y, torch.tensor([[-127.0 * n], [127.0 * n]]))


def test_a_row_of_zeros_gives_the_bias() -> None:
    weight, bias = torch.ones(8, 32, dtype=torch.int8), torch.randn(8)
    assert torch.equal(matmul_int16(torch.zeros(1, 32), weight, torch.ones(8), bias)[0], bias)


@pytest.mark.parametrize("n_inputs", [48, 8288])
def test_widths_unfit_for_int16_are_multiplied_in_fp32(n_inputs: int) -> None:
    torch.manual_seed(0)
    linear, x = CPULinear(WeightBias(torch.randn(8, n_inputs)), None, False, True), torch.randn(2, n_inputs)
    expected = functional.linear(x, dequantize(linear.weight, linear.scale))
    torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("product", [cpu_kernels.matmul, matmul_int16])
def test_matmul_has_the_same_bits_on_any_number_of_threads(product: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    x, ones = torch.randn(3, 256), torch.ones(130)
    weight, scale = quantize(torch.randn(130, 256))
    before = torch.get_num_threads()
    outputs = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        outputs.append(product(x, weight, scale, ones))
    torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("product", [cpu_kernels.matmul, matmul_int16])
def test_matmul_gives_a_row_the_same_bits_alone_and_in_a_batch(product: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    x, ones = torch.randn(9, 1600), torch.ones(6)
    weight, scale = quantize(torch.randn(6, 1600))
    alone = torch.cat([product(row[None], weight, scale, ones) for row in x])
    for n_rows in range(2, 10):
        assert torch.equal(product(x[:n_rows], weight, scale, ones), alone[:n_rows])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("product", [cpu_kernels.matmul, matmul_int16])
def test_a_non_finite_input_makes_its_whole_output_row_non_finite(
    product: Callable[..., torch.Tensor], bad: float
) -> None:
    x = torch.ones(2, 32)
    x[1, 3] = bad
    y = product(x, torch.ones(8, 32, dtype=torch.int8), torch.ones(8), torch.ones(8))
    assert y[0].isfinite().all()
    assert not y[1].isfinite().any()
