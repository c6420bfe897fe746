"""The endpoint of one server on many, with Ray Serve: an ingress that asks again, and replicas with a Cog server each.

Knows no inputs and no model. ``deploy/prediction.py`` reads requests, ``deploy/replica.py`` runs a server.
"""

import asyncio
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import aiohttp
from pydantic import BaseModel, field_validator
from ray import serve
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Gauge
from starlette.requests import Request
from starlette.responses import Response

from deploy import answers
from deploy.prediction import ROUTE, Answer, Prediction, read
from deploy.replica import SERVING, CogServer, ServerFault

# A prediction is asked for again so many times, after so many seconds times the number of the try.
N_RETRIES = 3
PAUSE_S = 0.1
# cog answers a request that it refuses within this time; later, `respond-async` is answered 202.
ACCEPT_S = 0.5
BROADCAST_S = 20.0
# Of adapters that a server keeps merged: the default of MUSICGEN_MAX_ADAPTERS.
MAX_ADAPTERS = 2
MAX_OPEN_REQUESTS = 10_000


class Options(BaseModel):
    """The application's arguments, in ``deploy/serve.yaml`` or on the command line; an unknown one is an error."""

    model_config = {"extra": "forbid"}

    command: list[str] = ["script/serve"]  # starts the server, which reads PORT and ADDRESS
    slots: int = 4  # COG_MAX_CONCURRENCY of each server
    queue: int = 64  # requests that wait for a slot; beyond them, 409
    min_replicas: int = 1
    max_replicas: int = 2
    ingresses: int = 1
    gpus: float = 0  # of a replica
    longest_s: int = 900  # the longest prediction: as long a replica drains before it is stopped
    downscale_delay_s: float = 300

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, command: Any) -> Any:
        return shlex.split(command) if isinstance(command, str) else command


@dataclass
class Open:
    """A prediction without an answer yet."""

    prediction: Prediction
    task: "asyncio.Task[Answer] | None" = None
    is_cancelled: bool = False


class Replica:
    """A Cog server, and the Serve replica that lives and dies with it."""

    async def __init__(self, command: list[str], slots: int) -> None:  # type: ignore[misc]  # Ray awaits it
        self._server = CogServer(command)
        os.environ["COG_MAX_CONCURRENCY"] = str(slots)
        self._slots = Gauge("musicgen_slots", "Predictions that this replica can run at once.")
        await self._server.start()
        self._slots.set(slots)

    async def predict(self, prediction: Prediction) -> Answer | None:
        """The server's answer; None if it was lost with the server."""
        if prediction.adapter:
            await self.adapter(serve.get_multiplexed_model_id())
        answer = await self._server.predict(prediction)
        if answer is None or answer.status == 409:
            await self._exit_if_dead()
        return answer

    @serve.multiplexed(max_num_models_per_replica=MAX_ADAPTERS)
    async def adapter(self, name: str) -> str:
        """Make Ray route requests for this adapter here; the server loads it by itself."""
        return name

    async def repeat(self, prediction: Prediction) -> Answer | None:
        """The server's answer to a second PUT, if the first is open here."""
        return await self._server.repeat(prediction)

    async def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """The server's answer to any other request; None without one."""
        try:
            return await self._server.request(method, path, headers, body)
        except (aiohttp.ClientError, OSError):
            return None

    async def check_health(self) -> None:
        """Raise for a server that does not serve: Ray then replaces the replica."""
        status = await self._exit_if_dead()
        if status not in SERVING:
            raise ServerFault(status)

    async def _exit_if_dead(self) -> str:
        """The server's status; ends this process where it or its worker is dead.

        To Ray a replica that fails each request at once looks idle, and would get all of them until its next checks.
        """
        health = await self._server.health()
        status = str(health["status"])
        has_no_worker = "channel closed" in str(health.get("user_healthcheck_error"))
        if not self._server.is_running or status == "DEFUNCT" or has_no_worker:
            os._exit(1)
        return status

    async def __del__(self) -> None:
        await self._server.close()


