"""Symmetric int8 quantisation of weight matrices, one scale an output. Knows nothing of files or devices."""

from typing import Literal

import torch
from torch import Tensor

Quantize = Literal["none", "int8"]


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 weight [out, in], fp32 scale [out]): the largest weight of each output becomes 127 or -127.

    The scale has no more digits than a bfloat16. Their product is then exact in fp32, and a weight that was stored in
    int8 gets the same integers and scale when it is quantised again, from fp32 or from a rounding to fp16.
    """
    scale = (weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127).to(torch.bfloat16).float()
    return (weight.float() / scale[:, None]).round().to(torch.int8), scale


def dequantize(weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [out, in] in `dtype`, rounded once, of an int8 weight and its scale [out]."""
    return torch.mul(weight, scale.float()[:, None], out=weight.new_empty(weight.shape, dtype=dtype))


def is_int8_exact(weight: Tensor) -> bool:
    """Whether quantising the weight [out, in] loses nothing, as with one that was stored in int8."""
    # The first row alone tells almost any other weight apart.
    return all(torch.equal(dequantize(*quantize(part)), part) for part in (weight[:1], weight))
