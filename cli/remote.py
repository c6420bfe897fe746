"""Requests to a running server, over cog's HTTP API. Standard library only; knows no model."""

import base64
import http.client
import json
import mimetypes
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from audiocraft_ext.audio.source import decode_data_url

POLL_S = 0.5
# cog's names of its own layers, in front of the model's message.
_LAYERS = re.compile(r"^(?:[A-Z][a-z]+(?: [a-z]+)? failed: )*(?:\w+Error: )?")


class Client:
    """One server, by its URL."""

    def __init__(self, url: str) -> None:
        """Raises ``ValueError`` unless it is an http URL."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0  # raises as well
        except ValueError:
            is_valid = False
        if not is_valid or not url.isprintable() or " " in url:
            raise ValueError(f"--server {url}: write it as http://127.0.0.1:5000.")
        self.url = parts.geturl().rstrip("/")
        # A proxy knows another machine by the name of this one.
        is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_local else []))

    def request(self, path: str, body: Any = None) -> tuple[int, Any]:
        """The answer's status and JSON; raises ``RuntimeError`` without an answer in JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request) as answer:
                status, parsed = answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode(errors="replace")
            try:
                parsed = json.loads(text)
            except ValueError:
                parsed = {"detail": text[:200] or error.reason}
        except OSError as error:
            reason = getattr(error, "reason", error)
            hint = "Start one with: musicgen serve"
            raise RuntimeError(f"--server {self.url}: no server answers there ({reason}). {hint}") from None
        except (ValueError, http.client.HTTPException):
            parsed = None
        if not isinstance(parsed, dict):
            raise RuntimeError(f"--server {self.url}: the program there is not a Cog server.")
        return status, parsed

    def wait_until_ready(self) -> None:
        """Wait while it starts; raises ``RuntimeError`` if it cannot."""
        is_reported = False
        while True:
            status = (health := self.request("/health-check")[1]).get("status")
            if status in ("READY", "BUSY"):
                return
            if status != "STARTING":
                logs = str((health.get("setup") or {}).get("logs", "")).strip().rpartition("\n")[2]
                problem = f"it cannot predict ({status})" if status else "the program there is not a Cog server"
                raise RuntimeError(f"--server {self.url}: {problem}. {logs}".strip())
            if not is_reported:
                print(f"{self.url} is starting; waiting …", file=sys.stderr, flush=True)
                is_reported = True
            time.sleep(POLL_S)

    def predict(self, inputs: dict[str, Any], context: dict[str, str]) -> bytes:
        """The file that the server makes, once it has a slot; raises ``ValueError`` with the server's sentence."""
        body = {"input": inputs} | ({"context": context} if context else {})
        while (answered := self.request("/predictions", body))[0] == 409:  # all slots are taken
            time.sleep(POLL_S)
        status, answer = answered
        if status in (404, 405):
            hint = "Name the model's own address, as http://127.0.0.1:5000."
            raise RuntimeError(f"--server {self.url}: the program there makes no predictions. {hint}")
        if answer.get("status") != "succeeded":
            problem = answer.get("error") or _details(answer.get("detail")) or f"it answered with status {status}."
            raise ValueError(_LAYERS.sub("", str(problem)))
        output = str(answer["output"])
        if output.startswith("data:"):
            return decode_data_url(output)
        try:
            with self._opener.open(output) as file:
                return bytes(file.read())
        except http.client.HTTPException as error:
            raise RuntimeError(f"{output}: the result cannot be read ({error!r}).") from None


def _details(detail: Any) -> str:
    """cog's list of rejected fields as sentences."""
    if not isinstance(detail, list):
        return str(detail or "")
    return " ".join(f"{part.get('loc', ['input'])[-1]}: {part.get('msg')}." for part in detail)


def to_json(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs as they travel: without those not given, which cog refuses as null, and a file as a data URL."""
    sent = {name: value for name, value in inputs.items() if value is not None}
    if isinstance(path := sent.get("input_audio"), Path):
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        sent["input_audio"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return sent


def make_remotely(url: str, inputs: dict[str, Any], seeds: list[int], adapters: list[str], folder: Path) -> list[Path]:
    """A file in ``folder`` for each seed, made by the server at the same time."""
    client, sent = Client(url), to_json(inputs)
    context = {"adapter": ",".join(adapters)} if adapters else {}
    client.wait_until_ready()
    print(f"Making {inputs['duration']} s of music at {client.url} …", file=sys.stderr, flush=True)
    futures = [_in_thread(client.predict, {**sent, "seed": seed}, context) for seed in seeds]
    paths = []
    for seed, future in zip(seeds, futures, strict=True):
        # A server without adapters ignores a context; one with them writes it into the file's comment.
        result = future.result()
        if adapters and b'"adapter"' not in result.replace(b"\0", b""):
            raise RuntimeError(f"--adapter: {client.url} ignored it. Start the server with MUSICGEN_ADAPTERS=folder.")
        print(f"Using seed {seed}", flush=True)
        paths.append(folder / str(seed))
        paths[-1].write_bytes(result)
    return paths


def _in_thread(work: Callable[..., bytes], *arguments: Any) -> Future[bytes]:
    """As an executor's ``submit``, in a thread that does not outlive the process: Ctrl-C hangs up, and cog cancels."""
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
