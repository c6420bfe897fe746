"""``python -m web`` in front of the tests' server."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.server import ROOT, free_port

START_S = 30


@pytest.fixture(scope="session")
def web(server: httpx.Client) -> Iterator[str]:
    """Its address, once it answers."""
    port = free_port()
    command = [sys.executable, "-m", "web", "--target", str(server.base_url).rstrip("/"), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                httpx.get(address).raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()
