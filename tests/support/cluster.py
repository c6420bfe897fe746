"""``python -m deploy`` as a child process, and the processes that tests kill. Knows no requests. Linux only."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.server import ROOT, free_port

PYTHON = Path(os.environ.get("CLUSTER_PYTHON", ROOT / ".venv-cluster/bin/python"))
START_TIMEOUT_S, STOP_TIMEOUT_S = 300, 120


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its driver, a client, the port of its metrics, and its log."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    metrics_port: int
    log: Path

    def actors(self) -> list[int]:
        """The Serve replicas that have a server."""
        return self.find("ray::ServeReplica:default:Replica")

    def find(self, start: str) -> list[int]:
        """The processes whose command line starts with this."""
        return [pid for pid, line in self._lines() if line.startswith(start)]

    def servers(self) -> list[int]:
        """Their Cog servers."""
        return [pid for pid, line in self._lines() if "cog.server.http" in line]

    def workers(self, servers: list[int] | None = None) -> list[int]:
        """The workers of all servers or of these, which have the models."""
        servers = self.servers() if servers is None else servers
        return [pid for server in servers for pid, parent in _parents().items() if parent == server]

    def ports(self) -> list[int]:
        """The servers' ports."""
        ports = []
        for server in self.servers():
            with suppress(OSError, StopIteration):  # it has just ended
                variables = Path(f"/proc/{server}/environ").read_text().split("\0")
                ports.append(int(next(variable[5:] for variable in variables if variable.startswith("PORT="))))
        return ports

    def n_ready(self) -> int:
        """Servers that answer READY or BUSY."""
        statuses = []
        for port in self.ports():
            with suppress(httpx.TransportError):
                statuses.append(httpx.get(f"http://127.0.0.1:{port}/health-check", timeout=5).json()["status"])
        return sum(status in ("READY", "BUSY") for status in statuses)

    def wait_for(self, n_ready: int, timeout_s: float = START_TIMEOUT_S) -> float:
        """Seconds until so many servers, and no others, are ready."""
        start = time.monotonic()
        while not (self.n_ready() == len(self.actors()) == n_ready):
            if time.monotonic() - start > timeout_s:
                raise RuntimeError(f"not {n_ready} servers after {timeout_s} s:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.2)
        return time.monotonic() - start

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30).text
        return sum(map(float, re.findall(rf"^ray_{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))

    def memory(self, processes: list[int]) -> list[int]:
        """Bytes of each process and its descendants, shared pages divided among those that share them."""
        family = _parents()
        return [sum(map(_own_bytes, _descendants(process, family))) for process in processes]

    def _lines(self) -> list[tuple[int, str]]:
        found = []
        for pid in _descendants(self.process.pid, _parents()):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                found.append((pid, line))
        return found


def _parents() -> dict[int, int]:
    """The parent of each process of this machine that is not a zombie."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    return parents


def _descendants(process: int, parents: dict[int, int]) -> list[int]:
    children = [pid for pid, parent in parents.items() if parent == process]
    return [process, *(pid for child in children for pid in _descendants(child, parents))]


def _own_bytes(process: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


@contextmanager
def running(
    scratch: Path, n_replicas: int = 2, *flags: str, arguments: dict[str, str] | None = None, **environment: str
) -> Iterator[Cluster]:
    """A cluster of the embedded checkpoint, once its replicas are ready; ``scratch`` is for its files.

    ``flags`` and ``arguments`` are those of ``python -m deploy``. At the end it gets SIGTERM, then SIGKILL.
    """
    scratch.mkdir(exist_ok=True)
    port, metrics_port, log = free_port(), free_port(), scratch / "cluster.log"
    settings = {"MUSICGEN_WEIGHTS": "weights/demo", "OMP_NUM_THREADS": "1", **environment}
    command = [str(PYTHON), "-m", "deploy", "--replicas", str(n_replicas), "--port", str(port)]
    named = [f"--argument={name}={value}" for name, value in (arguments or {}).items()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--metrics-port", str(metrics_port), *flags, *named],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=output,
            stderr=output,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            deadline = time.monotonic() + START_TIMEOUT_S
            while "Listening on" not in log.read_text():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"the cluster did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.2)
            yield Cluster(process, client, metrics_port, log)
    finally:
        family = _descendants(process.pid, _parents())
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
