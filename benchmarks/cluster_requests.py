"""The requests of benchmarks/cluster.py: four kinds of music, and thirty that are refused."""

import base64
import io
import json
import math
import re
import struct
import wave
from typing import Any

KINDS = ("text", "continuation", "melody", "mp3")
JSON = {"content-type": "application/json"}
Request = tuple[str, str, dict[str, str], bytes]


def tone(seconds: int, rate: int = 32000) -> str:
    """A data URL of a wav with four notes a second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, rate, 0, "NONE", ""))
        notes = (220, 262, 330, 440)
        values = (9000 * math.sin(2 * math.pi * notes[i * 4 // rate % 4] * i / rate) for i in range(seconds * rate))
        wav.writeframes(b"".join(struct.pack("<h", int(value)) for value in values))
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()


TONE = tone(2)


def inputs_of(kind: str, seed: int) -> dict[str, Any]:
    """A short prediction of this kind."""
    inputs: dict[str, Any] = {"prompt": "dark electro with kick and bass", "duration": 1, "seed": seed}
    if kind == "continuation":
        return inputs | {"input_audio": TONE, "continuation": True, "duration": 3}
    if kind == "melody":
        return inputs | {"input_audio": TONE}
    return inputs | ({"output_format": "mp3"} if kind == "mp3" else {})


def bad_requests() -> list[Request]:
    """Thirty requests that cog or the predictor refuses, each in its own way."""
    refused: list[dict[str, Any]] = [
        {},
        {"prompt": "x", "duration": 0},
        {"prompt": "x", "duration": 10**12},
        {"prompt": "x", "duration": "long"},
        {"prompt": "x", "duration": 1.5},
        {"prompt": "x", "seed": -2},
        {"prompt": "x", "seed": 2**32},
        {"prompt": "x", "seed": 10**25},
        {"prompt": "x", "seed": None},
        {"prompt": "x", "top_k": -1},
        {"prompt": "x", "top_p": 1.5},
        {"prompt": "x", "temperature": -1},
        {"prompt": "x", "continuation": True},
        {"prompt": "x", "output_format": "flac"},
        {"prompt": 5},
        {"input_audio": "file:///etc/passwd"},
        {"input_audio": "data:audio/wav;base64,AAAA", "seed": 1},
    ]
    bodies = [json.dumps({"input": inputs}).encode() for inputs in refused]
    bodies += [
        b'{"input": {"prompt": "x", "temperature": NaN}}',
        b'{"input": {"prompt": "x"}, "context": {"a": 5}}',
        b'{"input": {"prompt": "x"}, "webhook": 5}',
        b'{"input": {"prompt": "x"}, "webhook": "", "webhook_events_filter": ["never"]}',
        b'{"input": {"prompt": "x"}, "input": {"prompt": "x"}}',
        b'{"input": 5}',
        b"[]",
        b"{",
        b"",
    ]
    posts: list[Request] = [("POST", "/predictions", JSON, body) for body in bodies]
    others: list[Request] = [
        ("POST", "/predictions", {"content-type": "text/plain"}, b'{"input": {"prompt": "x"}}'),
        ("PUT", "/predictions/one", JSON, b'{"id": "two", "input": {"prompt": "x"}}'),
        ("POST", "/predictions/unknown/cancel", {}, b""),
        ("GET", "/predictions/unknown", {}, b""),
    ]
    return posts + others


def normalize(text: str) -> str:
    """An answer without what differs from one request to the next."""
    return re.sub(r"pred_[0-9a-f]{16}", "pred_ID", re.sub(r'"predict_time":[0-9.e-]+', '"predict_time":0', text))
