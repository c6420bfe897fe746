"""Ten, a hundred and a thousand replicas, simulated from what benchmarks/cluster.py measured on two cores.

    python -m benchmarks.cluster_simulation [--load 0.7] [--hours-between-deaths 24]

Requests come at random (Poisson) at a share of all slots, pass one of the ingresses, each busy with one at a time,
wait in one queue, and take a slot for one of the measured times. A replica dies at random, its predictions return to
the head of the queue, and it is back after the measured seconds. Appends a line to benchmarks/results/cluster.jsonl.

Not in it: the network, Ray's own control plane, and any GPU's speed.
"""

import argparse
import heapq
import itertools
import json
import random
from collections import deque
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from benchmarks import measure

SLOTS = 16
N_REQUESTS = 100_000
MAX_TRIES = 4
# Of an ingress's processor; the rest is for bursts.
MAX_INGRESS_LOAD = 0.7


@dataclass(frozen=True)
class Measured:
    """Seconds of predictions, of a replacement, and of an ingress's and a proxy's processor a request."""

    service_s: list[float]
    replacement_s: float
    ingress_s: float


def newest() -> Measured:
    """The newest lines of benchmarks/results/cluster.jsonl."""
    lines = [json.loads(line) for line in (measure.RESULTS / "cluster.jsonl").read_text().splitlines()]
    by_part = {(line["part"], line.get("replicas")): line for line in lines}
    throughput, faults = by_part["throughput", 2], by_part["faults", None]
    spent_ms = throughput["processor ms a request"]
    return Measured(
        service_s=throughput["predict_time s, deciles"],
        replacement_s=max(faults[kind]["s until two are ready"] for kind in ("actor", "server", "worker")),
        # The proxy is a process beside it; the slower of the two limits.
        ingress_s=max(spent_ms["Ingress"], spent_ms["proxy"]) / 1000,
    )


@dataclass
class Request:
    """A request in the simulation."""

    arrival_s: float
    n_tries: int = 0
    start_s: float = 0.0


class Simulation:
    """Replicas with slots, one queue, and what happens to them in order of time."""

    def __init__(self, n_replicas: int, load: float, death_s: float, given: Measured) -> None:
        self._given, self._death_s = given, death_s
        self._draw, self._number = random.Random(n_replicas), itertools.count()
        self.rate = load * n_replicas * SLOTS / fmean(given.service_s)
        self.n_ingresses = max(1, -int(-self.rate * given.ingress_s // MAX_INGRESS_LOAD))
        self._events: list[tuple[float, int, str, Any]] = []
        self._running: list[set[int]] = [set() for _ in range(n_replicas)]
        self._open: dict[int, tuple[Request, int]] = {}
        # A free slot is a replica and its generation, so that the slots of a dead one are void.
        self._generation = [0] * n_replicas
        self._slots = [(replica, 0) for _ in range(SLOTS) for replica in range(n_replicas)]
        self._waiting: deque[Request] = deque()
        self.waits_s: list[float] = []
        self.n_again = self.n_lost = self.n_deaths = 0

    def run(self) -> None:
        """Play until every request has its answer."""
        self._plan_arrivals()
        for replica in range(len(self._running)):
            self._plan(self._draw.expovariate(1 / self._death_s), "die", replica)
        self._draw.shuffle(self._slots)
        while len(self.waits_s) + self.n_lost < N_REQUESTS:
            now, _, kind, what = heapq.heappop(self._events)
            if kind == "come":
                self._waiting.append(what)
            elif kind == "end":
                self._end(what)
            elif kind == "die":
                self._die(now, what)
            else:
                self._slots += [(what, self._generation[what])] * SLOTS
                self._plan(now + self._draw.expovariate(1 / self._death_s), "die", what)
            self._start(now)

    def _plan(self, at_s: float, kind: str, what: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._number), kind, what))

    def _plan_arrivals(self) -> None:
        now, free_s = 0.0, [0.0] * self.n_ingresses
        for i in range(N_REQUESTS):
            now += self._draw.expovariate(self.rate)
            ingress = i % self.n_ingresses
            free_s[ingress] = max(now, free_s[ingress]) + self._given.ingress_s
            self._plan(free_s[ingress], "come", Request(now))

    def _start(self, now: float) -> None:
        while self._waiting and self._slots:
            replica, generation = self._slots.pop()
            if generation == self._generation[replica]:
                request, job = self._waiting.popleft(), next(self._number)
                request.n_tries, request.start_s = request.n_tries + 1, now
                self._open[job] = request, replica
                self._running[replica].add(job)
                heapq.heappush(self._events, (now + self._draw.choice(self._given.service_s), job, "end", job))

    def _end(self, job: int) -> None:
        if job in self._open:  # else its replica has died
            request, replica = self._open.pop(job)
            self._running[replica].discard(job)
            self._slots.append((replica, self._generation[replica]))
            self.waits_s.append(request.start_s - request.arrival_s)

    def _die(self, now: float, replica: int) -> None:
        self.n_deaths += 1
        self._generation[replica] += 1
        for request in (self._open.pop(job)[0] for job in self._running[replica]):
            if request.n_tries == MAX_TRIES:
                self.n_lost += 1
            else:
                self.n_again += 1
                self._waiting.appendleft(request)
        self._running[replica].clear()
        self._plan(now + self._given.replacement_s, "live", replica)


def simulate(n_replicas: int, load: float, death_s: float, given: Measured) -> dict[str, Any]:
    """Waits, tries and losses of ``N_REQUESTS`` requests at a share ``load`` of the slots."""
    simulation = Simulation(n_replicas, load, death_s, given)
    simulation.run()
    cuts = quantiles(simulation.waits_s, n=100)
    return {
        "requests a s": round(simulation.rate, 1),
        "ingresses": simulation.n_ingresses,
        "wait ms, median": round(1000 * cuts[49], 1),
        "wait ms, 99 %": round(1000 * cuts[98], 1),
        "deaths": simulation.n_deaths,
        "made again": simulation.n_again,
        "lost": simulation.n_lost,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--hours-between-deaths", type=float, default=24, help="of one replica")
    options = parser.parse_args()
    given = newest()
    replicas = {}
    for n in (10, 100, 1000):
        replicas[n] = simulate(n, options.load, 3600 * options.hours_between_deaths, given)
        print(n, replicas[n], flush=True)
    limit = MAX_INGRESS_LOAD / given.ingress_s
    result = {"ingress ms": round(1000 * given.ingress_s, 1), "requests a s an ingress": round(limit, 1)}
    options_used = {"load": options.load, "hours between deaths": options.hours_between_deaths, "slots": SLOTS}
    measure.append("cluster", part="simulation", **options_used, **result, simulated=replicas)


if __name__ == "__main__":
    main()
