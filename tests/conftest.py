"""The real server, started once for all tests that speak HTTP to it."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if not torch.cuda.is_available():
    # Before anything imports Triton: its kernels are then run by its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

if TYPE_CHECKING:
    import httpx

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 180


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[httpx.Client]":
    """A client of ``make serve``'s server with the embedded checkpoint, once it is READY."""
    import httpx  # here, since machines that run the GPU's tests have none

    port = free_port()
    scratch = tmp_path_factory.mktemp("server")
    environment = {**os.environ, "PORT": str(port), "TMPDIR": str(scratch), "MUSICGEN_WEIGHTS": "weights/demo"}
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen([ROOT / "script" / "serve"], env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _wait_until_ready(client, process, scratch / "log")
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait_until_ready(client: "httpx.Client", process: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/health-check").json()["status"] == "READY":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the server did not become ready:\n{log.read_text()[-2000:]}")
