"""Fixtures shared by the tests of kernels."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(params=[1, 2, 3])
def on_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many threads of OpenMP's."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)
