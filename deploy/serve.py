"""The application that Ray Serve runs: ``deploy/ingress.py`` before replicas of ``deploy/replica.py``."""

import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, field_validator
from ray import serve

from deploy.ingress import Ingress
from deploy.replica import Replica

MAX_OPEN_REQUESTS = 10_000
# A line a request, and one for each message between replica and ingress: cog's own log and the metrics say more.
LOGGING = {"enable_access_log": False}


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
        logging_config=LOGGING,
        ray_actor_options={"num_cpus": 1, "num_gpus": options.gpus},
    )(Replica).bind(options.command, options.slots)
    ingress = serve.deployment(
        num_replicas=options.ingresses,
        max_ongoing_requests=MAX_OPEN_REQUESTS,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=options.longest_s,
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    return ingress.bind(replicas)
