"""A way to a replica's server that needs no slot: its address has a secret in it, which the ingresses alone learn.

Ray gives a replica as many requests as it has slots: a cancel would wait for the prediction that it cancels.
"""

import secrets

from aiohttp import web

from deploy.forward import FAULTS
from deploy.prediction import read
from deploy.server import CogServer

NOT_HERE = 204


class Control:
    """Passes on every request but new predictions: a PUT is answered only for an id that is open here."""

    def __init__(self, server: CogServer) -> None:
        self._server, self._secret = server, secrets.token_urlsafe(32)

    async def start(self, host: str) -> str:
        """Listen on a free port of ``host``; returns the address to which a path is appended."""
        app = web.Application(client_max_size=2**31)
        app.router.add_route("*", f"/{self._secret}{{path:/.*}}", self._pass)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, 0)
        await site.start()
        port = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/{self._secret}"

    async def _pass(self, request: web.Request) -> web.Response:
        target, headers = request.raw_path.removeprefix(f"/{self._secret}"), dict(request.headers)
        body = await request.read()
        try:
            if request.method == "PUT":
                answer = await self._server.repeat(read("PUT", target, headers, body))
            else:
                answer = await self._server.request(request.method, target, headers, body)
        except FAULTS:
            answer = None
        if answer is None:
            return web.Response(status=NOT_HERE)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
