"""The one server that callers see. Asks a replica, and another where that one is lost; knows no inputs."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import aiohttp
from ray import serve
from ray.exceptions import RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Gauge
from starlette.requests import Request
from starlette.responses import Response

from deploy import answers
from deploy.control import NOT_HERE
from deploy.forward import FAULTS, forward, open_session
from deploy.prediction import ROUTE, Answer, Prediction, read

# A prediction is asked for again so many times, after so many seconds times the number of the try.
N_RETRIES = 3
PAUSE_S = 0.1
# cog answers a request that it refuses within this time; later, `respond-async` is answered 202.
ACCEPT_S = 0.5
BROADCAST_S = 20.0
FORGET_S = 30.0


@dataclass
class Open:
    """A prediction without an answer yet."""

    prediction: Prediction
    task: "asyncio.Task[Answer] | None" = None
    is_cancelled: bool = False


class Ingress:
    """Everything that callers see. Open predictions are here; all else is asked of the replicas."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas
        self._open: dict[str, Open] = {}
        self._posts: set[asyncio.Task[None]] = set()
        self._addresses: dict[str, float] = {}  # of servers, and when each was last named
        self._session: aiohttp.ClientSession | None = None
        self._name = secrets.token_hex(8)
        self._requests = Counter("musicgen_predictions_total", "Answers by outcome.", tag_keys=("outcome",))
        self._retries = Counter("musicgen_retries_total", "Further tries by reason.", tag_keys=("reason",))
        self._music = Counter("musicgen_music_seconds_total", "Seconds of music delivered.")
        self._slots = Gauge("musicgen_slots", "Predictions that all replicas can run at once.")
        self._n_open = Gauge("musicgen_open_predictions", "Predictions without an answer, waiting ones included.")

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        path, query = request.scope.get("raw_path") or request.url.path.encode(), request.scope["query_string"]
        target = path.decode() + (f"?{query.decode()}" if query else "")
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = await self._answer(request.method, path.decode(), target, headers, await request.body())
        return Response(answer.body, answer.status, answer.headers)

    async def _answer(self, method: str, path: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        route = ROUTE.fullmatch(path)
        if route and route["cancel"] and method == "POST":
            return await self._cancel(unquote(route["id"]), target, headers)
        if route and not route["cancel"] and method == ("PUT" if route["id"] else "POST"):
            return await self._predict(read(method, path, headers, body))
        if path == "/shutdown":  # one server's, and open to all
            return answers.NOT_FOUND
        found = await self._ask_servers(method, target, headers, body)
        if path == "/health-check":
            return answers.best_health(found)
        return found[0] if found else answers.NOT_READY

    async def _predict(self, prediction: Prediction) -> Answer:
        opened = Open(prediction)
        if prediction.method == "PUT":
            asker = "" if prediction.id in self._open else self._name
            self._open.setdefault(prediction.id, opened)  # now, so that a second one at this instant finds it
            if answer := await self._repeat(prediction, asker):
                self._forget(opened)
                return answer
        opened.task = asyncio.create_task(self._ask(opened))
        self._open[prediction.id] = opened
        self._n_open.set(len(self._open))
        opened.task.add_done_callback(lambda task: self._close(opened, task))
        if prediction.is_async:
            await asyncio.wait([opened.task], timeout=ACCEPT_S)
            if not opened.task.done() or opened.task.result().status < 400:
                return Answer(202, answers.JSON, answers.as_json(id=prediction.id, status="starting"))
        try:
            return await opened.task
        except asyncio.CancelledError:
            if opened.is_cancelled:
                return answers.cancellation(prediction)
            raise  # the caller is gone, and so is the request to the replica

    async def _ask(self, opened: Open) -> Answer:
        """The prediction's answer: from the first replica that lives to give one, or cog's own where all is full."""
        answer: Answer | None = None
        for attempt in range(1 + N_RETRIES):
            if opened.is_cancelled:
                return answers.cancellation(opened.prediction)
            await asyncio.sleep(attempt * PAUSE_S)
            response = self._replicas.options(
                method_name="predict", multiplexed_model_id=opened.prediction.adapter
            ).remote(opened.prediction)
            try:
                answer, reason = await response, "lost"
            except BackPressureError:
                return answers.FULL
            except DeploymentUnavailableError:
                return answers.NOT_READY
            except (asyncio.CancelledError, TaskCancelledError):
                response.cancel()
                raise asyncio.CancelledError from None
            except RayError:
                answer, reason = None, "died"
            if answer is not None and answer.status != 409:
                return answer
            if attempt < N_RETRIES:
                self._retries.inc(tags={"reason": "full" if answer else reason})
        return answer or answers.lost(opened.prediction)

    def _close(self, opened: Open, task: "asyncio.Task[Answer]") -> None:
        """Count a finished prediction, and send the last webhook of one that no server finished."""
        self._forget(opened)
        if task.cancelled():
            self._requests.inc(tags={"outcome": "canceled"})
            if opened.is_cancelled:
                self._notify(opened.prediction, answers.cancellation(opened.prediction))
            return
        answer = task.result()
        self._requests.inc(tags={"outcome": answer.outcome})
        if answer.outcome == "succeeded" and opened.prediction.duration_s:
            self._music.inc(opened.prediction.duration_s)
        elif answer.is_lost or (opened.prediction.is_async and answer.status >= 400):
            self._notify(opened.prediction, answers.lost(opened.prediction))

    def _forget(self, opened: Open) -> None:
        if self._open.get(opened.prediction.id) is opened:
            del self._open[opened.prediction.id]
        self._n_open.set(len(self._open))

    def _notify(self, prediction: Prediction, answer: Answer) -> None:
        if prediction.webhook and prediction.is_completion_wanted:
            post = asyncio.create_task(_post(prediction.webhook, answer.body))
            self._posts.add(post)
            post.add_done_callback(self._posts.discard)

    async def _repeat(self, prediction: Prediction, asker: str) -> Answer | None:
        """The answer to a PUT whose id is already open somewhere, running or waiting, but not with ``asker``."""
        sent = prediction
        found = await self._ask_servers(sent.method, sent.path, sent.headers, sent.body)
        return next(iter(found or await self._ask_ingresses("waiting", prediction, asker)), None)

    async def waiting(self, prediction: Prediction, asker: str) -> Answer | None:
        """The answer to a PUT for an id that is open here, and has not reached a server."""
        opened = self._open.get(prediction.id)
        if opened is None or asker == self._name:
            return None
        try:
            return answers.starting(opened.prediction)
        except (ValueError, KeyError):
            return None  # cog is about to refuse it

    async def _cancel(self, prediction_id: str, target: str, headers: dict[str, str]) -> Answer:
        # Marked first: a prediction whose replica dies now is not asked for again.
        is_open = any(await self._ask_ingresses("mark_cancelled", prediction_id))
        found = await self._ask_servers("POST", target, headers)
        answer = next((answer for answer in found if answer.status == 200), None)
        if answer is None and is_open:  # it waits, or is on its way
            await self._ask_ingresses("drop", prediction_id)
            return answers.CANCELLED
        return answer or (found[0] if found else Answer(404, answers.JSON, b"{}"))

    async def mark_cancelled(self, prediction_id: str) -> bool:
        """Prevent another try; whether the prediction is open here."""
        if opened := self._open.get(prediction_id):
            opened.is_cancelled = True
        return opened is not None

    async def drop(self, prediction_id: str) -> None:
        """Cancel a prediction that no server knows yet."""
        opened = self._open.get(prediction_id)
        if opened and opened.task:
            opened.task.cancel()

    async def __del__(self) -> None:
        while self._open:  # those with respond-async, which Serve does not know
            await asyncio.sleep(0.1)

    async def register(self, address: str, n_slots: int) -> None:
        """Remember where a replica's server is asked; the replica repeats this with each check of its health."""
        self._addresses[address] = time.monotonic()
        self._forget_old_addresses()
        self._slots.set(n_slots * len(self._addresses))

    def _forget_old_addresses(self) -> None:
        oldest = time.monotonic() - FORGET_S
        self._addresses = {address: seen for address, seen in self._addresses.items() if seen > oldest}

    async def _ask_servers(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> list[Answer]:
        """The answers of all servers that know about it, without waiting for a slot."""
        self._forget_old_addresses()
        self._session = self._session or open_session()
        session = self._session

        async def ask(address: str) -> Answer | None:
            try:
                request = forward(session, method, address + path, headers, body)
                answer = await asyncio.wait_for(request, BROADCAST_S)
            except FAULTS:
                self._addresses.pop(address, None)
                return None
            return None if answer.status == NOT_HERE else answer

        found = await asyncio.gather(*map(ask, list(self._addresses)))
        return [answer for answer in found if answer is not None]

    async def _ask_ingresses(self, method: str, *arguments: Any) -> list[Any]:
        """The answers other than None of all replicas of this deployment, since callers reach any of them."""
        own = serve.get_replica_context()
        peers = serve.get_deployment_handle(own.deployment, own.app_name)
        try:
            broadcast = peers.broadcast(method, *arguments)
            found = await broadcast.results_async(timeout_s=BROADCAST_S, return_exceptions=True)
        except (DeploymentUnavailableError, RayError, TimeoutError):
            return []
        return [answer for answer in found if answer is not None and not isinstance(answer, BaseException)]


async def _post(url: str, body: bytes) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        for attempt in range(1, 4):
            try:
                async with session.post(url, data=body, headers=answers.JSON) as response:
                    if response.status < 500:
                        return
            except (aiohttp.ClientError, OSError, ValueError):
                pass
            await asyncio.sleep(attempt)
