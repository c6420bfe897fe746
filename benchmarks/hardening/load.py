"""Measure latency, throughput, rejections, memory growth and cancellation with many concurrent callers.

    python -m benchmarks.hardening.load [--minutes 10] [--cancels 100]

A third of the time each with as many clients as slots, with half as many more and with four times as many; a rejected
client retries after a short wait. The worker's resources are read after a minute of rest each, when outputs are deleted
and memory is returned. Starts its own server and prints tables. Knows no model: an answer is correct if it equals the
same request's answer alone.
"""

import argparse
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.support import server as servers
from tests.support.client import (
    EARLIEST_CANCEL_S,
    LONG,
    N_SLOTS,
    file_in,
    retry_on_409,
    seconds_until_free,
    start_long,
)
from tests.support.server import Server

CLIENTS = {"at capacity": N_SLOTS, "above it": 6, "far above it": 16}
# A client's wait after a 409; after an answer it does not wait.
RETRY_S = 0.25
REQUESTS: list[dict[str, Any]] = [
    {"prompt": "dark electro at 120 BPM", "duration": 1, "seed": 0},
    {"prompt": "upbeat electro with kick and bass", "duration": 2, "seed": 1, "temperature": 0.7},
    {"prompt": "dreamy arp and pad, 100 BPM", "duration": 3, "seed": 2, "top_p": 0.9},
    {"prompt": "", "duration": 2, "seed": 3, "classifier_free_guidance": 1},
    {"prompt": "kick", "duration": 4, "seed": 4, "output_format": "mp3"},
]
LATEST_CANCEL_S = 2.5
# Outputs are kept for a minute, and so is the memory that predictions took beyond the model's own.
REST_S = 65


@dataclass
class Figures:
    """Latencies of answered requests in seconds, and counts of the others."""

    latencies_s: list[float] = field(default_factory=list)
    audio_s: int = 0
    n_rejected: int = 0
    n_other_answers: int = 0
    took_s: float = 0.0

    def row(self) -> str:
        latencies = sorted(self.latencies_s)
        p50, p95 = statistics.median(latencies), latencies[int(0.95 * (len(latencies) - 1))]
        return (
            f"{len(latencies):11} {p50:7.2f} {p95:7.2f} {len(latencies) / self.took_s:8.2f}"
            f" {self.audio_s / self.took_s:9.2f} {self.n_rejected:8} {self.n_other_answers:6}"
        )


@dataclass(frozen=True)
class Usage:
    """The worker's memory, threads, file handles, files under TMPDIR and cog folders."""

    rss_mb: float
    n_threads: int
    n_handles: int
    n_files: int
    n_cog_folders: int

    @staticmethod
    def at_rest(server: Server) -> "Usage":
        """After ``REST_S`` without a request."""
        time.sleep(REST_S)
        process = Path(f"/proc/{server.worker}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return Usage(
            rss_mb=int(status["VmRSS"].split()[0]) / 1024,
            n_threads=int(status["Threads"]),
            n_handles=len(list((process / "fd").iterdir())),
            n_files=sum(len(files) for _, _, files in os.walk(server.scratch)),
            n_cog_folders=sum(len(folders) for _, folders, _ in os.walk(servers.COG_FOLDER)),
        )

    def row(self) -> str:
        return f"{self.rss_mb:9.1f} {self.n_threads:8} {self.n_handles:8} {self.n_files:6} {self.n_cog_folders:12}"


def alone(client: httpx.Client) -> list[bytes | None]:
    """Each of ``REQUESTS``' answers with no other request running."""
    return [file_in(client.post("/predictions", json={"input": inputs}).json()) for inputs in REQUESTS]


