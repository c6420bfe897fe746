"""int8 weights: nothing lost where nothing can be."""

import pytest
import torch

from audiocraft_ext.engine.quantize import dequantize, is_int8_exact, quantize


@pytest.mark.parametrize("between", [torch.float32, torch.float16])
def test_int8_weights_get_the_same_integers_and_scales_again(between: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, scale = quantize(torch.randn(512, 256) * torch.logspace(-3, 1, 512)[:, None])
    again, scale_again = quantize(dequantize(weight, scale).to(between))
    assert torch.equal(again, weight)
    assert torch.equal(scale_again, scale)


def test_only_weights_that_int8_represents_are_exact_in_it() -> None:
    weight = torch.randn(8, 16)
    assert not is_int8_exact(weight)
    assert is_int8_exact(dequantize(*quantize(weight)))


def test_a_weight_of_zeros_survives_int8() -> None:
    assert torch.equal(dequantize(*quantize(torch.zeros(8, 16))), torch.zeros(8, 16))
