"""Run a cluster on this machine: ``python -m deploy --replicas 2 --port 5000``, or with ``--argument slots=8``.

Ray starts here with it and ends with it; ``deploy/serve.yaml`` is for a Ray that runs already.
"""

import argparse
import os
import signal
import threading

import ray
from ray import serve

from deploy.serve import Options, app

OBJECT_STORE_BYTES = 100_000_000
METRICS_PORT = 8080


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2, help="servers; 2 by default")
    parser.add_argument("--min-replicas", type=int, help="with fewer callers; as many by default")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--metrics-port", type=int, default=METRICS_PORT, help="where Prometheus reads")
    parser.add_argument(
        "--argument", action="append", default=[], metavar="NAME=VALUE", help=f"{', '.join(Options.model_fields)}"
    )
    options = parser.parse_args()
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, n_cores // options.replicas)))
    os.environ.setdefault("COG_MAX_CONCURRENCY", str(Options().slots))
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own default makes its workers, and the servers, yield
    # Ray's processors are seats, not cores: a replica more than there are cores may start.
    ray.init(
        num_cpus=2 * options.replicas + 2,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _metrics_export_port=options.metrics_port,
    )
    n_gpus = ray.cluster_resources().get("GPU", 0)
    arguments = {
        "slots": os.environ["COG_MAX_CONCURRENCY"],
        "min_replicas": options.min_replicas or options.replicas,
        "max_replicas": options.replicas,
        "gpus": min(1, n_gpus / options.replicas),
        **dict(argument.split("=", 1) for argument in options.argument),
    }
    stop = threading.Event()

    def end(signum: int, _: object) -> None:
        """Let open predictions finish; the second signal does not wait for them."""
        signal.signal(signum, signal.SIG_DFL)
        stop.set()

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, end)
    serve.start(http_options={"host": options.address, "port": options.port})
    serve.run(app(arguments))
    print(f"Listening on http://{options.address}:{options.port}; end with Ctrl-C.", flush=True)
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
