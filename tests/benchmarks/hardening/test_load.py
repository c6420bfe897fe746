"""A little of the load: answers under it, and the slots after cancels."""

import httpx

from benchmarks.hardening import load


def test_thirty_predictions_of_more_clients_than_slots_are_each_what_they_are_alone(server: httpx.Client) -> None:
    right = load.alone(server)
    assert None not in right
    figures = load.load(str(server.base_url).rstrip("/"), 6, right, n_predictions=30)
    assert len(figures.latencies_s) == 30
    assert figures.n_other_answers == 0
    assert figures.row()


def test_all_slots_are_free_within_a_second_after_cancels_and_dropped_connections(server: httpx.Client) -> None:
    waited = load.cancels(str(server.base_url).rstrip("/"), 5)
    assert {how: len(rounds) for how, rounds in waited.items()} == {"HTTP cancel": 1, "dropped connection": 1}
    assert all(max(rounds) < 1 for rounds in waited.values())
