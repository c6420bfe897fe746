"""CPU kernels of a decoding step: matrix products of a few rows, attention over the cache, norm and rotary.

Calls cpu_kernels.c. Batch- and thread-invariant: every row is reduced in a fixed order, so it has the same
bits alone and in a batch, on any number of threads. Does not know layers, jobs or positions.
"""

import struct

import torch
from torch import Tensor

from audiocraft_ext.engine.backends import llvm_jit
from audiocraft_ext.engine.backends.llvm_jit import compile_kernel, run
from audiocraft_ext.engine.backends.torch import NORM_EPS

# As in cpu_kernels.c.
LANES = 16
MAX_ROWS = 8
_COLUMNS = 64
_EPS_BITS = int.from_bytes(struct.pack("<d", NORM_EPS), "little")  # a kernel's arguments are integers
# Inputs whose int32 sums, one per lane, cannot overflow: products are at most 32,767 times 127.
_MAX_INT16_INPUTS = LANES * (2**31 // (32767 * 127))


def is_available(*widths: int) -> bool:
    """Whether the kernels compile and run here, and take rows and heads of these widths: multiples of ``LANES``."""
    return all(width % LANES == 0 for width in widths) and llvm_jit.is_available()


def norm(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer norm [M, D] of x [M, D]. All in fp32."""
    out, (n_rows, width) = torch.empty_like(x), x.shape
    bias = torch.zeros_like(weight) if bias is None else bias
    run(compile_kernel("norm"), x.contiguous(), weight, bias, out, n_rows, width, _EPS_BITS)
    return out


def apply_rotary(qkv: Tensor, factors: Tensor) -> Tensor:
    """Rotate the queries and keys of qkv [M, 3, H, Dh] in place by complex factors [M, Dh / 2]."""
    n_rows, _, n_heads, head_width = qkv.shape
    run(compile_kernel("apply_rotary", HEAD_WIDTH=head_width), qkv, factors, n_rows, n_heads)
    return qkv


def can_use_int16(n_inputs: int) -> bool:
    """Whether ``matmul`` takes rows of this many inputs in int16."""
    return n_inputs % (2 * LANES) == 0 and n_inputs <= _MAX_INT16_INPUTS


def matmul(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    gelu: bool = False,
    packed_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """x [M, in] times weight [out, in], times scale [out], plus bias [out]: [M, out]. All fp32, or the weight int8.

    With `gelu`, its exact GELU, within 1e-6; `out` is then a multiple of ``LANES``. A `residual` [M, out] is added to,
    and returned. With int16, for an int8 weight that ``can_use_int16``, each row of x is quantised to it
    symmetrically: each lane's sum of integers is exact; the lanes are summed in fp32. Works on ``MAX_ROWS`` rows at a
    time.
    """
    n_outputs, n_inputs = weight.shape
    is_int16 = packed_dtype == torch.int16
    lanes = 2 * LANES if is_int16 else LANES
    pack_rows = compile_kernel("pack_rows", X_IS_INT16=is_int16)
    y = torch.empty(len(x), n_outputs) if residual is None else residual
    assert y.is_contiguous()
    assert not gelu or (residual is None and n_outputs % LANES == 0)
    for rows, out in zip(x.contiguous().split(MAX_ROWS), y.split(MAX_ROWS), strict=True):
        kernel = compile_kernel(
            "matmul",
            N_ROWS=len(rows),
            N_OUTPUTS=2 if n_outputs % 2 == 0 else 1,
            N_COLUMNS=_COLUMNS if n_inputs % _COLUMNS == 0 else lanes,
            X_IS_INT16=is_int16,
            IS_INT8=weight.dtype == torch.int8,
            ADDS=residual is not None,
            HAS_GELU=gelu,
        )
        packed, steps = torch.empty(rows.shape, dtype=packed_dtype), torch.empty(len(rows))
        run(pack_rows, rows, packed, steps, *rows.shape)
        run(kernel, packed, steps, weight, scale, bias, out, n_outputs, n_inputs)
    return y


def attend(
    query: Tensor, keys: Tensor, values: Tensor, new: Tensor | None, rows: Tensor, lengths: Tensor, scores: Tensor
) -> Tensor:
    """[M, H Dh] of query [M, H, Dh], Dh a multiple of ``LANES``, over an fp32 or int8 cache [R, H, S, ...].

    Row i of the query reads row ``rows[i]`` of the cache up to ``lengths[i]``; `new` [M, 2, H, Dh], its keys and
    values, is written to the last of these positions first. `scores` [M, H, S + LANES or more] is scratch memory.
    """
    n_rows, n_heads, head_width = query.shape
    out = query.new_empty(n_rows, n_heads * head_width)
    kernel = compile_kernel("attention", HEAD_WIDTH=head_width, IS_INT8=keys.dtype == torch.int8)
    tensors = (query, 0 if new is None else new, keys, values, rows, lengths, scores, out)
    run(kernel, *tensors, n_rows, n_heads, keys.shape[2], scores.shape[-1], query.stride(0))
    return out
