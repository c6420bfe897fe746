"""Fixtures shared by the tests of kernels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(params=[1, 2, 3])
def on_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many threads of OpenMP's."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def sums_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter adds up products one by one, as matrix units do: NumPy's order varies with sizes."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def dot(_: InterpreterBuilder, a: Any, b: Any, start: Any, *__: Any) -> Any:
        total = start.data
        for k in range(a.data.shape[-1]):
            total = total + a.data[..., :, k, None].astype(np.float32) * b.data[..., k, None, :].astype(np.float32)
        return TensorHandle(total, start.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)
