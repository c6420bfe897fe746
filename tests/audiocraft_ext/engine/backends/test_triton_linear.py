"""The Triton kernel of products, compared with plain torch: on CUDA if available, else in Triton's interpreter."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from audiocraft_ext.engine.backends import triton_linear
from audiocraft_ext.engine.backends.torch import Linear, TorchBackend
from audiocraft_ext.engine.backends.triton import TritonBackend
from audiocraft_ext.engine.backends.triton_linear import MAX_ROWS, TritonLinear
from audiocraft_ext.engine.transformer import WeightBias

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the result's norm. Plain torch rounds the product itself before GELU and before it is added; measured were 2e-7 and
# 5e-4.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3}
N_IN, N_OUT = 768, 20  # three parts of inputs; and outputs that are no multiple of a program's


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def both(
    dtype: torch.dtype, is_int8: bool, norm: WeightBias | None, gelu: bool, has_bias: bool, n_in: int = N_IN
) -> tuple[TritonLinear, Linear]:
    matrix = WeightBias(drawn(N_OUT, n_in).to(dtype) / n_in**0.5, drawn(N_OUT).to(dtype) if has_bias else None)
    place = DEVICE, dtype, n_in, is_int8, False
    ours = TritonLinear(matrix, norm, gelu, TritonBackend(*place))
    return ours, TorchBackend(*place).linear(matrix, norm, gelu)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("is_int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("has_norm", [False, True], ids=["no norm", "norm"])
@pytest.mark.parametrize(("epilogue", "has_bias"), [("none", True), ("gelu", False), ("residual", True)])
def test_a_product_is_that_of_plain_torch(
    dtype: torch.dtype, is_int8: bool, has_norm: bool, epilogue: str, has_bias: bool
) -> None:
    torch.manual_seed(0)
    norm = WeightBias(drawn(N_IN), drawn(N_IN) if has_bias else None) if has_norm else None
    ours, plain = both(dtype, is_int8, norm, epilogue == "gelu", has_bias)
    assert ours.n_splits == 3
    x = 3 * drawn(5, N_IN) + 1 if has_norm else drawn(5, N_IN).to(dtype)
    residual = drawn(5, N_OUT) if epilogue == "residual" else None
    expected = plain(x, None if residual is None else residual.clone())
    result = ours(x, residual)
    assert result.dtype == expected.dtype
    assert residual is None or result is residual
    assert (result.double() - expected.double()).norm() / expected.double().norm() < TOLERANCES[dtype]
    assert not ours._scratch[N_OUT][1].any()  # counted from zero again


@pytest.mark.parametrize(
    ("n_in", "n_splits", "has_norm", "is_int8"), [(N_IN, 3, True, False), (N_IN, 3, False, True), (300, 1, True, True)]
)
def test_a_row_has_the_same_bits_in_any_number_of_rows(
    sums_in_order: None, n_in: int, n_splits: int, has_norm: bool, is_int8: bool
) -> None:
    torch.manual_seed(1)
    norm = WeightBias(drawn(n_in), drawn(n_in)) if has_norm else None
    ours, plain = both(torch.float16, is_int8, norm, True, True, n_in)
    assert ours.n_splits == n_splits
    x = drawn(MAX_ROWS, n_in) if has_norm else drawn(MAX_ROWS, n_in).half()
    all_rows = ours(x)
    assert (all_rows - plain(x)).norm() / plain(x).norm() < TOLERANCES[torch.float16]
    for n_rows in (1, 2, 4, 8, 16):
        assert torch.equal(ours(x[-n_rows:]), all_rows[-n_rows:]), n_rows


def test_parts_are_added_in_order_and_old_ones_never_read() -> None:
    torch.manual_seed(2)
    ours, _ = both(torch.float16, False, None, False, False)
    x = drawn(3, N_IN).half()
    first = ours(x)
    ours._scratch[N_OUT][0].fill_(torch.nan)
    assert torch.equal(ours(x), first)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_not_finite_stay_in_their_own_row(bad: float) -> None:
    ours, _ = both(torch.float16, False, WeightBias(drawn(N_IN)), True, True)
    x = drawn(3, N_IN)
    x[1, 300] = bad
    result = ours(x)
    assert result[[0, 2]].isfinite().all()
    assert not result[1].isfinite().any()


@pytest.mark.parametrize("is_int8", [False, True], ids=["plain", "int8"])
def test_a_prompt_s_rows_are_multiplied_by_plain_torch(is_int8: bool) -> None:
    ours, plain = both(torch.float16, is_int8, None, True, True)
    x = drawn(MAX_ROWS + 1, N_IN).half()
    assert torch.equal(ours(x), plain(x))
    assert ours.plain_weight.dtype == torch.float16


def test_kernels_that_do_not_compile_or_fit_are_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert triton_linear.is_available(DEVICE, 64)
    assert not triton_linear.is_available(DEVICE, 48)

    def without_a_compiler(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(TritonLinear, "__call__", without_a_compiler)
    assert not triton_linear.is_available(DEVICE, 64)
