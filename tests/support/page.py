"""``python -m web`` as a child process, in front of any server."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.server import ROOT, free_port

START_S = 30


@contextmanager
def page_of(target: str, **environment: str) -> Iterator[str]:
    """Its address, once it answers; at the end it gets SIGTERM."""
    port = free_port()
    command = [sys.executable, "-m", "web", "--target", target.rstrip("/"), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment})
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                httpx.get(address, trust_env=False).raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()
