"""Predictions of one Cog server, kept after they are answered, in the form of Replicate's API.

cog forgets a prediction once it has answered. Here it is made by one long request, followed by cog's webhooks
meanwhile, and kept until newer ones take its room. Knows no routes.
"""

import asyncio
import contextlib
import sys
import uuid
from collections.abc import Callable, Coroutine
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

# A proxy knows another machine by the names of this one: httpx's "mounts" of a client without one for them.
NO_PROXY = dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]"))

State = dict[str, Any]


class RefusedError(Exception):
    """cog refuses the request: its status, and its answer as a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


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
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps no reference

    def get(self, name: str) -> Prediction | None:
        """The prediction with this id, if it is kept."""
        return self._all.get(name)

    def newest_first(self) -> list[State]:
        """The states of all that are kept."""
        return [prediction.state for prediction in reversed(self._all.values())]

    async def create(
        self, body: dict[str, Any], model: str, version: str, urls: Callable[[str], dict[str, str]]
    ) -> Prediction:
        """A prediction that cog has accepted, or that waits; raises ``RefusedError`` and ``httpx.TransportError``."""
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
            prediction.done.set()
            raise error
        prediction.accepted.set()
        self._drop_oldest()
        return prediction

    async def cancel(self, prediction: Prediction) -> None:
        """Cancel it, and wait a moment until it has ended; raises ``httpx.TransportError``."""
        if prediction.done.is_set():
            return
        prediction.is_canceled = True
        await self._client.post(f"/predictions/{prediction.state['id']}/cancel")
        self._start(self._repeat_cancel(prediction))
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
            self._start(_post(prediction.webhook, dict(after)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repeat_cancel(self, prediction: Prediction) -> None:
        """Cancel it until it has ended: cog has lost a cancel that came before it had registered the prediction."""
        while not prediction.done.is_set():
            with contextlib.suppress(httpx.TransportError):
                await self._client.post(f"/predictions/{prediction.state['id']}/cancel")
            await asyncio.sleep(_RETRY_S)

    async def _run(self, prediction: Prediction, body: dict[str, Any]) -> None:
        """Follow it to its end; an error before it is accepted is the caller's."""
        try:
            end = await self._answer(prediction, body)
        except Exception as error:  # of any kind: without an end it would be "processing" for ever
            if not prediction.accepted.is_set():
                raise
            sentence = str(error) or type(error).__name__
            if not isinstance(error, RefusedError):
                sentence = f"The server at {self._client.base_url} has not answered: {sentence}"
            end = _end("failed", sentence)
        await self.update(prediction, end)

    async def _answer(self, prediction: Prediction, body: dict[str, Any]) -> State:
        """cog's answer, once the model is loaded and has a free slot."""
        while not prediction.is_canceled:
            response = await self._client.put(f"/predictions/{body['id']}", json=body)
            if not await self._must_wait(response):
                is_json = response.headers.get("content-type", "").startswith("application/json")
                answer = response.json() if is_json else response.text
                if not isinstance(answer, dict) or "status" not in answer:
                    raise RefusedError(response.status_code if response.is_error else 502, _sentence(answer))
                return answer | _end(answer["status"], answer.get("error"))
            prediction.accepted.set()
            await asyncio.sleep(_RETRY_S)
        return _end("canceled")

    async def _must_wait(self, response: httpx.Response) -> bool:
        if response.status_code == 503:  # the model is being loaded, or cannot be
            return (await self._client.get("/health-check")).json().get("status") in ("STARTING", "READY", "BUSY")
        return response.status_code == 409  # all slots are taken

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


def _sentence(answer: Any) -> str:
    """cog's answer to a request that it refuses, as one sentence for each input."""
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    if not isinstance(detail, list):
        return str(detail)
    return "; ".join(f"{'.'.join(map(str, one.get('loc', [])[1:]))}: {one.get('msg', one)}" for one in detail)


async def _post(url: str, state: State) -> None:
    """Send a state to the caller's webhook; tried again where that fails."""
    for i in range(_WEBHOOK_TRIES):
        with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
            async with httpx.AsyncClient(timeout=10, mounts=NO_PROXY) as client:
                if (await client.post(url, json=state)).is_success:
                    return
        await asyncio.sleep(2**i)
    print(f"The webhook of prediction {state['id']} does not answer.", file=sys.stderr)
