"""cog's own answers, for requests that no server answered. Knows no Ray and no network; standard library only."""

import json
from collections.abc import Iterable
from typing import Any

from deploy.prediction import Answer, Prediction

JSON = {"content-type": "application/json"}
NOT_FOUND = Answer(404, {}, b"")
CANCELLED = Answer(200, JSON, b"{}")
FULL = Answer(409, JSON, b'{"error":"At capacity - all prediction slots busy","status":"failed"}')
NOT_READY = Answer(503, JSON, b'{"error":"Predictor not ready","status":"failed"}')


def best_health(answers: Iterable[Answer]) -> Answer:
    """The health check of the replica that is best off: READY as long as one has a free slot."""
    order = {b'{"status":"READY"': 0, b'{"status":"BUSY",': 1}
    best = min(answers, key=lambda answer: order.get(answer.body[:17], 2), default=None)
    return best or Answer(200, JSON, b'{"status":"STARTING"}')


def cancellation(prediction: Prediction) -> Answer:
    """cog's answer to a cancelled prediction, for one that never reached a server."""
    return Answer(200, JSON, as_json(id=prediction.id, logs="", metrics={}, status="canceled"))


def lost(prediction: Prediction) -> Answer:
    """cog's answer to a prediction whose worker died."""
    body = as_json(error="Worker crashed", id=prediction.id, logs="", metrics={}, status="failed")
    return Answer(200, JSON, body)


def as_json(**members: Any) -> bytes:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def starting(prediction: Prediction) -> Answer:
    """cog's answer to a second PUT, for a prediction that has not reached a server."""
    inputs = json.loads(prediction.body)["input"]
    body = as_json(id=prediction.id, input=inputs, logs="", metrics={}, status="starting")
    return Answer(202, JSON, prediction.as_sent(body))
