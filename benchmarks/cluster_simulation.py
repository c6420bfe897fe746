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


def simulate(n_replicas: int, load: float, death_s: float, given: Measured) -> dict[str, Any]:
    """Waits, tries and losses of ``N_REQUESTS`` requests at a share ``load`` of the slots."""
    draw, number = random.Random(n_replicas), itertools.count()
    rate = load * n_replicas * SLOTS / fmean(given.service_s)
    n_ingresses = max(1, -int(-rate * given.ingress_s // MAX_INGRESS_LOAD))
    ingress_free_s = [0.0] * n_ingresses
    events: list[tuple[float, int, str, Any]] = []
    now = 0.0
    for i in range(N_REQUESTS):
        now += draw.expovariate(rate)
        ingress = i % n_ingresses
        ingress_free_s[ingress] = max(now, ingress_free_s[ingress]) + given.ingress_s
        heapq.heappush(events, (ingress_free_s[ingress], next(number), "come", Request(now)))
    for replica in range(n_replicas):
        heapq.heappush(events, (draw.expovariate(1 / death_s), next(number), "die", replica))
    running = [set[int]() for _ in range(n_replicas)]
    open_requests: dict[int, tuple[Request, int]] = {}
    # Each free slot of a living replica once; a replica's generation makes the slots of a dead one void.
    generation = [0] * n_replicas
    slots = [(replica, 0) for _ in range(SLOTS) for replica in range(n_replicas)]
    draw.shuffle(slots)
    waiting: deque[Request] = deque()
    waits_s: list[float] = []
    n_done = n_again = n_lost = n_deaths = 0
    while n_done + n_lost < N_REQUESTS:
        at, _, kind, what = heapq.heappop(events)
        if kind == "come":
            waiting.append(what)
        elif kind == "end":
            if what in open_requests:
                request, replica = open_requests.pop(what)
                running[replica].discard(what)
                slots.append((replica, generation[replica]))
                waits_s.append(request.start_s - request.arrival_s)
                n_done += 1
        elif kind == "die":
            n_deaths += 1
            generation[what] += 1
            for job in running[what]:
                request, _ = open_requests.pop(job)
                if request.n_tries == MAX_TRIES:
                    n_lost += 1
                else:
                    n_again += 1
                    waiting.appendleft(request)
            running[what].clear()
            heapq.heappush(events, (at + given.replacement_s, next(number), "live", what))
        else:
            slots.extend((what, generation[what]) for _ in range(SLOTS))
            heapq.heappush(events, (at + draw.expovariate(1 / death_s), next(number), "die", what))
        while waiting and slots:
            replica, born = slots.pop()
            if born == generation[replica]:
                request, job = waiting.popleft(), next(number)
                request.n_tries, request.start_s = request.n_tries + 1, at
                open_requests[job] = request, replica
                running[replica].add(job)
                heapq.heappush(events, (at + draw.choice(given.service_s), job, "end", job))
    cuts = quantiles(waits_s, n=100)
    return {
        "requests a s": round(rate, 1),
        "ingresses": n_ingresses,
        "wait ms, median": round(1000 * cuts[49], 1),
        "wait ms, 99 %": round(1000 * cuts[98], 1),
        "deaths": n_deaths,
        "made again": n_again,
        "lost": n_lost,
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
    measure.append("cluster", part="simulation", **options_used, **result, replicas=replicas)


if __name__ == "__main__":
    main()
