"""A Serve replica: one Cog server, which it starts, asks, and dies with. ``deploy/server.py`` runs the server."""

import os
from contextlib import suppress

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError

from deploy.control import Control
from deploy.prediction import Answer, Prediction
from deploy.server import SERVING, CogServer, ServerFault

# Of adapters that a server keeps merged. It is the server that refuses another value, and its sentence is in the log.
_KEPT = os.environ.get("MUSICGEN_MAX_ADAPTERS", "")
MAX_ADAPTERS = int(_KEPT) if _KEPT.isdecimal() and int(_KEPT) else 2
INGRESS = "Ingress"
REGISTER_S = 1.0


class Replica:
    """A Cog server, and the Serve replica that lives and dies with it."""

    async def __init__(self, command: list[str], slots: int) -> None:  # type: ignore[misc]  # Ray awaits it
        self._server = CogServer(command)
        os.environ["COG_MAX_CONCURRENCY"] = str(slots)
        self._n_slots = slots
        await self._server.start()
        self._address = await Control(self._server).start(ray.util.get_node_ip_address())

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

    async def check_health(self) -> None:
        """Raise for a server that does not serve: Ray then replaces the replica."""
        status = await self._exit_if_dead()
        if status not in SERVING:
            raise ServerFault(status)
        await self._register()

    async def _register(self) -> None:
        """Tell every ingress this replica's address; again and again, since ingresses come and go."""
        ingress = serve.get_deployment_handle(INGRESS, serve.get_replica_context().app_name)
        with suppress(DeploymentUnavailableError, RayError, TimeoutError):
            await ingress.broadcast("register", self._address, self._n_slots).results_async(
                timeout_s=REGISTER_S, return_exceptions=True
            )

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
