"""Send ten thousand requests of every kind to a fresh server over real HTTP. Knows only the caller's view of it.

    python -m benchmarks.hardening.fuzz [--n 10000] [--seed 0]

Prints a table of verdicts. Fails on an answer 5xx, a request without an answer, a leak of the server's internals, a bad
request accepted, a good one rejected, or a dead worker.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.hardening.requests_of_all_kinds import attempts
from tests.support.client import send_all
from tests.support.server import running

SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4, help="as many as the server has slots")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "server")) as server:
        worker, start = server.worker, time.monotonic()
        tally = send_all(str(server.client.base_url), attempts(args.n, args.seed), args.threads)
        took_s = time.monotonic() - start
        n_deaths = int(server.status() != "READY" or server.worker != worker)
    print(tally.table())
    print(f"worker deaths {n_deaths}; {took_s:.0f} s in all")
    for failure in tally.failures[:SHOWN]:
        print(failure)
    raise SystemExit(1 if tally.failures or n_deaths else 0)


if __name__ == "__main__":
    main()
