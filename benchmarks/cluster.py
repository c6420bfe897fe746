"""A cluster of two servers beside one: equal answers, faults, cancellation, updates, throughput, memory.

    python -m benchmarks.cluster [equal faults cancel update scale overhead throughput memory] [--requests 500]

Needs `make cluster`'s environment. Real servers with the embedded checkpoint, one thread each; every file is compared
with that of one server alone. A failure ends the run. Appends a line a part to benchmarks/results/cluster.jsonl.
"""

import argparse
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

from benchmarks import measure
from benchmarks.cluster_requests import KINDS, bad_requests, inputs_of, normalize
from tests.support import cluster as clusters
from tests.support.client import retry_on_409
from tests.support.cluster import Cluster
from tests.support.server import Server
from tests.support.server import running as one_server

N_SEEDS, N_OPEN, N_CLIENTS = 20, 24, 16
SLOTS = 4
PATIENCE_S = 300


def ask(client: httpx.Client, inputs: dict[str, Any]) -> dict[str, Any]:
    """The answer to a prediction, once there is a slot; raises if it did not succeed."""
    response = retry_on_409(lambda: client.post("/predictions", json={"input": inputs}), limit_s=PATIENCE_S)
    answer: dict[str, Any] = response.json()
    if answer.get("status") != "succeeded":
        raise RuntimeError(f"{response.status_code} {response.text[:300]} for {str(inputs)[:200]}")
    return answer


def ask_all(client: httpx.Client, many: list[dict[str, Any]], n_threads: int) -> list[str]:
    with ThreadPoolExecutor(n_threads) as threads:
        return [answer["output"] for answer in threads.map(partial(ask, client), many)]


def equal(server: Server, cluster: Cluster) -> dict[str, Any]:
    """Files, schema, routes and refusals of the cluster are those of one server."""
    many = [inputs_of(kind, seed) for kind in KINDS for seed in range(N_SEEDS)]
    solo, spread = ask_all(server.client, many, SLOTS), ask_all(cluster.client, many, 2 * SLOTS)
    n_equal = sum(a == b for a, b in zip(solo, spread, strict=True))
    differing = []
    requests = bad_requests()
    for method, path, headers, body in requests:
        answers = []
        for client in (server.client, cluster.client):
            url = client.base_url.copy_with(raw_path=path.encode())
            answer = retry_on_409(partial(client.request, method, url, content=body, headers=headers))
            kept = {name: answer.headers.get(name) for name in ("content-type", "allow")}
            answers.append((answer.status_code, kept, normalize(answer.text)))
        if answers[0] != answers[1]:
            differing.append((method, path, body.decode()[:80], answers))
    schemas = [client.get("/openapi.json").content for client in (server.client, cluster.client)]
    if n_equal < len(many) or differing or schemas[0] != schemas[1]:
        raise RuntimeError(f"{n_equal} of {len(many)} files are equal; {differing}")
    return {"equal files": n_equal, "equal refusals": len(requests), "openapi.json": "equal"}


def faults(server: Server, cluster: Cluster) -> dict[str, Any]:
    """Each kind of process killed with requests open: the files are those of one server."""
    many = [{"prompt": "bass", "duration": 4, "seed": 100 + i} for i in range(N_OPEN)]
    solo, results = ask_all(server.client, many, SLOTS), {}
    for name, find in (("actor", cluster.actors), ("server", cluster.servers), ("worker", cluster.workers)):
        before = cluster.metric("musicgen_retries_total")
        with ThreadPoolExecutor(N_OPEN) as threads:
            answers = [threads.submit(ask, cluster.client, inputs) for inputs in many]
            time.sleep(1)
            os.kill(find()[0], signal.SIGKILL)
            killed = time.monotonic()
            files = [answer.result()["output"] for answer in answers]
        cluster.wait_for(2)
        n_right = sum(a == b for a, b in zip(solo, files, strict=True))
        results[name] = {"right files": n_right, "s until two are ready": round(time.monotonic() - killed, 1)}
        time.sleep(12)  # Ray reports metrics every ten seconds
        results[name]["retries"] = cluster.metric("musicgen_retries_total") - before
        print(name, results[name], flush=True)
        if n_right < N_OPEN:
            raise RuntimeError(f"{name}: {results}")
    return results


