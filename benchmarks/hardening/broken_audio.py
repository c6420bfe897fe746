"""Over a thousand broken, absurd and malicious files: to the decoder, then to a server. Knows no model.

    python -m benchmarks.hardening.broken_audio [--n 700] [--seed 0]

``--n`` damaged files, and 600 that name another file and a URL, which no reader may open. Each must be read as far as
possible or refused in a sentence, within the time limit. Linux only.
"""

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random

from audiocraft_ext.audio.read import read
from audiocraft_ext.errors import InputError
from tests.support.access_monitor import AccessMonitor
from tests.support.broken_files import BrokenFile, broken_files
from tests.support.client import LIMIT_S, SECRETS, Attempt, send_all
from tests.support.input_values import MEDIA_TYPES, data_url
from tests.support.malicious_files import malicious_files
from tests.support.server import running

SHOWN = 10
# Over HTTP go all but the largest: these take longer to send than to judge.
LARGEST_SENT_BYTES = 1_000_000


@dataclass
class Decoded:
    """The outcome of each file: ``read``, ``refused``, or a failure, a line each."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, file: BrokenFile, outcome: str, took_s: float) -> None:
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > LIMIT_S:
            outcome = f"{took_s:.0f} s: {outcome}"
        known = outcome in ("read", "refused")
        self.outcomes.setdefault(file.kind, Counter())[outcome if known else "failure"] += 1
        if not known:
            self.failures.append(f"{file.kind}: {file.name}, {file.data[:40]!r}...: {outcome}")

    def table(self) -> str:
        columns = ("read", "refused", "failure")
        lines = [f"{'':26}{'files':>7}" + "".join(f"{column:>9}" for column in columns)]
        for kind, counter in [*sorted(self.outcomes.items()), ("all", sum(self.outcomes.values(), Counter()))]:
            lines.append(f"{kind:26}{counter.total():7}" + "".join(f"{counter[column]:9}" for column in columns))
        return "\n".join(lines)


def decode_all(files: Iterable[BrokenFile], folder: Path, n_threads: int = 2) -> Decoded:
    """Every file through the decoder, each under its own name in a folder of its own."""
    decoded = Decoded()

    def one(numbered: tuple[int, BrokenFile]) -> tuple[BrokenFile, str, float]:
        number, file = numbered
        path = folder / str(number) / file.name
        path.parent.mkdir()
        path.write_bytes(file.data)
        start = time.monotonic()
        outcome = _outcome(path)
        took_s = time.monotonic() - start
        left = sorted(other.name for other in path.parent.iterdir() if other != path)
        path.unlink()
        return file, f"left {left}" if left else outcome, took_s

    with ThreadPoolExecutor(n_threads) as pool:
        for file, outcome, took_s in pool.map(one, enumerate(files)):
            decoded.add(file, outcome, took_s)
    return decoded


def _outcome(path: Path) -> str:
    try:
        clip = read(path)
    except InputError as error:
        message = str(error)
        leaks = any(secret in message for secret in (*SECRETS, path.name, "ffmpeg"))
        return f"the message leaks: {message}" if leaks or error.field != "input_audio" else "refused"
    except Exception as error:
        return repr(error)
    n_channels, n_samples = clip.samples.shape
    sound = n_channels in (1, 2) and n_samples > 0 and clip.samples.isfinite().all()
    return "read" if sound else f"read as {n_channels} channels of {n_samples} samples"


def requests_with(files: Iterable[BrokenFile], seed: int) -> Iterator[Attempt]:
    """A prediction with each file: its melody, or a continuation of it."""
    random = Random(seed)
    for file in files:
        url = data_url(file.data, random.choice(MEDIA_TYPES))
        inputs: dict[str, object] = {"input_audio": url, "duration": 1, "prompt": "x"}
        if random.random() < 0.5:
            inputs |= {"continuation": True, "duration": 2}
        body = json.dumps({"input": inputs}).encode()
        # A wav may hold more than the two seconds.
        yield Attempt(file.kind, body, names=frozenset({"input_audio", "duration"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, AccessMonitor(Path(name)) as monitor:
        folder, start = Path(name, "files"), time.monotonic()
        folder.mkdir()
        files = list(chain(broken_files(args.n, args.seed), malicious_files(monitor.canary)))
        decoded = decode_all(files, folder)
        took_s = time.monotonic() - start
        largest_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(decoded.table())
        print(f"{took_s:.0f} s in all, slowest {decoded.slowest_s:.2f} s; largest decoder {largest_mb:.0f} MB\n")
        small = [file for file in files if len(file.data) <= LARGEST_SENT_BYTES]
        scratch = Path(name, "server")
        scratch.mkdir()
        with running(scratch) as server:
            worker = server.worker
            tally = send_all(str(server.client.base_url), requests_with(small, args.seed))
            n_deaths = int(server.status() != "READY" or server.worker != worker)
        n_opened, n_connected = monitor.counts()
    print(tally.table())
    print(f"worker deaths {n_deaths}; the canary was opened {n_opened} times, its URL {n_connected} times")
    for failure in (decoded.failures + tally.failures)[:SHOWN]:
        print(failure)
    raise SystemExit(1 if decoded.failures or tally.failures or n_deaths or n_opened or n_connected else 0)


if __name__ == "__main__":
    main()
