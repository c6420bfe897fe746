"""Sends requests to a server from several threads, and judges each answer. Knows nothing of what is asked."""

import base64
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

ROOT = Path(__file__).parents[2]
INPUTS = tuple(json.loads((ROOT / "openapi.json").read_text())["components"]["schemas"]["Input"]["properties"])
LIMIT_S = 30.0
BUSY_PAUSE_S = 0.02
# After so many, the server is taken for dead: the others would wait as long.
MOST_SILENT = 10
# What belongs into the server's log alone. /tmp is where its files lie.
SECRETS = ("Traceback", 'File "', "site-packages", "/tmp/", "/home/", "/root/", "/usr/", "root:x:0", str(ROOT))

Expected = Literal["accepted", "refused", "either"]
GOOD_VERDICTS = ("named", "form", "accepted")
# named: refused, with the name of an input at fault; form: no prediction at all, or refused by cog before the model.
# wrong: accepted or refused against expectation, or without a name; 5xx; silent: no answer in time, or none at all.
Verdict = Literal["named", "form", "accepted", "wrong", "5xx", "silent", "leak"]


@dataclass(frozen=True)
class Attempt:
    """One request. A refusal must name one of ``names``, where there are any. ``raw`` are the bytes instead of HTTP."""

    kind: str
    body: bytes = b""
    method: str = "POST"
    path: str = "/predictions"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    expected: Expected = "either"
    names: frozenset[str] = frozenset()
    raw: bytes = b""

    def sent(self) -> str:
        """All of it that an answer may repeat."""
        return f"{self.method} {self.path} {self.headers} {(self.raw or self.body).decode(errors='replace')}"


@dataclass
class Tally:
    """What came of many attempts. ``offences`` are those that may not be, a line each."""

    verdicts: dict[str, Counter[Verdict]] = field(default_factory=dict)
    offences: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    n_busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, attempt: Attempt, verdict: Verdict, answer: str, took_s: float) -> None:
        with self.lock:
            self.verdicts.setdefault(attempt.kind, Counter())[verdict] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            if verdict not in GOOD_VERDICTS:
                line = f"{verdict}: {attempt.kind}: {attempt.sent()[:300]!r} -> {answer[:300]!r} ({took_s:.2f} s)"
                self.offences.append(line)

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
        lines.append(f"slowest answer {self.slowest_s:.2f} s; told 409 and asked again {self.n_busy} times")
        return "\n".join(lines)


def file_in(answer: dict[str, Any]) -> bytes | None:
    """The file in a prediction's answer; None where there is none."""
    return base64.b64decode(answer["output"].split(",", 1)[1]) if answer["status"] == "succeeded" else None


def until_taken(
    ask: Callable[[], httpx.Response],
    pause_s: float = BUSY_PAUSE_S,
    limit_s: float = LIMIT_S,
    when_busy: Callable[[], None] = lambda: None,
) -> httpx.Response:
    """The first answer that is no 409, asking again after each; after ``limit_s`` of them, the last.

    409 is what callers are told beyond the slots, but also others: cog frees a slot some milliseconds after the answer,
    and of two that come within microseconds it may refuse one though slots are free (6 of 800, four at a time).
    """
    deadline = time.monotonic() + limit_s
    while (response := ask()).status_code == 409 and time.monotonic() < deadline:
        when_busy()
        time.sleep(pause_s)
    return response


def send_all(base_url: str, attempts: Iterable[Attempt], n_threads: int = 4) -> Tally:
    """Sends the attempts, in order but several at once, each thread over one connection that is kept alive."""
    tally, waiting, lock = Tally(), iter(attempts), threading.Lock()

    def work() -> None:
        with httpx.Client(base_url=base_url, timeout=LIMIT_S) as client:
            while True:
                with lock:
                    attempt = next(waiting, None)
                if attempt is None or tally.count("silent") > MOST_SILENT:
                    return
                start = time.monotonic()
                status, text = _raw(client, attempt.raw) if attempt.raw else _ask(client, attempt, tally)
                took_s = time.monotonic() - start
                verdict = judged(attempt, status, text) if took_s < LIMIT_S else "silent"
                tally.add(attempt, verdict, f"{status} {text}", took_s)

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _ask(client: httpx.Client, attempt: Attempt, tally: Tally) -> tuple[int, str]:
    """Status and text of the answer; status 0 and the reason, if there is none. Asks again while the slots are busy."""
    # The path as it stands: a client that tidies "..", as httpx does, would never send some.
    url = client.base_url.copy_with(raw_path=attempt.path.encode())

    def ask() -> httpx.Response:
        return client.request(attempt.method, url, content=attempt.body, headers=list(attempt.headers))

    try:
        response = until_taken(ask, when_busy=tally.add_busy)
    except httpx.TransportError as error:
        return 0, repr(error)
    return response.status_code, response.text


def _raw(client: httpx.Client, data: bytes) -> tuple[int, str]:
    """The same for bytes that are no HTTP, after which the client sends no more: closing is an answer too, a 400."""
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


def judged(attempt: Attempt, status: int, text: str) -> Verdict:
    """The verdict on an answer; ``status`` 0 stands for none."""
    if status == 0:
        return "silent"
    if status >= 500:
        return "5xx"
    answer = _json_object(text) if status == 200 or status == 202 else {}
    accepted = answer.get("status") in ("succeeded", "starting", "processing")
    told = f"{answer.get('error')}\n{answer.get('logs')}" if "status" in answer else text
    sent = attempt.sent()
    if any(secret in told and secret not in sent for secret in SECRETS):
        return "leak"
    if accepted:
        return "accepted" if attempt.expected != "refused" else "wrong"
    if attempt.expected == "accepted" or "ServerError" in told:
        return "wrong"
    if any(_is_named(name, status, text, told) for name in attempt.names or INPUTS):
        return "named"
    # cog reads the URL before the model is asked, and says what is wrong with it in urllib's words.
    by_cog = told.startswith("Input validation error: ")
    return "form" if by_cog or not attempt.names else "wrong"


def _is_named(name: str, status: int, text: str, told: str) -> bool:
    if status == 422:
        detail = _json_object(text).get("detail")
        return isinstance(detail, list) and any(item["loc"][-1] == name for item in detail)
    return f"{name}: " in told


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
