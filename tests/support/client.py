"""Send requests to a server from several threads, and judge each answer. Knows no inputs."""

import base64
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx

ROOT = Path(__file__).parents[2]
INPUTS = tuple(json.loads((ROOT / "openapi.json").read_text())["components"]["schemas"]["Input"]["properties"])
LIMIT_S = 30.0
BUSY_PAUSE_S = 0.02
N_SLOTS = 4  # of script/serve
# cog 0.23.1 can lose a cancel that arrives while it hands the prediction over to its worker, within milliseconds, or
# tenths of a second on a busy machine: the slot is then free only when the prediction has ended.
EARLIEST_CANCEL_S = 0.5
LONG = {"prompt": "x", "duration": 60}
# After so many unanswered requests the server counts as dead.
MAX_SILENT = 10
# For the server's log alone. /tmp is the folder of its files.
SECRETS = ("Traceback", 'File "', "site-packages", "/tmp/", "/home/", "/root/", "/usr/", "root:x:0", str(ROOT))

Expected = Literal["accepted", "refused", "either"]
GOOD_VERDICTS = ("named", "form", "accepted")
# named: rejected with the name of a wrong input; form: never became a prediction, or rejected by cog before the model.
# wrong: accepted or rejected against expectation, or without a name; silent: no answer within the limit.
Verdict = Literal["named", "form", "accepted", "wrong", "5xx", "silent", "leak"]


@dataclass(frozen=True)
class Attempt:
    """One request. A rejection must name one of ``names``, if there are any. ``raw``: bytes instead of HTTP."""

    kind: str
    body: bytes = b""
    method: str = "POST"
    path: str = "/predictions"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    expected: Expected = "either"
    names: frozenset[str] = frozenset()
    raw: bytes = b""

    def text(self) -> str:
        """The parts that an answer may repeat."""
        return f"{self.method} {self.path} {self.headers} {(self.raw or self.body).decode(errors='replace')}"


@dataclass
class Tally:
    """Verdicts on many attempts; ``failures`` has one line for each that violates its expectation."""

    verdicts: dict[str, Counter[Verdict]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    n_busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, attempt: Attempt, verdict: Verdict, answer: str, took_s: float) -> None:
        with self.lock:
            self.verdicts.setdefault(attempt.kind, Counter())[verdict] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            if verdict not in GOOD_VERDICTS:
                line = f"{verdict}: {attempt.kind}: {attempt.text()[:300]!r} -> {answer[:300]!r} ({took_s:.2f} s)"
                self.failures.append(line)

    def add_busy(self) -> None:
        with self.lock:
            self.n_busy += 1

    def count(self, *verdicts: Verdict) -> int:
        with self.lock:
            return sum(counter[verdict] for counter in self.verdicts.values() for verdict in verdicts)

    def table(self) -> str:
        columns: tuple[Verdict, ...] = ("named", "form", "accepted", "wrong", "5xx", "silent", "leak")
        lines = [f"{'':26}{'tried':>7}" + "".join(f"{column:>9}" for column in columns)]
        for kind, counter in [*sorted(self.verdicts.items()), ("all", sum(self.verdicts.values(), Counter()))]:
            lines.append(f"{kind:26}{counter.total():7}" + "".join(f"{counter[column]:9}" for column in columns))
        lines.append(f"slowest answer {self.slowest_s:.2f} s; retried after 409 {self.n_busy} times")
        return "\n".join(lines)


def file_in(answer: dict[str, Any]) -> bytes | None:
    """The file in a prediction's answer; None if it failed."""
    return base64.b64decode(answer["output"].split(",", 1)[1]) if answer["status"] == "succeeded" else None


def retry_on_409(
    send: Callable[[], httpx.Response],
    pause_s: float = BUSY_PAUSE_S,
    limit_s: float = LIMIT_S,
    when_busy: Callable[[], None] = lambda: None,
) -> httpx.Response:
    """The first answer other than 409; after ``limit_s`` of retries, the last one.

    409 means that all slots are taken, but not only: cog frees a slot some milliseconds after the answer, and of two
    requests within microseconds it may reject one although slots are free (6 of 800, four at a time).
    """
    deadline = time.monotonic() + limit_s
    while (response := send()).status_code == 409 and time.monotonic() < deadline:
        when_busy()
        time.sleep(pause_s)
    return response


