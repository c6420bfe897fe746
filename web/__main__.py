"""Serve Replicate's API and a page for musicians, beside a Cog server of this model.

python -m web [--target http://127.0.0.1:5000] [--host 127.0.0.1] [--port 5001]
"""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from web.replicate_api import ReplicateAPI, problem


def app(target: str, own_url: str) -> Starlette:
    """The ASGI app in front of the Cog server at ``target``; ``own_url`` is this one's as seen from there."""
    client = httpx.AsyncClient(base_url=target, timeout=httpx.Timeout(None, connect=10))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    async def forward(request: Request) -> Response:
        """cog's own answer."""
        try:
            answer = await client.get(request.url.path)
        except httpx.TransportError:
            return problem(502, f"The server at {target} cannot be reached.")
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    forwarded = [Route(path, forward) for path in ("/health-check", "/openapi.json")]
    page = Mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))
    return Starlette(routes=[*ReplicateAPI(client, own_url).routes(), *forwarded, page], lifespan=lifespan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="http://127.0.0.1:5000", help="the Cog server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--own-url", help="this server's address as seen from the Cog server")
    args = parser.parse_args()
    own_url = args.own_url or f"http://{args.host if args.host != '0.0.0.0' else '127.0.0.1'}:{args.port}"
    print(f"REPLICATE_BASE_URL={own_url} makes Replicate's clients call {args.target}", file=sys.stderr, flush=True)
    uvicorn.run(app(args.target, own_url), host=args.host, port=args.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
