"""Kubernetes' probe of a Cog server: exit with 0 if its status is one of those named, else with 1 and the status.

    python deploy/probe.py READY BUSY
    python deploy/probe.py --metrics 9090       (the status as Prometheus reads it, on that port)

The health check answers 200 whatever the status: a probe by HTTP alone passes while set-up has failed.
Standard library.
"""

import argparse
import json
import os
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STATUSES = ("STARTING", "READY", "BUSY", "UNHEALTHY", "SETUP_FAILED", "DEFUNCT", "UNREACHABLE")
TIMEOUT_S = 8


def status() -> str:
    """The health check's status; UNREACHABLE without an answer."""
    url = f"http://127.0.0.1:{os.environ.get('PORT', '5000')}/health-check"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return str(json.load(answer)["status"])
    except (OSError, ValueError, KeyError):
        return "UNREACHABLE"


class Metrics(BaseHTTPRequestHandler):
    """``/metrics``: 1 for the present status, 0 for the others."""

    def do_GET(self) -> None:
        now = status()
        lines = [f'musicgen_status{{status="{name}"}} {int(name == now)}' for name in STATUSES]
        body = "\n".join(["# TYPE musicgen_status gauge", *lines, ""]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: Prometheus asks every few seconds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("statuses", nargs="*", choices=[*STATUSES, []], help="that are well")
    parser.add_argument("--metrics", type=int, metavar="PORT")
    options = parser.parse_args()
    if options.metrics:
        ThreadingHTTPServer(("", options.metrics), Metrics).serve_forever()
    now = status()
    print(now)
    return int(now not in options.statuses)


if __name__ == "__main__":
    sys.exit(main())
