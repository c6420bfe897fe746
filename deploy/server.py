"""One unmodified Cog server as a child process: starts it, forwards requests to it, judges its health, ends it.

Knows no Ray and no other replica. The server's webhooks pass through here: those of a prediction that was lost with
the server's worker, and that another replica makes again, do not reach the caller.
"""

import asyncio
import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from deploy.forward import FAULTS, HOP_HEADERS, forward, open_session
from deploy.prediction import Answer, Prediction

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
POLL_S = 0.1
HEALTH_TIMEOUT_S = 20.0
# cog repeats a webhook that fails, for some minutes.
KEEP_WEBHOOK_S = 600
SERVING, FINAL = ("READY", "BUSY"), ("SETUP_FAILED", "DEFUNCT")


class ServerFault(RuntimeError):
    """The server cannot serve, with its status and the end of its set-up's log."""


class CogServer:
    """A child process that answers HTTP on a free port of this machine."""

    def __init__(self, command: Sequence[str], cwd: Path = ROOT) -> None:
        self._command, self._cwd = command, cwd
        self._process: asyncio.subprocess.Process | None = None
        self._open: dict[str, Prediction] = {}
        self._webhooks: dict[str, str] = {}

    async def start(self) -> None:
        """Return when the server is ready; raises ``ServerFault`` if its set-up fails. Takes as long as set-up."""
        port = _free_port()
        # Ray's variables are those of another Python.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "PYTHONPATH"}
        child = (sys.executable, str(ROOT / "deploy" / "child.py"), str(os.getpid()), *self._command)
        self._url = f"http://{HOST}:{port}"
        self._session = open_session()
        await self._start_relay()
        environment = {**inherited, "PORT": str(port), "ADDRESS": HOST}
        self._process = await asyncio.create_subprocess_exec(*child, cwd=self._cwd, env=environment)
        while (status := (health := await self.health())["status"]) not in SERVING:
            if status in FINAL or not self.is_running:
                await self.close()
                logs = str(health.get("setup", {}).get("logs", ""))
                raise ServerFault(f"{status}: {logs[-2000:]}")
            await asyncio.sleep(POLL_S)

    @property
    def is_running(self) -> bool:
        """Whether the process exists; its worker may be dead."""
        return self._process is not None and self._process.returncode is None

    async def health(self) -> dict[str, Any]:
        """The health check's answer; the status UNREACHABLE without one."""
        try:
            answer = await asyncio.wait_for(self.request("GET", "/health-check", {}), HEALTH_TIMEOUT_S)
            health: dict[str, Any] = json.loads(answer.body)
        except FAULTS:
            return {"status": "UNREACHABLE"}
        return health

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Forward one request; raises one of ``FAULTS`` without an answer."""
        return await forward(self._session, method, self._url + path, headers, body)

    async def predict(self, prediction: Prediction) -> Answer | None:
        """The server's answer, at the prediction's end; None if it was lost with the server or its worker."""
        headers = {name: value for name, value in prediction.headers.items() if name.lower() != "prefer"}
        body, key = prediction.body, secrets.token_urlsafe(16)
        if prediction.webhook:
            self._webhooks[key] = prediction.webhook
            body = prediction.with_webhook(f"{self._relay_url}/{key}")
        self._open[prediction.id] = prediction
        try:
            answer = await self.request(prediction.method, prediction.path, headers, body)
        except FAULTS:
            return None
        finally:
            self._open.pop(prediction.id, None)
            asyncio.get_running_loop().call_later(KEEP_WEBHOOK_S, self._webhooks.pop, key, None)
        return None if answer.is_lost else answer

    async def repeat(self, prediction: Prediction) -> Answer | None:
        """The answer to a PUT for an id that is open here; None if it is not."""
        first = self._open.get(prediction.id)
        if first is None:
            return None
        answer = await self.request("PUT", prediction.path, prediction.headers, prediction.body)
        return answer._replace(body=first.as_sent(answer.body)) if answer.status == 202 else answer

    async def close(self, grace_s: float = 5.0) -> None:
        """SIGTERM, so that open predictions may finish, and SIGKILL after the grace period."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._relay.cleanup()
        await self._session.close()

    async def _start_relay(self) -> None:
        app = web.Application(client_max_size=2**31)
        app.router.add_post("/{key}", self._pass_webhook)
        self._relay = web.AppRunner(app, access_log=None)
        await self._relay.setup()
        await web.TCPSite(self._relay, HOST, port := _free_port()).start()
        self._relay_url = f"http://{HOST}:{port}"

    async def _pass_webhook(self, request: web.Request) -> web.Response:
        """Forward a webhook to its caller, with the caller's status in return; not a lost prediction's last one."""
        body, url = await request.read(), self._webhooks.get(request.match_info["key"])
        if url is None or Answer(200, {}, body).is_lost:
            return web.Response()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_HEADERS}
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                return web.Response(status=response.status)
        except (*FAULTS, ValueError):
            return web.Response(status=502)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
