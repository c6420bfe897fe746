"""Moments that a real server passes too quickly to test: a small server with cog's answers takes its time here."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.page import page_of
from tests.support.server import ROOT, free_port

BODY = {"version": "any", "input": {"prompt": "kick"}}
RUNS_S = 4.0
SOON_S = 10
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
NOT_READY = {"error": "Setup has not finished yet.", "status": "failed"}


class Cog(ThreadingHTTPServer):
    """Registers a prediction late, and ends it later still; ``raw`` is sent instead of each prediction's answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.health, self.raw, self.n_cancels, self.registers_s = "READY", b"", 0, 1.0
        self.running: dict[str, threading.Event] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Cog

    def do_GET(self) -> None:
        self._answer(200, {"status": self.server.health})

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.health != "READY":
            return self._answer(503, NOT_READY)
        time.sleep(self.server.registers_s)
        if self.server.raw:
            self.wfile.write(self.server.raw)
            return None
        is_canceled = self.server.running[body["id"]] = threading.Event()
        is_canceled.wait(RUNS_S)
        return self._answer(200, {"status": "canceled" if is_canceled.is_set() else "succeeded"})

    def do_POST(self) -> None:
        self.server.n_cancels += 1
        if (running := self.server.running.get(self.path.split("/")[2])) is None:
            return self._answer(404, {})
        running.set()
        return self._answer(200, {})

    def _answer(self, status: int, answer: Any) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Page:
    """The page's server, by a client of it, in front of ``cog``."""

    cog: Cog
    client: httpx.Client

    def create(self) -> dict[str, Any]:
        answer = self.client.post("/v1/predictions", json=BODY)
        assert answer.status_code == 201, answer.text
        prediction: dict[str, Any] = answer.json()
        return prediction

    def end_of(self, prediction: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + SOON_S
        while time.monotonic() < deadline:
            state: dict[str, Any] = self.client.get(f"/v1/predictions/{prediction['id']}").json()
            if state["status"] not in ("starting", "processing"):
                return state
            time.sleep(0.1)
        raise AssertionError(f"still {state['status']}")


@pytest.fixture
def page() -> Iterator[Page]:
    # A proxy cannot reach this machine by 127.0.0.1.
    proxy = f"http://127.0.0.1:{free_port()}"
    with Cog() as cog:
        threading.Thread(target=cog.serve_forever, daemon=True).start()
        with (
            page_of(cog.url, HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="") as address,
            httpx.Client(base_url=address, timeout=SOON_S, trust_env=False) as client,
        ):
            yield Page(cog, client)
        cog.shutdown()


def test_a_cancel_before_cog_has_registered_the_prediction_is_not_lost(page: Page) -> None:
    ids: list[str] = []

    def first_id() -> str:
        while not ids:
            ids.extend(state["id"] for state in page.client.get("/v1/predictions").json()["results"])
        return ids[0]

    creating = threading.Thread(target=page.create)
    creating.start()
    page.client.post(f"/v1/predictions/{first_id()}/cancel")
    creating.join()
    assert page.end_of({"id": ids[0]})["status"] == "canceled"
    assert page.cog.n_cancels > 1


def test_a_prediction_waits_while_the_model_is_loaded(page: Page) -> None:
    page.cog.health = "STARTING"
    prediction = page.create()
    assert prediction["status"] == "starting"
    page.cog.health = "READY"
    assert page.end_of(prediction)["status"] == "succeeded"


def test_a_model_that_cannot_be_loaded_fails_a_prediction(page: Page) -> None:
    page.cog.health = "SETUP_FAILED"
    state = page.end_of(page.create())
    assert (state["status"], state["error"]) == ("failed", NOT_READY["error"])


@pytest.mark.parametrize("raw", [SSH, b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"])
def test_an_answer_that_is_not_cog_s_ends_a_waiting_prediction(page: Page, raw: bytes) -> None:
    page.cog.health = "STARTING"
    prediction = page.create()
    page.cog.raw = raw
    page.cog.health = "READY"
    state = page.end_of(prediction)
    assert state["status"] == "failed"
    assert state["error"]


def test_what_has_no_answer_in_two_seconds_still_fails_later(page: Page) -> None:
    page.cog.raw = SSH
    page.cog.registers_s = 3
    assert page.end_of(page.create())["status"] == "failed"


def test_the_page_s_address_is_not_the_server_s_for_the_program(page: Page) -> None:
    url = str(page.client.base_url).rstrip("/")
    done = subprocess.run([ROOT / "script/musicgen", "predict", "x", "--server", url], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"--server {url}: the program there makes no predictions.")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/models/a/b/predictions"), ("POST", "/v1/predictions"), ("GET", "/v1/models/a/b")],
)
def test_an_unreachable_server_is_a_sentence(method: str, path: str) -> None:
    target = f"http://127.0.0.1:{free_port()}"
    with page_of(target) as address:
        answer = httpx.request(method, address + path, json={"input": {}} if method == "POST" else None)
    assert (answer.status_code, answer.json()["detail"]) == (502, f"The server at {target} cannot be reached.")


def test_uploads_end_with_the_program_though_a_request_waits(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with page_of(f"http://127.0.0.1:{silent.getsockname()[1]}", TMPDIR=str(tmp_path)) as address:
            uploaded = httpx.post(f"{address}/v1/files", files={"content": b"a sound"})
            assert (uploaded.status_code, len(list(tmp_path.rglob("*")))) == (201, 2)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/v1/predictions", json=BODY, headers={"Prefer": "wait"}, timeout=0.5)
    assert list(tmp_path.iterdir()) == []