def seconds_to_stop(client: httpx.Client, n_slots: int, stop: str) -> float:
    """Seconds until a second of music is made in each slot after all were taken by predictions that end early."""
    names = [f"{stop}-{time.monotonic_ns()}-{i}" for i in range(n_slots)]
    long = {"input": {"prompt": "x", "duration": 300}}
    patience_s = 8.0 if stop == "disconnect" else PATIENCE_S

    def take(name: str) -> None:
        url = f"{client.base_url}/predictions/{name}"
        with suppress(httpx.ReadTimeout):  # the connection is closed
            retry_on_409(partial(httpx.put, url, json=long, timeout=patience_s))

    def end(name: str) -> None:
        while client.post(f"/predictions/{name}/cancel").status_code != 200:  # cog may not know it yet
            time.sleep(0.05)

    with ThreadPoolExecutor(n_slots) as threads, ThreadPoolExecutor(n_slots) as others:
        taken = [threads.submit(take, name) for name in names]
        while client.get("/health-check").json()["status"] != "BUSY":
            time.sleep(0.05)
        time.sleep(1)
        start = time.monotonic()
        if stop == "cancel":
            list(others.map(end, names))
        for future in taken:
            future.result()
        start = time.monotonic() if stop == "disconnect" else start
        list(others.map(lambda i: ask(client, {"prompt": "x", "duration": 1, "seed": i}), range(n_slots)))
    return round(time.monotonic() - start, 2)


def cancel(server: Server, cluster: Cluster) -> dict[str, Any]:
    """Cancelled and abandoned predictions free their slots, and none is asked for again."""
    before, results = cluster.metric("musicgen_retries_total"), {}
    for stop in ("cancel", "disconnect"):
        times = [seconds_to_stop(server.client, SLOTS, stop), seconds_to_stop(cluster.client, 2 * SLOTS, stop)]
        results[stop] = dict(zip(("one server, s", "cluster, s"), times, strict=True))
        print(stop, results[stop], flush=True)
    time.sleep(12)
    return results | {"retries": cluster.metric("musicgen_retries_total") - before}


class Load:
    """Clients that ask without a pause and count what they lose."""

    def __init__(self, client: httpx.Client, n_clients: int) -> None:
        self._client, self._stop = client, threading.Event()
        self.n_right, self.lost = 0, []  # type: tuple[int, list[str]]
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(n_clients)]

    def _work(self, i: int) -> None:
        while not self._stop.is_set():
            try:
                ask(self._client, {"prompt": "x", "duration": 2, "seed": i})
                self.n_right += 1
            except (RuntimeError, httpx.HTTPError) as error:
                self.lost.append(str(error))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


REDEPLOY = """
import ray
from ray import serve
from deploy.serve import app
ray.init(address="auto", logging_level="error")
serve.run(app({"command": ["env", "UPDATED=1", "script/serve"], "min_replicas": 2, "max_replicas": 2}))
"""


def update(_: Server, cluster: Cluster) -> dict[str, Any]:
    """Every replica replaced by one with another command, under load."""
    before = set(cluster.servers())
    with Load(cluster.client, 6) as load:
        start = time.monotonic()
        subprocess.run([clusters.PYTHON, "-c", REDEPLOY], cwd=clusters.ROOT, check=True, capture_output=True)
        cluster.wait_for(2)
        took_s = time.monotonic() - start
    if load.lost or before & set(cluster.servers()):
        raise RuntimeError(f"{load.lost}, {before} {cluster.servers()}")
    return {"answers": load.n_right, "lost": 0, "s": round(took_s, 1)}


def scale() -> dict[str, Any]:
    """One replica, then two, then one, in a cluster of its own under load."""
    with tempfile.TemporaryDirectory() as scratch:
        flags, arguments = ("--min-replicas", "1"), {"downscale_delay_s": "10"}
        with clusters.running(Path(scratch), 2, *flags, arguments=arguments) as cluster:
            with Load(cluster.client, 8) as many:
                up_s = cluster.wait_for(2)
            with Load(cluster.client, 1) as few:
                down_s = cluster.wait_for(1)
    if many.lost or few.lost:
        raise RuntimeError(f"{many.lost} {few.lost}")
    answers = many.n_right + few.n_right
    return {"answers": answers, "lost": 0, "s up": round(up_s, 1), "s down": round(down_s, 1)}