def start_long(client: httpx.Client, name: str) -> None:
    """Start a long prediction as soon as there is a slot."""
    headers = {"Prefer": "respond-async"}
    retry_on_409(lambda: client.put(f"/predictions/{name}", json={"input": LONG}, headers=headers))


def seconds_until_free(client: httpx.Client) -> float:
    """Seconds until all slots can be taken again; the predictions that take them are cancelled."""
    names = [f"taker-{time.monotonic_ns()}-{i}" for i in range(N_SLOTS)]
    start = time.monotonic()
    with ThreadPoolExecutor(N_SLOTS) as threads:
        list(threads.map(partial(start_long, client), names))
    waited = time.monotonic() - start
    time.sleep(EARLIEST_CANCEL_S)
    for name in names:
        client.post(f"/predictions/{name}/cancel")
    return waited


def send_all(base_url: str, attempts: Iterable[Attempt], n_threads: int = 4) -> Tally:
    """Send the attempts in order, several at a time, each thread over one persistent connection."""
    tally, waiting, lock = Tally(), iter(attempts), threading.Lock()

    def work() -> None:
        with httpx.Client(base_url=base_url, timeout=LIMIT_S) as client:
            while True:
                with lock:
                    attempt = next(waiting, None)
                if attempt is None or tally.count("silent") > MAX_SILENT:
                    return
                start = time.monotonic()
                status, text = _send_raw(client, attempt.raw) if attempt.raw else _send(client, attempt, tally)
                took_s = time.monotonic() - start
                verdict = judge(attempt, status, text) if took_s < LIMIT_S else "silent"
                tally.add(attempt, verdict, f"{status} {text}", took_s)

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _send(client: httpx.Client, attempt: Attempt, tally: Tally) -> tuple[int, str]:
    """Status and text of the answer, or status 0 and the reason without one. Retries while all slots are busy."""
    # The raw path: httpx would normalise "..".
    url = client.base_url.copy_with(raw_path=attempt.path.encode())

    def send() -> httpx.Response:
        return client.request(attempt.method, url, content=attempt.body, headers=list(attempt.headers))

    try:
        response = retry_on_409(send, when_busy=tally.add_busy)
    except httpx.TransportError as error:
        return 0, repr(error)
    return response.status_code, response.text


def _send_raw(client: httpx.Client, data: bytes) -> tuple[int, str]:
    """The same for bytes other than HTTP; a connection that the server closes counts as 400."""
    address = (client.base_url.host, client.base_url.port or 80)
    try:
        with socket.create_connection(address, timeout=LIMIT_S) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except TimeoutError:
        return 0, "open after the limit"
    except OSError:
        return 400, "closed"
    words = answer.split(maxsplit=2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 400), answer.decode(errors="replace")


def judge(attempt: Attempt, status: int, text: str) -> Verdict:
    """The verdict on an answer; ``status`` 0 stands for no answer."""
    if status == 0:
        return "silent"
    if status >= 500:
        return "5xx"
    answer = _json_object(text) if status == 200 or status == 202 else {}
    accepted = answer.get("status") in ("succeeded", "starting", "processing")
    shown = f"{answer.get('error')}\n{answer.get('logs')}" if "status" in answer else text
    sent = attempt.text()
    if any(secret in shown and secret not in sent for secret in SECRETS):
        return "leak"
    if accepted:
        return "accepted" if attempt.expected != "refused" else "wrong"
    if attempt.expected == "accepted" or "ServerError" in shown:
        return "wrong"
    if any(_is_named(name, status, text, shown) for name in attempt.names or INPUTS):
        return "named"
    # cog reads the URL before the model does, and reports its problem in urllib's words.
    by_cog = shown.startswith("Input validation error: ")
    return "form" if by_cog or not attempt.names else "wrong"


def _is_named(name: str, status: int, text: str, shown: str) -> bool:
    if status == 422:
        detail = _json_object(text).get("detail")
        return isinstance(detail, list) and any(item["loc"][-1] == name for item in detail)
    return f"{name}: " in shown


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