def load(
    url: str, n_clients: int, right: list[bytes | None], *, seconds: float = 3600, n_predictions: int = 10**9
) -> Figures:
    """Let ``n_clients`` each send one of ``REQUESTS`` after the other, up to one of the limits."""
    figures, start, counter = Figures(), time.monotonic(), itertools.count()

    def send_requests(i: int) -> None:
        order = random.Random(i)
        with httpx.Client(base_url=url, timeout=300) as client:
            while time.monotonic() - start < seconds and next(counter) < n_predictions:
                which = order.randrange(len(REQUESTS))
                sent_at = time.monotonic()
                response = client.post("/predictions", json={"input": REQUESTS[which]})
                while response.status_code == 409 and time.monotonic() - start < seconds:
                    figures.n_rejected += 1
                    time.sleep(RETRY_S)
                    sent_at = time.monotonic()
                    response = client.post("/predictions", json={"input": REQUESTS[which]})
                if response.status_code == 409:
                    return
                figures.latencies_s.append(time.monotonic() - sent_at)
                figures.audio_s += REQUESTS[which]["duration"]
                figures.n_other_answers += file_in(response.json()) != right[which]

    _at_once(n_clients, send_requests)
    figures.took_s = time.monotonic() - start
    return figures


def cancels(url: str, n_cancels: int, seed: int = 0) -> dict[str, list[float]]:
    """Seconds until all slots could be taken again after each round of cancels, by kind of cancel."""
    moments, names = random.Random(seed), (f"load-{i}" for i in itertools.count())
    waited: dict[str, list[float]] = {"HTTP cancel": [], "dropped connection": []}
    with httpx.Client(base_url=url, timeout=60) as client:
        for first in range(0, n_cancels, N_SLOTS):
            n = min(N_SLOTS, n_cancels - first)
            after_s = [moments.uniform(EARLIEST_CANCEL_S, LATEST_CANCEL_S) for _ in range(n)]
            is_dropped = first // N_SLOTS % 2 == 1
            with ThreadPoolExecutor(n) as threads:
                list(threads.map(partial(_drop if is_dropped else _cancel, client), names, after_s))
            waited["dropped connection" if is_dropped else "HTTP cancel"].append(seconds_until_free(client))
    return waited


def _cancel(client: httpx.Client, name: str, after_s: float) -> None:
    start_long(client, name)
    time.sleep(after_s)
    assert client.post(f"/predictions/{name}/cancel").status_code == 200


def _drop(client: httpx.Client, name: str, after_s: float) -> None:
    timeout = httpx.Timeout(10, read=after_s)
    try:
        retry_on_409(lambda: client.put(f"/predictions/{name}", json={"input": LONG}, timeout=timeout))
    except httpx.ReadTimeout:
        return
    raise AssertionError("an answer came before the connection was dropped")


def _at_once(n: int, work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(n) as threads:
        list(threads.map(work, range(n)))


def report(server: Server, minutes: float, n_cancels: int) -> None:
    """Run all measurements against a server and print the tables."""
    url = str(server.client.base_url).rstrip("/")
    right = alone(server.client)
    assert None not in right
    load(url, N_SLOTS, right, n_predictions=20)  # threads and caches have their size after this
    used = {"before": Usage.at_rest(server)}
    print(f"{'':13} clients predictions  p50 s   p95 s  a second  audio s/s  rejected  other")
    n_predictions = 0
    for name, n_clients in CLIENTS.items():
        figures = load(url, n_clients, right, seconds=60 * minutes / len(CLIENTS))
        n_predictions += len(figures.latencies_s)
        print(f"{name:13} {n_clients:7} {figures.row()}", flush=True)
        used[f"after {n_predictions}"] = Usage.at_rest(server)
    for name, waited in cancels(url, n_cancels).items():
        if waited:
            rounds = f"{len(waited)} rounds of up to {N_SLOTS}"
            print(
                f"{name}, {rounds}: all slots free after {statistics.median(waited):.3f} s, at most {max(waited):.3f}"
            )
    used[f"and {n_cancels} cancels"] = Usage.at_rest(server)
    print(f"\n{'the worker, at rest':20} memory MB  threads  handles  files  cog's folders")
    for name, usage in used.items():
        print(f"{name:20} {usage.row()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cancels", type=int, default=100)
    args = parser.parse_args()
    slots = str(N_SLOTS)
    with (
        tempfile.TemporaryDirectory(prefix="load-") as folder,
        servers.running(Path(folder, "tmp"), COG_MAX_CONCURRENCY=slots) as server,
    ):
        report(server, args.minutes, args.cancels)


if __name__ == "__main__":
    main()
