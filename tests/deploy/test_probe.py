"""Kubernetes' probes, run as its manifest says against the real server in each of its states."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.server import ROOT, Server, free_port, running

pytestmark = pytest.mark.slow
MANIFEST = ROOT / "deploy" / "kubernetes" / "deployment.yaml"
SERVER = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]["spec"]["containers"][0]


def passes(probe: str, port: int | None) -> bool:
    """Whether the probe's command succeeds."""
    [_, *arguments] = SERVER[probe]["exec"]["command"]
    environment = {**os.environ, "PORT": str(port)}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode == 0


def assert_probes(server: Server, status: str, is_ready: bool, is_alive: bool) -> None:
    assert server.wait_for(status, timeout_s=60) == status
    port = server.client.base_url.port
    assert (passes("readinessProbe", port), passes("livenessProbe", port)) == (is_ready, is_alive)
    assert passes("startupProbe", port) == is_ready


def test_the_probes_follow_the_server_s_status(tmp_path: Path) -> None:
    with running(tmp_path / "scratch", "STARTING") as server:
        assert_probes(server, "STARTING", is_ready=False, is_alive=True)
        server.wait_for("READY")
        assert_probes(server, "READY", is_ready=True, is_alive=True)
        body: dict[str, Any] = {"input": {"prompt": "x", "duration": 300}}
        threads = [threading.Thread(target=lambda: server.client.post("/predictions", json=body)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert_probes(server, "BUSY", is_ready=True, is_alive=True)
        os.kill(server.worker, signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert_probes(server, "UNHEALTHY", is_ready=False, is_alive=False)


def test_a_failed_set_up_and_no_server_at_all_fail_the_probes(tmp_path: Path) -> None:
    with running(tmp_path / "scratch", "SETUP_FAILED", MUSICGEN_WEIGHTS="/nowhere") as server:
        assert_probes(server, "SETUP_FAILED", is_ready=False, is_alive=False)
    assert not passes("livenessProbe", free_port())


def test_the_metrics_name_the_status(tmp_path: Path) -> None:
    port = free_port()
    probe = [sys.executable, str(ROOT / "deploy" / "probe.py"), "--metrics", str(port)]
    process = subprocess.Popen(probe, env={**os.environ, "PORT": str(free_port())})
    try:
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(transport=transport) as client:
            text = client.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'musicgen_status{status="UNREACHABLE"} 1\n' in text
        assert 'musicgen_status{status="READY"} 0\n' in text
    finally:
        process.kill()
        process.wait()
