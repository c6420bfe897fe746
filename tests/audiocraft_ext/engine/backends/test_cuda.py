"""The parts of the CUDA backends that need no CUDA; ``tests/test_gpu.py`` has the rest."""

import pytest

from audiocraft_ext.engine.backends.cuda import slots_that_fit


@pytest.mark.parametrize(
    ("n_bytes", "n_requested", "n_slots"),
    [(0, 16, 1), (99, 1, 1), (750, 16, 4), (799, 16, 4), (800, 16, 8), (900, 5, 5)],
)
def test_a_little_more_or_less_memory_leaves_the_number_of_slots(n_bytes: int, n_requested: int, n_slots: int) -> None:
    assert slots_that_fit(n_bytes, 100, n_requested) == n_slots