class Ingress:
    """Everything that callers see. Open predictions are here; all else is asked of the replicas."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas
        self._open: dict[str, Open] = {}
        self._peers: DeploymentHandle | None = None
        self._requests = Counter("musicgen_predictions_total", "Answers by outcome.", tag_keys=("outcome",))
        self._retries = Counter("musicgen_retries_total", "Further tries by reason.", tag_keys=("reason",))
        self._music = Counter("musicgen_music_seconds_total", "Seconds of music delivered.")
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
        found = await self._ask_all(self._replicas, "forward", method, target, headers, body)
        if path == "/health-check":
            return answers.best_health(found)
        return found[0] if found else answers.NOT_READY

    async def _predict(self, prediction: Prediction) -> Answer:
        if prediction.method == "PUT" and (answer := await self._repeat(prediction)):
            return answer
        opened = Open(prediction)
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
            except RayActorError:
                answer, reason = None, "died"
            except (asyncio.CancelledError, TaskCancelledError):
                response.cancel()
                raise asyncio.CancelledError from None
            if answer is not None and answer.status != 409:
                return answer
            if attempt < N_RETRIES:
                self._retries.inc(tags={"reason": "full" if answer else reason})
        return answer or answers.lost(opened.prediction)

    def _close(self, opened: Open, task: "asyncio.Task[Answer]") -> None:
        """Count a finished prediction, and send the last webhook of one that no server finished."""
        if self._open.get(opened.prediction.id) is opened:
            del self._open[opened.prediction.id]
        self._n_open.set(len(self._open))
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

    def _notify(self, prediction: Prediction, answer: Answer) -> None:
        if prediction.webhook and prediction.is_completion_wanted:
            self._notifying = asyncio.create_task(_post(prediction.webhook, answer.body))

    async def _repeat(self, prediction: Prediction) -> Answer | None:
        """The answer to a PUT whose id is already open somewhere, running or waiting."""
        found = await self._ask_all(self._replicas, "repeat", prediction)
        return next(iter(found or await self._ask_all(self._all_ingresses(), "waiting", prediction)), None)

    async def waiting(self, prediction: Prediction) -> Answer | None:
        """The answer to a PUT for an id that is open here, and has not reached a server."""
        opened = self._open.get(prediction.id)
        if opened is None:
            return None
        try:
            return answers.starting(opened.prediction)
        except (ValueError, KeyError):
            return None  # cog is about to refuse it

    async def _cancel(self, prediction_id: str, target: str, headers: dict[str, str]) -> Answer:
        # Marked first: a prediction whose replica dies now is not asked for again.
        is_open = any(await self._ask_all(self._all_ingresses(), "mark_cancelled", prediction_id))
        found = await self._ask_all(self._replicas, "forward", "POST", target, headers, b"")
        answer = next((answer for answer in found if answer.status == 200), None)
        if answer is None and is_open:  # it waits, or is on its way
            await self._ask_all(self._all_ingresses(), "drop", prediction_id)
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

    def _all_ingresses(self) -> DeploymentHandle:
        """This deployment, since callers reach any of its replicas."""
        if self._peers is None:
            own = serve.get_replica_context()
            self._peers = serve.get_deployment_handle(own.deployment, own.app_name)
        return self._peers

    @staticmethod
    async def _ask_all(handle: DeploymentHandle, method: str, *arguments: Any) -> list[Any]:
        """The answers other than None of all replicas that live."""
        try:
            broadcast = handle.broadcast(method, *arguments)
            found = await broadcast.results_async(timeout_s=BROADCAST_S, return_exceptions=True)
        except (DeploymentUnavailableError, RayActorError, TimeoutError):
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


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """The application; ``arguments`` are those of ``Options``. Ray reads them from a file or the command line."""
    options = Options.model_validate(dict(arguments))
    replicas = serve.deployment(
        max_ongoing_requests=options.slots,
        max_queued_requests=options.queue,
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "initial_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": 0.7 * options.slots,
            "upscale_delay_s": 10,
            "downscale_delay_s": options.downscale_delay_s,
        },
        graceful_shutdown_timeout_s=options.longest_s,
        graceful_shutdown_wait_loop_s=1,
        health_check_period_s=2,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": 1, "num_gpus": options.gpus},
    )(Replica).bind(options.command, options.slots)
    ingress = serve.deployment(
        num_replicas=options.ingresses,
        max_ongoing_requests=MAX_OPEN_REQUESTS,
        graceful_shutdown_timeout_s=options.longest_s,
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    return ingress.bind(replicas)
