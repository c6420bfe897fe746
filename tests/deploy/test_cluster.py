"""Two real servers behind the ingress: one server's answers, and none lost with a process that dies."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from tests.support import cluster as clusters
from tests.support.adapters import write_by_our_names
from tests.support.client import retry_on_409
from tests.support.cluster import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not clusters.PYTHON.exists(), reason="needs Ray: make .venv-cluster/ready"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes by Linux's means"),
]
N_SLOTS, QUEUE = 8, 8
SOON_S = 10
LONG = {"prompt": "x", "duration": 300}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    adapters = tmp_path_factory.mktemp("adapters")
    write_by_our_names(adapters / "warm", EMBEDDED)
    # Each server keeps one: a request for another would merge it in place of the first.
    environment: dict[str, Any] = {"MUSICGEN_ADAPTERS": str(adapters), "MUSICGEN_MAX_ADAPTERS": "1"}
    scratch, arguments = tmp_path_factory.mktemp("cluster"), {"queue": str(QUEUE)}
    with clusters.running(scratch, arguments=arguments, **environment) as started:
        yield started


@pytest.fixture
def webhooks() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A URL, and the bodies that were posted there."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(httpx.Response(200, content=body).json())
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", bodies
        http.shutdown()


def put(cluster: Cluster, name: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return cluster.client.put(f"/predictions/{name}", json=body, headers=headers)


def predict(cluster: Cluster, **inputs: Any) -> dict[str, Any]:
    body = {"input": {"prompt": "bass", "duration": 2, **inputs}}
    response = retry_on_409(lambda: cluster.client.post("/predictions", json=body))
    answer: dict[str, Any] = response.json()
    assert answer["status"] == "succeeded", answer
    return answer


def start_many(cluster: Cluster, threads: ThreadPoolExecutor, names: list[str]) -> list["Future[httpx.Response]"]:
    """Long predictions, each answered or waiting in order."""
    futures = []
    for name in names:
        futures.append(threads.submit(put, cluster, name, {"input": LONG}))
        time.sleep(0.1)
    time.sleep(1)
    return futures


def wait_for(bodies: list[dict[str, Any]], status: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not (found := [body for body in bodies if body["status"] == status]):
        assert time.monotonic() < deadline, bodies
        time.sleep(0.1)
    return found[0]


def test_the_answers_are_those_of_one_server(cluster: Cluster, server: httpx.Client) -> None:
    for inputs in ({"seed": 0}, {"seed": 5, "output_format": "mp3"}):
        body = {"input": {"prompt": "bass", "duration": 2, **inputs}}
        solo = server.post("/predictions", json=body).json()
        assert predict(cluster, **inputs)["output"] == solo["output"]
    for method, path in (("GET", "/openapi.json"), ("GET", "/"), ("GET", "/nothing"), ("GET", "/predictions/x")):
        ours, theirs = cluster.client.request(method, path), server.request(method, path)
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    body = {"input": {"duration": "long"}}
    ours, theirs = (client.post("/predictions", json=body) for client in (cluster.client, server))
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    assert cluster.client.get("/health-check").json()["status"] == "READY"
    assert cluster.client.post("/shutdown").status_code == 404


def test_an_adapter_s_requests_go_to_the_replica_that_has_it(cluster: Cluster, server: httpx.Client) -> None:
    def ask(client: httpx.Client, adapter: str) -> dict[str, Any]:
        body = {"input": {"prompt": "bass", "duration": 1, "seed": 3}, "context": {"adapter": adapter}}
        answer: dict[str, Any] = retry_on_409(lambda: client.post("/predictions", json=body)).json()
        assert answer["status"] == "succeeded", answer
        return answer

    adapters = ("warm", "warm:2")
    expected = {adapter: ask(server, adapter)["output"] for adapter in adapters}
    answers = {adapter: [ask(cluster.client, adapter)] for adapter in adapters}
    time.sleep(1)  # replicas report their adapters
    for adapter in adapters * 6:
        answers[adapter].append(ask(cluster.client, adapter))
    assert expected["warm"] != expected["warm:2"]
    for adapter, given in answers.items():
        assert {answer["output"] for answer in given} == {expected[adapter]}
        assert ["Merged" in answer["logs"] for answer in given] == [True] + [False] * 6


def test_a_repeated_put_echoes_the_caller_s_input(cluster: Cluster) -> None:
    with ThreadPoolExecutor(1) as threads:
        [first] = start_many(cluster, threads, ["echo"])
        again = put(cluster, "echo", {"input": {"prompt": "another"}})
        assert cluster.client.post("/predictions/echo/cancel").status_code == 200
        assert first.result().json()["status"] == "canceled"
    assert again.status_code == 202
    assert again.json()["input"] == LONG
    assert again.json()["metrics"]["seed"] >= 0


def test_webhooks_pass_and_a_refusal_is_one_at_once(cluster: Cluster, webhooks: tuple[str, list[Any]]) -> None:
    url, bodies = webhooks
    body = {"input": {"prompt": "x", "duration": 1}, "webhook": url}
    started = put(cluster, "hooked", body, Prefer="respond-async")
    assert (started.status_code, started.json()) == (202, {"id": "hooked", "status": "starting"})
    assert wait_for(bodies, "succeeded")["id"] == "hooked"
    body["input"] = {"duration": "long"}
    assert put(cluster, "refused", body, Prefer="respond-async").status_code == 422


def test_full_is_409_and_a_waiting_prediction_can_be_cancelled(
    cluster: Cluster, webhooks: tuple[str, list[Any]]
) -> None:
    url, bodies = webhooks
    names = [f"full-{i}" for i in range(N_SLOTS + QUEUE - 1)]
    with ThreadPoolExecutor(len(names)) as threads:
        futures = start_many(cluster, threads, names)
        assert cluster.client.get("/health-check").json()["status"] == "BUSY"
        body = {"input": LONG, "webhook": url}
        assert put(cluster, "waiting", body, Prefer="respond-async").status_code == 202
        beyond = cluster.client.post("/predictions", json={"input": LONG})
        assert put(cluster, "waiting", body).json()["input"] == LONG
        statuses = [cluster.client.post(f"/predictions/{name}/cancel").status_code for name in [*names, "waiting"]]
        answers = [future.result(SOON_S).json()["status"] for future in futures]
    assert (beyond.status_code, beyond.json()["error"]) == (409, "At capacity - all prediction slots busy")
    assert set(statuses) == {200}
    assert set(answers) == {"canceled"}
    assert wait_for(bodies, "canceled")["id"] == "waiting"


def test_a_dropped_connection_frees_its_slot(cluster: Cluster) -> None:
    with ThreadPoolExecutor(N_SLOTS) as threads:
        for _ in range(N_SLOTS):
            threads.submit(httpx.post, f"{cluster.client.base_url}/predictions", json={"input": LONG}, timeout=2)
    start = time.monotonic()
    predict(cluster, duration=1)
    assert time.monotonic() - start < SOON_S


@pytest.mark.parametrize("kind", ["actors", "servers", "workers"])
def test_a_killed_process_loses_no_prediction(cluster: Cluster, kind: str, webhooks: tuple[str, list[Any]]) -> None:
    url, bodies = webhooks
    solo = [predict(cluster, duration=8, seed=seed)["output"] for seed in range(2)]
    cluster.wait_for(2)

    def ask(i: int) -> Any:
        body = {"input": {"prompt": "bass", "duration": 8, "seed": i % 2}, "webhook": url}
        return put(cluster, f"{kind}-{i}", body).json()

    with ThreadPoolExecutor(N_SLOTS) as threads:
        futures = [threads.submit(ask, i) for i in range(N_SLOTS)]
        time.sleep(1)
        os.kill(getattr(cluster, kind)()[0], signal.SIGKILL)
        answers = [future.result() for future in futures]
    assert [answer.get("output") for answer in answers] == [solo[i % 2] for i in range(N_SLOTS)]
    cluster.wait_for(2)
    assert not [body for body in bodies if body["status"] == "failed"]


def test_the_metrics_count(cluster: Cluster) -> None:
    predict(cluster, duration=1)
    deadline = time.monotonic() + 90  # a dead replica is forgotten after 30 s, and Ray reports each 10 s
    while cluster.metric("musicgen_slots") != N_SLOTS or cluster.metric("musicgen_music_seconds_total") < 1:
        assert time.monotonic() < deadline
        time.sleep(1)
    assert cluster.metric("musicgen_predictions_total") >= 1


def test_two_ingresses_cancel_each_other_s_predictions_and_end(tmp_path: Path) -> None:
    names = [f"either-{i}" for i in range(6)]  # two of them wait
    arguments = {"ingresses": "2", "queue": str(QUEUE)}
    with clusters.running(tmp_path / "scratch", 1, arguments=arguments) as one, ThreadPoolExecutor(6) as threads:
        [server], [worker] = one.servers(), one.workers()
        futures = start_many(one, threads, names)
        # Connections of their own: they reach either ingress.
        answers = [httpx.put(f"{one.client.base_url}/predictions/{name}", json={"input": LONG}) for name in names * 2]
        cancels = [httpx.post(f"{one.client.base_url}/predictions/{name}/cancel").status_code for name in names]
        statuses = [future.result(SOON_S).json()["status"] for future in futures]
    assert {answer.status_code for answer in answers} == {202}
    assert all(answer.json()["input"] == LONG for answer in answers)
    assert set(cancels) == {200}
    assert set(statuses) == {"canceled"}
    assert not Path(f"/proc/{server}").exists()
    assert not Path(f"/proc/{worker}").exists()
