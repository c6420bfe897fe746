"""The real server as a child process: start, wait, observe, end. Knows no requests."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 60
# cog's own, wherever TMPDIR points.
COG_FOLDER = Path("/tmp/coglet/predictions")


@dataclass(frozen=True)
class Server:
    """A running server: its process, a client, its TMPDIR, and its log."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    scratch: Path
    log: Path

    @property
    def worker(self) -> int:
        """The id of the worker process, which has the model."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            children += (task / "children").read_text().split()
        return int(children[0])

    def status(self) -> str:
        """The health check's status; empty without an answer."""
        try:
            return str(self.client.get("/health-check").json()["status"])
        except httpx.TransportError:
            return ""

    def wait_for(self, *statuses: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """The first of these statuses to be reported; RuntimeError with the end of the log if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            if (status := self.status()) in statuses:
                return status
            time.sleep(0.05)
        raise RuntimeError(f"the server did not become {' or '.join(statuses)}:\n{self.log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(scratch: Path, awaited: str = "READY", mode: str = "predict", **environment: str) -> Iterator[Server]:
    """``script/serve`` with the embedded checkpoint, once its status is ``awaited``; ``scratch`` is its TMPDIR.

    At the end it gets SIGTERM, and SIGKILL a minute later.
    """
    scratch.mkdir(exist_ok=True)
    port, log = free_port(), scratch.with_name(f"{scratch.name}.log")
    settings = {"PORT": str(port), "TMPDIR": str(scratch), "MUSICGEN_WEIGHTS": "weights/demo", **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ROOT / "script" / "serve", mode], env={**os.environ, **settings}, stdout=output, stderr=output
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            server = Server(process, client, scratch, log)
            server.wait_for(awaited)
            yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
