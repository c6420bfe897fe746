"""Predictions of one Cog server, kept after they are answered, in the form of Replicate's API.

cog forgets a prediction once it has answered. Here it is made by one long request, followed by cog's webhooks
meanwhile, and kept until newer ones take its room. Knows no routes.
"""

import asyncio
import contextlib
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

TERMINAL = ("succeeded", "failed", "canceled")
EVENTS = ("start", "output", "logs", "completed")
# cog reports at once that it has accepted a prediction, or answers why not.
_ACCEPT_S = 2.0
_RETRY_S = 0.2
_WEBHOOK_TRIES = 3
_FROM_COG = ("status", "output", "error", "logs", "metrics", "started_at", "completed_at")

State = dict[str, Any]


class RefusedError(Exception):
    """cog refuses the request: its status and answer."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(answer)
        self.status, self.answer = status, answer


@dataclass
class Prediction:
    """One prediction; ``state`` is as Replicate's API gives it."""

    state: State
    webhook: str | None
    events: tuple[str, ...]
    is_canceled: bool = False
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def n_bytes(self) -> int:
        return len(self.state["output"] or "") + sum(len(str(value)) for value in self.state["input"].values())


class Predictions:
    """Predictions of the server behind ``client``, the oldest finished ones dropped beyond ``max_bytes``."""

    def __init__(self, client: httpx.AsyncClient, hooks_url: Callable[[str], str], max_bytes: int) -> None:
        """``hooks_url`` of a prediction's id is where cog reports on it: ``update`` takes what arrives there."""
        self._client, self._hooks_url, self._max_bytes = client, hooks_url, max_bytes
        self._all: dict[str, Prediction] = {}
        self._sending: set[asyncio.Task[None]] = set()  # asyncio itself keeps no reference

    def get(self, name: str) -> Prediction | None:
        """The prediction with this id, if it is kept."""
        return self._all.get(name)

    def newest_first(self) -> list[State]:
        """The states of all that are kept."""
        return [prediction.state for prediction in reversed(self._all.values())]

    async def create(
        self, body: dict[str, Any], model: str, version: str, urls: Callable[[str], dict[str, str]]
    ) -> Prediction:
        """A prediction that cog has accepted, or that waits for a free slot; raises ``RefusedError``."""
        name, created_at = uuid.uuid4().hex[:26], datetime.now(UTC).isoformat()
        empty = dict.fromkeys(("output", "error", "started_at", "completed_at"))
        state = {"id": name, "model": model, "version": version, "input": body.get("input") or {}, **empty}
        state |= {"logs": "", "metrics": {}, "status": "starting", "created_at": created_at, "urls": urls(name)}
        prediction = Prediction(state, body.get("webhook"), tuple(body.get("webhook_events_filter") or EVENTS))
        sent = {"id": name, "input": body.get("input") or {}, "webhook": self._hooks_url(name)}
        if "context" in body:
            sent["context"] = body["context"]
        self._all[name] = prediction
        prediction.task = asyncio.create_task(self._run(prediction, sent))
        accepted = asyncio.create_task(prediction.accepted.wait())
        await asyncio.wait([prediction.task, accepted], timeout=_ACCEPT_S, return_when=asyncio.FIRST_COMPLETED)
        accepted.cancel()
        if prediction.task.done() and (error := prediction.task.exception()):
            del self._all[name]
            raise error
        self._drop_oldest()
        return prediction

    async def cancel(self, prediction: Prediction) -> None:
        """Cancel it, and wait until it has ended."""
        if prediction.done.is_set():
            return
        prediction.is_canceled = True
        await self._client.post(f"/predictions/{prediction.state['id']}/cancel")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(prediction.done.wait(), _ACCEPT_S)

    async def update(self, prediction: Prediction, report: State) -> None:
        """Take cog's report on a prediction that runs."""
        if prediction.done.is_set():  # webhooks may arrive after the answer
            return
        before = dict(prediction.state)
        prediction.state |= {key: report[key] for key in _FROM_COG if report.get(key) is not None}
        prediction.accepted.set()
        after = prediction.state
        if after["status"] in TERMINAL:
            prediction.done.set()
            event = "completed"
        elif before["status"] == "starting":
            after["started_at"] = datetime.now(UTC).isoformat()
            event = "start"
        else:
            event = "output" if after["output"] != before["output"] else "logs"
        if prediction.webhook and event in prediction.events:
            sending = asyncio.create_task(_post(prediction.webhook, dict(after)))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _run(self, prediction: Prediction, body: dict[str, Any]) -> None:
        response: httpx.Response | None = None
        try:
            while response is None or response.status_code == 409:  # all slots are taken
                if response is not None:
                    prediction.accepted.set()
                    await asyncio.sleep(_RETRY_S)
                if prediction.is_canceled:
                    return await self.update(prediction, _end("canceled"))
                response = await self._client.put(f"/predictions/{body['id']}", json=body)
        except httpx.TransportError as error:
            problem = f"The server at {self._client.base_url} cannot be reached: {error or type(error).__name__}"
            if not prediction.accepted.is_set():
                raise RefusedError(502, {"detail": problem}) from error
            return await self.update(prediction, _end("failed", problem))
        answer = response.json() if response.headers.get("content-type", "").startswith("application/json") else {}
        if "status" not in answer:
            if not prediction.accepted.is_set():
                raise RefusedError(response.status_code, answer or {"detail": response.text})
            return await self.update(prediction, _end("failed", str(answer or response.text)))
        await self.update(prediction, answer | _end(answer["status"], answer.get("error")))

    def _drop_oldest(self) -> None:
        total = sum(prediction.n_bytes for prediction in self._all.values())
        for name, prediction in list(self._all.items()):
            if total <= self._max_bytes:
                return
            if prediction.done.is_set():
                total -= prediction.n_bytes
                del self._all[name]


def _end(status: str, error: str | None = None) -> State:
    return {"status": status, "error": error, "completed_at": datetime.now(UTC).isoformat()}


async def _post(url: str, state: State) -> None:
    """Send a state to the caller's webhook; tried again where that fails."""
    for i in range(_WEBHOOK_TRIES):
        with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
            async with httpx.AsyncClient(timeout=10) as client:
                if (await client.post(url, json=state)).is_success:
                    return
        await asyncio.sleep(2**i)
    print(f"The webhook of prediction {state['id']} does not answer.", file=sys.stderr)
