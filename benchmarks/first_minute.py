"""The first minute of three people: at a terminal, in a browser, and in code that calls the hosted model.

    python -m benchmarks.first_minute

Starts the server once, for the browser and the code. Prints seconds to the first sign of life, the first sound and the
second one; appends them to benchmarks/results/first_minute.jsonl. The browser's part needs Chromium.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx

from tests.support.server import ROOT, free_port, running

RESULTS = Path(__file__).parent / "results" / "first_minute.jsonl"
PROMPT = "bright electro with drums, bass and arp, 120 BPM in A minor"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

Seconds = dict[str, float]


def terminal(folder: Path, *options: str) -> Seconds:
    """``musicgen predict`` twice: its first line, and its file."""
    seconds: Seconds = {}
    for take in ("first", "second"):
        start = time.perf_counter()
        file = str(folder / f"{take}{len(options)}.wav")
        command = [str(ROOT / "script" / "musicgen"), "predict", PROMPT, "-o", file, *options]
        with subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            seconds.setdefault("first line", time.perf_counter() - start)
            process.stdout.read()
        assert process.returncode == 0
        seconds[f"{take} sound"] = time.perf_counter() - start
    return seconds


@contextmanager
def web(target: str) -> Iterator[str]:
    """``python -m web`` in front of a server, once it answers."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    process = subprocess.Popen([sys.executable, "-m", "web", "--target", target, "--port", str(port)], cwd=ROOT)
    try:
        while True:
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def browser(address: str) -> Seconds:
    """The page, until its form is ready; then an example's take twice, until it can be played."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, start = chromium.new_page(), time.perf_counter()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        seconds = {"first line": time.perf_counter() - start}
        for i, take in enumerate(("first", "second"), 1):
            start = time.perf_counter()
            page.click("#examples button >> nth=0")
            page.click("#make")
            done = ".take[data-status=succeeded] .result:not([hidden])"
            page.wait_for_function(f"document.querySelectorAll('{done}').length >= {i}")
            seconds[f"{take} sound"] = time.perf_counter() - start
        chromium.close()
    return seconds


def code(address: str) -> Seconds:
    """Replicate's Python client: its import, and two calls."""
    start = time.perf_counter()
    import replicate

    seconds = {"first line": time.perf_counter() - start}
    client = replicate.Client(api_token="any", base_url=address)
    for take in ("first", "second"):
        start = time.perf_counter()
        client.run("owner/name", input={"prompt": PROMPT, "duration": 8})
        seconds[f"{take} sound"] = time.perf_counter() - start
    return seconds


def main() -> None:
    people: dict[str, Callable[[], Seconds]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = {"terminal": terminal(folder)}
        start = time.perf_counter()
        with running(folder / "server") as server, web(str(server.client.base_url).rstrip("/")) as address:
            results["server ready"] = {"after": time.perf_counter() - start}
            people["terminal, --server"] = lambda: terminal(folder, "--server", str(server.client.base_url).rstrip("/"))
            people |= {"browser": lambda: browser(address)} if CHROMIUM else {}
            people["code"] = lambda: code(address)
            results |= {who: measure() for who, measure in people.items()}
    rounded = {who: {what: round(s, 2) for what, s in seconds.items()} for who, seconds in results.items()}
    for who, seconds in rounded.items():
        print(who, seconds)
    with RESULTS.open("a") as file:
        file.write(json.dumps({"date": datetime.now(UTC).date().isoformat(), "seconds": rounded}) + "\n")


if __name__ == "__main__":
    main()
