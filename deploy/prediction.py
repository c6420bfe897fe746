"""A prediction's HTTP request: what the cluster reads from it, and the id and the seed that it puts into the body.

The rest of the body stays as the caller sent it, so that cog reads, judges and answers the same text. Knows no Ray and
no network; standard library only.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

ROUTE = re.compile(r"/(?:predictions|trainings)(?:/(?P<id>[^/]+)(?P<cancel>/cancel)?)?")
MAX_SEED = 2**32 - 1
EVENTS = {"start", "output", "logs", "completed"}
DEFAULT_DURATION_S = 8
# An adapter's name goes into Ray's tables; the server judges it.
MAX_ADAPTER_CHARACTERS = 200
# cog's own answers about a prediction whose worker died; every other failure is the prediction's own.
_LOST = re.compile(rb'\{"error":"(?:Worker crashed|Failed to send request: )')


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_lost(self) -> bool:
        """Whether cog reports the death of its worker."""
        return _LOST.match(self.body) is not None

    @property
    def outcome(self) -> str:
        """The prediction's status where there is one, else the HTTP status; for metrics."""
        found = re.search(rb'"status":"(\w+)"\}$', self.body[-40:])
        return found[1].decode() if self.status < 300 and found else str(self.status)


@dataclass(frozen=True)
class Prediction:
    """A prediction's request, with an id and a seed unless cog will refuse it anyway; ``body`` is what cog receives."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    id: str = ""
    seed: int | None = None  # the drawn one
    was_minus_one: bool = False  # the seed, before it was drawn
    adapter: str = ""
    webhook: str = ""
    is_completion_wanted: bool = True  # by the webhook
    duration_s: float = 0
    is_async: bool = False

    def as_sent(self, echo: bytes) -> bytes:
        """cog's answer to a repeated PUT, which repeats ``input``, without the drawn seed."""
        if self.seed is None:
            return echo
        text = echo.decode()
        _, start, end = _members(text)["input"]
        inputs, seed = text[start:end], f'"seed":{self.seed}'
        if self.was_minus_one:
            inputs = re.sub(rf"{seed}(?=[,}}])", '"seed":-1', inputs)
        else:  # quotes inside a string are escaped: only the member matches
            inputs = re.sub(rf",{seed}(?=[,}}])|{seed},|{seed}(?=}})", "", inputs, count=1)
        return (text[:start] + inputs + text[end:]).encode()

    def with_webhook(self, url: str) -> bytes:
        """The body with another webhook."""
        text = self.body.decode()
        _, start, end = _members(text)["webhook"]
        return (text[:start] + json.dumps(url) + text[end:]).encode()


def read(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Prediction:
    """The request with an id and a seed of its own, if it is one that cog accepts; else as it is."""
    match = ROUTE.fullmatch(path)
    path_id = unquote(match["id"] or "") if match else ""
    is_async = "respond-async" in headers.get("prefer", "")
    as_it_is = Prediction(method, path, dict(headers), body, path_id, is_async=is_async)
    try:
        text = body.decode()
        members = _members(text)
    except (ValueError, RecursionError):
        return as_it_is
    values = {name: value for name, (value, _, _) in members.items()}
    if not _is_well_formed(values):
        return as_it_is
    inputs, input_start, input_end = members["input"]
    edits: list[tuple[int, int, str]] = []
    seed: int | None = None
    if "seed" not in inputs or _is_minus_one(inputs["seed"]):
        seed = secrets.randbelow(MAX_SEED + 1)
        if "seed" in inputs:
            _, start, end = _members(text, input_start)["seed"]
            edits.append((start, end, str(seed)))
        else:
            edits.append((input_end - 1, input_end - 1, f'{"," if inputs else ""}"seed":{seed}'))
    prediction_id = path_id or values.get("id")
    if prediction_id is None:
        prediction_id = f"pred_{secrets.token_hex(8)}"
        end = text.rindex("}")
        edits.append((end, end, f',"id":"{prediction_id}"'))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    adapter, duration = values.get("context", {}).get("adapter", ""), inputs.get("duration", DEFAULT_DURATION_S)
    webhook = values.get("webhook") or ""
    return Prediction(
        method,
        path,
        dict(headers),
        text.encode(),
        prediction_id,
        seed,
        was_minus_one="seed" in inputs,
        adapter=adapter if len(adapter) <= MAX_ADAPTER_CHARACTERS else "",
        webhook=webhook if webhook.startswith(("http://", "https://")) else "",
        is_completion_wanted="completed" in (values.get("webhook_events_filter") or EVENTS),
        duration_s=duration if isinstance(duration, int | float) else 0,
        is_async=is_async,
    )


def _is_well_formed(values: dict[str, Any]) -> bool:
    """Whether cog can read the members; what they contain is for the server to judge."""
    context, events = values.get("context", {}), values.get("webhook_events_filter")
    return (
        isinstance(values.get("input"), dict)
        and isinstance(values.get("id", ""), str)
        and isinstance(context, dict)
        and all(isinstance(value, str) for value in context.values())
        and isinstance(values.get("webhook"), str | None)
        and (events is None or (isinstance(events, list) and all(event in EVENTS for event in map(str, events))))
    )


def _is_minus_one(seed: Any) -> bool:
    return seed == -1 and not isinstance(seed, bool)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_SPACE = re.compile(r"[ \t\r\n]*")


def _members(text: str, start: int | None = None) -> dict[str, tuple[Any, int, int]]:
    """Each member of the JSON object at ``start``: its value and the value's span in the text; raises ``ValueError``.

    Without ``start`` the object must be all of the text.
    """

    def after(character: str, at: int) -> int:
        at = _skip(text, at)
        if text[at : at + 1] != character:
            raise ValueError(f"no {character} at {at}")
        return _skip(text, at + 1)

    members: dict[str, tuple[Any, int, int]] = {}
    at = after("{", start or 0)
    while text[at : at + 1] != "}":
        name, at = _DECODER.raw_decode(text, at)
        first = after(":", at)
        value, at = _DECODER.raw_decode(text, first)
        if not isinstance(name, str) or name in members:
            raise ValueError(f"no member's name, or a second one: {name}")
        members[name] = value, first, at
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise ValueError(f"no member at {at}")
    if start is None and _skip(text, at + 1) < len(text):
        raise ValueError("text behind the object")
    return members


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
