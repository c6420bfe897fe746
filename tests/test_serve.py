"""script/serve and script/web as programs: their addresses, refusals, and ends."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.support.server import ROOT, free_port

SOON_S = 30


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    settings = {**os.environ, "MUSICGEN_WEIGHTS": "weights/demo", **environment}
    return subprocess.Popen([ROOT / "script" / script], env=settings, stderr=subprocess.PIPE, text=True)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        try:
            httpx.get(url).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


def is_free(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PORT": "abc"}, "PORT=abc is not a port; use a number from 1 to 65535"),
        ({"PORT": "0"}, "PORT=0 is not a port; use a number from 1 to 65535"),
        ({"ADDRESS": "localhost"}, "ADDRESS=localhost is not an IP address; use 127.0.0.1 for this machine alone"),
        ({"ADDRESS": "192.0.2.1"}, "Port 5000 of 192.0.2.1 cannot be used: Cannot assign requested address"),
    ],
)
def test_an_address_that_cannot_be_served_is_one_sentence(environment: dict[str, str], sentence: str) -> None:
    with start("serve", **{"PORT": "5000", **environment}) as child:
        _, error = child.communicate()
    assert (child.returncode, len(error.splitlines())) == (1, 1)
    assert error.startswith(sentence)


def test_an_ipv6_address_is_served() -> None:
    port = str(free_port())
    with start("serve", ADDRESS="::1", PORT=port) as child:
        assert child.stderr is not None
        assert f"http://[::1]:{port} " in child.stderr.readline()
        wait_for(f"http://[::1]:{port}/health-check")
        child.terminate()


@pytest.mark.slow
def test_of_two_servers_that_start_at_once_one_ends_with_a_sentence() -> None:
    port = str(free_port())
    both = [start("serve", PORT=port) for _ in range(2)]
    try:
        deadline = time.monotonic() + SOON_S
        while not (ended := [child for child in both if child.poll() is not None]) and time.monotonic() < deadline:
            time.sleep(0.05)
        [refused] = ended
        assert refused.returncode == 1
        assert refused.stderr is not None
        error = refused.stderr.read()
        assert re.search("is taken by another program|Address already in use", error.splitlines()[-1])
        assert "Traceback" not in error
    finally:
        for child in both:
            child.terminate()
            child.wait(SOON_S)


@pytest.mark.slow
def test_the_page_and_the_model_end_together_at_sigterm(tmp_path: Path) -> None:
    port, web_port = free_port(), free_port()
    with start("web", PORT=str(port), WEB_PORT=str(web_port), TMPDIR=str(tmp_path)) as child:
        for address in (f"http://127.0.0.1:{web_port}", f"http://127.0.0.1:{port}/health-check"):
            wait_for(address)
        child.send_signal(signal.SIGTERM)
        child.wait(SOON_S)
    assert child.returncode == 128 + signal.SIGTERM
    assert is_free(port)
    assert is_free(web_port)


def test_the_page_is_not_served_in_front_of_another_program() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with start("web", PORT=str(port), WEB_PORT=str(port + 1)) as child:
            _, error = child.communicate()
    assert child.returncode == 1
    assert f"Port {port} of 127.0.0.1 is taken by another program; the next free one: PORT=" in error
    assert f"PORT={port + 1}\n" not in error
    assert is_free(port + 1)
