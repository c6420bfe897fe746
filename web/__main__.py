"""Serve Replicate's API and a page for musicians, beside a Cog server of this model.

python -m web [--target http://127.0.0.1:5000] [--host 127.0.0.1] [--port 5001]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from web.predictions import NO_PROXY
from web.replicate_api import ReplicateAPI, problem

END_S = 3  # for requests that wait, at the end of the program


def app(target: str, own_url: str) -> Starlette:
    """The ASGI app in front of the Cog server at ``target``; ``own_url`` is this one's as seen from there."""
    client = httpx.AsyncClient(base_url=target, timeout=httpx.Timeout(None, connect=10), mounts=NO_PROXY)
    folder = tempfile.TemporaryDirectory(prefix="musicgen-web-")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with folder:  # here, since uvicorn ends the process by the signal that it got: nothing runs after this
            async with client:
                yield

    async def unreachable(_: Request, error: Exception) -> Response:
        problems = "cannot be reached" if isinstance(error, httpx.TransportError) else "is not a Cog server"
        return problem(502, f"The server at {target} {problems}.")

    async def forward(request: Request) -> Response:
        """cog's own answer."""
        answer = await client.get(request.url.path)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    forwarded = [Route(path, forward) for path in ("/health-check", "/openapi.json")]
    page = Mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))
    routes = [*ReplicateAPI(client, own_url, Path(folder.name)).routes(), *forwarded, page]
    handlers: Any = dict.fromkeys((httpx.TransportError, json.JSONDecodeError), unreachable)
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="http://127.0.0.1:5000", help="the Cog server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--own-url", help="this server's address as seen from the Cog server")
    args = parser.parse_args()
    host = "127.0.0.1" if args.host == "0.0.0.0" else f"[{args.host}]" if ":" in args.host else args.host
    own_url = args.own_url or f"http://{host}:{args.port}"
    print(f"REPLICATE_BASE_URL={own_url} makes Replicate's clients call {args.target}", file=sys.stderr, flush=True)
    serve = {"host": args.host, "port": args.port, "log_level": "warning"}
    uvicorn.run(app(args.target, own_url), timeout_graceful_shutdown=END_S, **serve)
    return 0


if __name__ == "__main__":
    sys.exit(main())