def overhead(_: Server, cluster: Cluster) -> dict[str, Any]:
    """Milliseconds of a request that cog answers at once, by itself and through the cluster, in turns."""
    with httpx.Client(base_url=f"http://127.0.0.1:{cluster.ports()[0]}") as direct:
        took: dict[str, list[float]] = {"direct": [], "cluster": []}
        for _i in range(200):
            for name, client in (("direct", direct), ("cluster", cluster.client)):
                start = time.perf_counter()
                client.post("/predictions", json={"input": {"duration": "long"}})
                took[name].append(1000 * (time.perf_counter() - start))
    return {f"{name}, ms": round(median(times), 1) for name, times in took.items()}


def throughput(n_replicas: int, cluster: Cluster, n_requests: int) -> dict[str, Any]:
    """Requests of one to four seconds from sixteen clients: seconds of music a second, and how long each took.

    Each server is kept to one core, as in a cluster each has a GPU.
    """
    for core, server in enumerate(cluster.servers()):
        for process in (server, *cluster.workers([server])):
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core % (os.cpu_count() or 1)})
    many: list[dict[str, Any]] = [{"prompt": "pad", "duration": 1 + i % 4, "seed": i} for i in range(n_requests)]
    took: list[float] = []
    predict_s: list[float] = []

    def request(inputs: dict[str, Any]) -> None:
        start = time.monotonic()
        predict_s.append(ask(cluster.client, inputs)["metrics"]["predict_time"])
        took.append(time.monotonic() - start)

    before, start = _processor_s(cluster), time.monotonic()
    with ThreadPoolExecutor(N_CLIENTS) as threads:
        list(threads.map(request, many))
    wall_s = time.monotonic() - start
    music_s = sum(inputs["duration"] for inputs in many)
    spent_ms = {name: round(1000 * (s - before[name]) / n_requests, 1) for name, s in _processor_s(cluster).items()}
    p50, p95 = quantiles(took, n=20)[9], quantiles(took, n=20)[18]
    figures: dict[str, Any] = {
        "replicas": n_replicas,
        "requests": n_requests,
        "music s a s": round(music_s / wall_s, 2),
    }
    deciles = [round(s, 2) for s in quantiles(predict_s, n=10)]
    figures |= {"p50 s": round(p50, 2), "p95 s": round(p95, 2), "predict_time s, deciles": deciles}
    return figures | {"processor ms a request": spent_ms}


def _processor_s(cluster: Cluster) -> dict[str, float]:
    """Processor seconds of the servers, and of Ray's own part of the work, so far."""
    processes = {"servers": [*cluster.servers(), *cluster.workers()], "proxy": cluster.find("ray::ProxyActor")}
    processes |= {name: cluster.find(f"ray::ServeReplica:default:{name}") for name in ("Ingress", "Replica")}
    ticks = os.sysconf("SC_CLK_TCK")
    return {name: sum(map(_ticks, found)) / ticks for name, found in processes.items()}


def _ticks(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def memory(_: Server, cluster: Cluster) -> dict[str, Any]:
    """GB of a replica's actor, of its server and worker, and of all the rest of Ray; after the other parts."""
    total = cluster.memory([cluster.process.pid])[0]
    actors, servers = cluster.memory(cluster.actors()), cluster.memory(cluster.servers())
    gb = {
        "replica": max(actors) / 1e9,
        "of it the server": max(servers) / 1e9,
        "Ray's rest": (total - sum(actors)) / 1e9,
    }
    return {name: round(value, 2) for name, value in gb.items()}


PARTS: dict[str, Callable[[Server, Cluster], dict[str, Any]]] = {
    "equal": equal,
    "faults": faults,
    "cancel": cancel,
    "overhead": overhead,
    "memory": memory,
    "update": update,
}


def report(part: str, result: dict[str, Any]) -> None:
    print(part, result, flush=True)
    measure.append("cluster", part=part, load=round(os.getloadavg()[1], 1), nice=os.nice(0), **result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[*PARTS, "scale", "throughput"])
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    chosen = [part for part in PARTS if part in options.parts]
    with_two = chosen or "throughput" in options.parts
    with tempfile.TemporaryDirectory() as scratch:
        if with_two:
            with one_server(Path(scratch, "one")) as server, clusters.running(Path(scratch, "two")) as cluster:
                for part in chosen:
                    report(part, PARTS[part](server, cluster))
                if "throughput" in options.parts:
                    cluster.wait_for(2)
                    report("throughput", throughput(2, cluster, options.requests))
        if "scale" in options.parts:
            report("scale", scale())
        if "throughput" in options.parts:
            with clusters.running(Path(scratch, "alone"), 1) as cluster:
                report("throughput", throughput(1, cluster, options.requests))


if __name__ == "__main__":
    main()
