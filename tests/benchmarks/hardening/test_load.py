"""A little load: correct answers, and free slots after cancels."""

import httpx
import pytest

from benchmarks.hardening import load

pytestmark = pytest.mark.slow


def test_predictions_under_load_equal_those_alone(server: httpx.Client) -> None:
    right = load.alone(server)
    assert None not in right
    figures = load.load(str(server.base_url).rstrip("/"), 6, right, n_predictions=30)
    assert len(figures.latencies_s) == 30
    assert figures.n_other_answers == 0
    assert figures.row()


def test_slots_are_free_soon_after_cancels_and_dropped_connections(server: httpx.Client) -> None:
    waited = load.cancels(str(server.base_url).rstrip("/"), 5)
    assert {how: len(rounds) for how, rounds in waited.items()} == {"HTTP cancel": 1, "dropped connection": 1}
    assert all(max(rounds) < 1 for rounds in waited.values())
