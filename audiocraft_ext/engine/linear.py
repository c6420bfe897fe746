"""One weight matrix, in the form that its device multiplies fastest. Knows nothing of what it is the weight of.

Every form gives a row of its result from a row of its input alone, by the same additions in the same order whatever the
other rows hold (up to ``MAX_ROWS`` of them on the CPU): that is what keeps a request's tokens from its neighbours.
"""

import sys
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Quantize = Literal["none", "int8"]
Kernels = Literal["none", "cpu", "cuda"]

# oneDNN picks its kernel by the number of rows; from 2 to 8 it is one and the same (tests/…/test_linear.py). Of more
# rows there is more to compute than to read, and torch's own product is the fastest.
MIN_ROWS = 2
MAX_ROWS = 8


class Linear(Protocol):
    """x [M, in] → x W^T + b [M, out]."""

    def __call__(self, x: Tensor) -> Tensor: ...


class Plain:
    """The weight as it is, by the device's own library."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Packed:
    """fp32 on the CPU without kernels of ours, in oneDNN's blocks: they keep rows apart, as torch's linear does not."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), MAX_ROWS)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        n_rows = x.shape[0]
        if n_rows < MIN_ROWS:
            x = x.expand(MIN_ROWS, -1)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), self.weight, self.bias, "none", [], "")[:n_rows]


class Int8:
    """int8 with one scale an output, on the CPU without kernels of ours: activations in bf16, sums in fp32."""

    @staticmethod
    def can_multiply(weight: Tensor) -> bool:
        """Whether torch's product takes a weight [out, in]: where `in` is no multiple of 16 it reads beyond the end."""
        return weight.shape[1] % 16 == 0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, scale = quantized(weight)
        self.scale = scale.to(torch.bfloat16)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.ops.aten._weight_int8pack_mm(x.to(torch.bfloat16), self.weight, self.scale).to(x.dtype)
        return y if self.bias is None else y + self.bias


class OnCpu:
    """On the CPU by our own kernels; weights that int8 holds as they are, are kept in it unasked.

    With int8 asked for, activations are rounded to 16 bits: 0.003 % of error beside the weights' 1 %.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, quantize: Quantize) -> None:
        from audiocraft_ext.engine.backends import cpu_kernels

        is_rounded = quantize == "int8" and cpu_kernels.can_use_int16(weight.shape[1])
        self._matmul = cpu_kernels.matmul_int16 if is_rounded else cpu_kernels.matmul
        is_int8 = quantize == "int8" or is_of_int8(weight)
        self.weight, self.scale = quantized(weight) if is_int8 else (weight.contiguous(), torch.ones(len(weight)))
        self.bias = torch.zeros(len(weight)) if bias is None else bias.contiguous()
        self._max_rows = sys.maxsize if is_int8 else MAX_ROWS

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self._max_rows:  # a prompt's
            return functional.linear(x, self.weight, self.bias)
        return self._matmul(x, self.weight, self.scale, self.bias)


class Int8Cuda:
    """int8 on CUDA, by our own kernel for the rows of a decoding step; a prompt's many rows undo the scaling."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        from audiocraft_ext.engine import cuda_kernels

        self._matmul, self._max_rows = cuda_kernels.matmul_int8, cuda_kernels.MAX_MATMUL_ROWS
        self.weight, self.scale = quantized(weight)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self._max_rows:
            return functional.linear(x, dequantized(self.weight, self.scale).to(x.dtype), self.bias)
        y = self._matmul(x, self.weight, self.scale)
        return y if self.bias is None else y + self.bias


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 weight [out, in], fp32 scale [out]): the largest weight of each output becomes 127 or -127.

    The scale has no more digits than a bfloat16. Their product is then exact in fp32, and a weight that was stored in
    int8 gets the same numbers and scale when it is quantised again, be it in fp32 or rounded to fp16 in between.
    """
    scale = (weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127).to(torch.bfloat16).float()
    return (weight.float() / scale[:, None]).round().to(torch.int8), scale


def is_of_int8(weight: Tensor) -> bool:
    """Whether int8 and a scale an output hold the weight [out, in] as it is, as with one that was stored so."""
    # The first row tells of almost any other weight.
    return all(torch.equal(dequantized(*quantized(part)), part) for part in (weight[:1], weight))


def dequantized(weight: Tensor, scale: Tensor) -> Tensor:
    """The fp32 weight [out, in] that an int8 weight and its scale [out] stand for."""
    return weight * scale.float()[:, None]


def make_linear(weight: Tensor, bias: Tensor | None, quantize: Quantize, kernels: Kernels) -> Linear:
    """The fastest form of a weight [out, in] on the device where it lies, by these kernels of ours."""
    if kernels == "cpu":
        return OnCpu(weight, bias, quantize)
    if quantize == "int8" and kernels == "cuda":
        return Int8Cuda(weight, bias)
    if quantize == "int8" and weight.device.type == "cpu" and Int8.can_multiply(weight):
        return Int8(weight, bias)
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return Packed(weight, bias)
    return Plain(weight, bias)
