"""The fuzzer, and three hundred of its requests; ``python -m benchmarks.hardening.fuzz`` sends all."""

from itertools import islice

import httpx
import pytest

from benchmarks.hardening.requests_of_all_kinds import KINDS, attempts
from tests.support.client import Attempt, Verdict, judge, send_all

N = 300

pytestmark = pytest.mark.slow


def test_three_hundred_requests_of_every_kind_leave_the_server_ready(server: httpx.Client) -> None:
    tally = send_all(str(server.base_url), attempts(N, seed=1))
    assert tally.failures == []
    assert tally.count("named", "form", "accepted") == N
    assert len(tally.verdicts) == len(KINDS)
    assert tally.count("named") > N / 2
    assert tally.count("accepted") > 10
    assert server.get("/health-check").json()["status"] == "READY"


def test_the_same_seed_makes_the_same_requests_and_another_seed_others() -> None:
    first, again, other = (list(attempts(500, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_fewer_requests_are_the_first_of_more() -> None:
    assert list(attempts(20, 5)) == list(islice(attempts(50, 5), 20))


GOOD = Attempt("good", b'{"input": {"prompt": "x"}}', expected="accepted")
BAD_SEED = Attempt("bad seed", b'{"input": {"seed": -2}}', expected="refused", names=frozenset({"seed"}))
ANSWERS: list[tuple[Attempt, int, str, Verdict]] = [
    (GOOD, 200, '{"status": "succeeded"}', "accepted"),
    (GOOD, 200, '{"status": "failed", "error": "prompt: no."}', "wrong"),
    (GOOD, 422, '{"detail": [{"loc": ["body", "input", "prompt"]}]}', "wrong"),
    (GOOD, 503, "", "5xx"),
    (GOOD, 0, "timed out", "silent"),
    (BAD_SEED, 200, '{"status": "failed", "error": "InputError: seed: -2 is outside its range."}', "named"),
    (BAD_SEED, 422, '{"detail": [{"loc": ["body", "input", "seed"]}]}', "named"),
    (BAD_SEED, 422, '{"detail": [{"loc": ["body", "input", "top_k"]}]}', "wrong"),
    (BAD_SEED, 200, '{"status": "failed", "error": "top_k: too many."}', "wrong"),
    (BAD_SEED, 200, '{"status": "failed", "error": "ServerError: The server failed."}', "wrong"),
    (BAD_SEED, 200, '{"status": "succeeded"}', "wrong"),
    (BAD_SEED, 200, '{"status": "failed", "error": "seed: Traceback (most recent call last)"}', "leak"),
    (BAD_SEED, 200, '{"status": "failed", "error": "seed: no.", "logs": "/root/.cache"}', "leak"),
    (Attempt("no JSON", b"{"), 400, "Failed to parse the request body as JSON", "form"),
    (Attempt("a path of the caller's", b"/tmp/x"), 404, "no /tmp/x here", "form"),
]


@pytest.mark.parametrize(("attempt", "status", "text", "verdict"), ANSWERS, ids=lambda value: str(value)[:40])
def test_an_answer_is_judged_by_the_caller_s_view(attempt: Attempt, status: int, text: str, verdict: str) -> None:
    assert judge(attempt, status, text) == verdict


def test_a_dead_server_is_silent_and_ends_the_run() -> None:
    tally = send_all("http://127.0.0.1:1", attempts(200, seed=0), n_threads=2)
    assert tally.count("silent") < 20
    assert tally.count("named", "accepted") == 0
