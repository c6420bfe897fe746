"""Replicate's HTTP API in front of one Cog server: what Replicate's own clients ask for, by their own paths.

Any owner, name and version is the one model behind it. Knows nothing of the model's inputs.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from web.files import Files, TooLargeError
from web.predictions import EVENTS, TERMINAL, Predictions, RefusedError, State

# As Replicate's own "Prefer: wait" without a number.
DEFAULT_WAIT_S = 60.0
MAX_BYTES = 2 << 30
NAME = "local/musicgen"  # of predictions by a version alone
_CREATED_AT = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(0))
_WAIT = re.compile(r"wait(?:=(\d+(?:\.\d+)?))?")
_NOT_HERE = "This server has one model, its predictions and files, and nothing else of Replicate's API."


class ReplicateAPI:
    """The routes below ``/v1``, and the address for cog's webhooks."""

    def __init__(self, client: httpx.AsyncClient, own_url: str, folder: Path) -> None:
        """``own_url`` is this server's address as the Cog server behind ``client`` sees it; ``folder`` has uploads."""
        self._client, self._secret = client, secrets.token_urlsafe()
        self._predictions = Predictions(client, lambda name: f"{own_url}/hooks/{self._secret}/{name}", MAX_BYTES)
        self._files = Files(folder, MAX_BYTES)

    def routes(self) -> list[Route]:
        """All of them, for an ASGI app."""
        model = "/v1/models/{owner}/{name}"
        return [
            Route("/v1/predictions", self.create, methods=["POST"]),
            Route("/v1/predictions", self.list_predictions, methods=["GET"]),
            Route("/v1/predictions/{id}", self.get, methods=["GET"]),
            Route("/v1/predictions/{id}/cancel", self.cancel, methods=["POST"]),
            Route(f"{model}/predictions", self.create, methods=["POST"]),
            Route("/v1/deployments/{owner}/{name}/predictions", self.create, methods=["POST"]),
            Route(model, self.model, methods=["GET"]),
            Route(f"{model}/versions", self.versions, methods=["GET"]),
            Route(f"{model}/versions/{{version}}", self.version, methods=["GET"]),
            Route("/v1/files", self.create_file, methods=["POST"]),
            Route("/v1/files", self.list_files, methods=["GET"]),
            Route("/v1/files/{id}", self.get_file, methods=["GET"]),
            Route("/v1/files/{id}", self.delete_file, methods=["DELETE"]),
            Route("/v1/{rest:path}", self.elsewhere, methods=["GET", "POST", "PATCH", "PUT", "DELETE", "QUERY"]),
            Route("/hooks/{secret}/{id}", self.hook, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """A new prediction; with ``Prefer: wait``, once it is done or that time is over."""
        try:
            body = _parse(await request.body())
        except ValueError as error:
            return problem(422, f"The body is not JSON: {error}.")
        try:
            _check(body)
        except ValueError as error:
            return problem(422, str(error))
        path = request.path_params
        model = f"{path['owner']}/{path['name']}" if path else str(body.get("version")).rpartition(":")[0]
        body["input"] = {name: self._resolve(value, request) for name, value in body.get("input", {}).items()}
        version = str(body.get("version") or "").rpartition(":")[2] or await self._version_id()

        def urls(name: str) -> dict[str, str]:
            own = f"{_base(request)}/predictions/{name}"
            return {"get": own, "cancel": f"{own}/cancel"}

        try:
            prediction = await self._predictions.create(body, model or NAME, version, urls)
        except RefusedError as error:
            return problem(error.status, str(error))
        wait = _WAIT.search(request.headers.get("prefer", ""))
        if wait is None:
            return JSONResponse(prediction.state, 201)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(prediction.done.wait(), float(wait[1] or DEFAULT_WAIT_S))
        # To clients, any other status than "starting" is final.
        state = prediction.state
        return JSONResponse(state if state["status"] in TERMINAL else state | {"status": "starting"}, 201)

    async def get(self, request: Request) -> Response:
        prediction = self._predictions.get(request.path_params["id"])
        return JSONResponse(prediction.state) if prediction else self._unknown(request)

    async def cancel(self, request: Request) -> Response:
        prediction = self._predictions.get(request.path_params["id"])
        if prediction is None:
            return self._unknown(request)
        await self._predictions.cancel(prediction)
        return JSONResponse(prediction.state)

    async def list_predictions(self, _: Request) -> Response:
        return page(self._predictions.newest_first())

    async def model(self, request: Request) -> Response:
        owner, name = request.path_params["owner"], request.path_params["name"]
        empty = dict.fromkeys(("description", "github_url", "paper_url", "license_url", "cover_image_url"))
        about = {"url": f"{_base(request)}/models/{owner}/{name}", "owner": owner, "name": name, **empty}
        about |= {"visibility": "private", "run_count": 0, "default_example": None}
        return JSONResponse(about | {"latest_version": await self._version(await self._version_id())})

    async def versions(self, _: Request) -> Response:
        return page([await self._version(await self._version_id())])

    async def version(self, request: Request) -> Response:
        return JSONResponse(await self._version(request.path_params["version"]))

    async def create_file(self, request: Request) -> Response:
        async with request.form(max_files=2, max_part_size=1 << 20) as form:
            content, metadata = form.get("content"), form.get("metadata")
            if content is None or isinstance(content, str):
                return problem(422, "The form lacks a file with the name content.")
            try:
                given = metadata if isinstance(metadata, str) else await metadata.read() if metadata else "{}"
                name, kind = content.filename or "file", content.content_type
                entry = await self._files.add(name, kind, _chunks(content), _parse(given or "{}"))
            except ValueError:
                return problem(422, "The metadata is not JSON.")
            except TooLargeError:
                return problem(413, f"The file is larger than {MAX_BYTES >> 30} GB.")
        return JSONResponse(self._with_urls(entry, request), 201)

    async def list_files(self, request: Request) -> Response:
        return page([self._with_urls(entry, request) for entry in self._files.all()])

    async def get_file(self, request: Request) -> Response:
        entry = self._files.get(request.path_params["id"])
        return JSONResponse(self._with_urls(entry, request)) if entry else self._unknown(request)

    async def delete_file(self, request: Request) -> Response:
        known = self._files.get(request.path_params["id"]) is not None
        return (
            Response(status_code=204)
            if known and self._files.delete(request.path_params["id"])
            else self._unknown(request)
        )

    async def elsewhere(self, _: Request) -> Response:
        return problem(404, _NOT_HERE)

    async def hook(self, request: Request) -> Response:
        """cog's report on a prediction that runs."""
        prediction = self._predictions.get(request.path_params["id"])
        if not secrets.compare_digest(request.path_params["secret"], self._secret) or prediction is None:
            return problem(404, "There is no such prediction.")
        report = await request.json()
        if report.get("status") not in TERMINAL:  # the end comes as the answer of the request itself
            await self._predictions.update(prediction, report)
        return Response(status_code=204)

    def _resolve(self, value: Any, request: Request) -> Any:
        """An input; the URL of an uploaded file as its content, since cog may not reach this server."""
        prefix = f"{_base(request)}/files/"
        if (
            isinstance(value, str)
            and value.startswith(prefix)
            and self._files.get(file_id := value.removeprefix(prefix))
        ):
            return self._files.data_url(file_id)
        return value

    async def _version_id(self) -> str:
        return hashlib.sha256(json.dumps(await self._schema(), sort_keys=True).encode()).hexdigest()

    async def _version(self, version: str) -> State:
        about = (await self._client.get("/")).json()
        return {
            "id": version,
            "created_at": _CREATED_AT,
            "cog_version": about.get("cog_version", ""),
            "openapi_schema": await self._schema(),
        }

    async def _schema(self) -> Any:
        return (await self._client.get("/openapi.json")).json()

    def _with_urls(self, entry: dict[str, Any], request: Request) -> dict[str, Any]:
        return entry | {"urls": {"get": f"{_base(request)}/files/{entry['id']}"}}

    def _unknown(self, request: Request) -> Response:
        return problem(
            404, f"There is no {request.url.path.split('/')[2].removesuffix('s')} {request.path_params['id']!r}."
        )


def problem(status: int, detail: str) -> Response:
    """An error as Replicate's clients read it."""
    return JSONResponse({"title": "Request failed", "detail": detail, "status": status}, status)


def page(results: list[Any]) -> Response:
    """All results, as the only page."""
    return JSONResponse({"previous": None, "next": None, "results": results})


def _parse(text: bytes | str) -> Any:
    """JSON that can be sent on; raises ``ValueError``, also for NaN, 1e400 and half a surrogate pair."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _check(body: Any) -> None:
    """Raise ``ValueError`` with a sentence unless it has the form of a prediction's."""
    if not isinstance(body, dict) or not isinstance(body.get("input", {}), dict):
        raise ValueError("The body is not a JSON object with an object as its input.")
    webhook, events = body.get("webhook") or "http:", body.get("webhook_events_filter") or []
    if not isinstance(webhook, str) or not webhook.startswith(("http:", "https:")):
        raise ValueError(f"webhook: {webhook!r:.80} is not an http or https URL.")
    if not isinstance(events, list) or not all(event in EVENTS for event in events):
        raise ValueError(f"webhook_events_filter: {events!r:.80} is not a list of some of {', '.join(EVENTS)}.")


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}/v1"


async def _chunks(file: Any) -> AsyncIterator[bytes]:
    while chunk := await file.read(1 << 20):
        yield chunk
