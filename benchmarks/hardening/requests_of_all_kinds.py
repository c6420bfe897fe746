"""Draw requests of every kind, most of them wrong, from a seed. Sends nothing.

Few are valid, since each of those costs a second of music.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from random import Random

from tests.support import input_values
from tests.support.client import INPUTS, Attempt
from tests.support.input_values import REJECTED, SERVED

METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "post")
# Odd ids, without a slash or space, which would end one. Ids that cannot name a folder (too long, or with a NUL) are
# left out: cog 0.23.1 creates a folder for each id, and loses the slot until a restart if that fails.
ODD_IDS = (
    "..", ".", "...", "%2e%2e%2ffuzz", "%2e%2e%2f%2e%2e%2fcoglet%2ffuzz", "%2Ftmp%2Fcoglet%2Ffuzz", "%ff", "%25",
    "%20", "*", "~", "$(id)", "<script>", "%F0%9F%8E%B5", "-", "--help", "con", "a" * 255, "%", "%0d%0aX:%20y",
)  # fmt: skip
PATHS = (
    "/", "//", "/x", "/predictions/", "//predictions", "/predictions//cancel", "/predictions/../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "/predictions/none/cancel", "/predictions/%00/cancel", "/trainings",
    "/openapi.json", "/health-check", "/docs", "/admin", "/.env", "/.git/config", "/predictions?x=1", "/?" + "a" * 5000,
)  # fmt: skip
MEDIA_TYPES = (
    "text/plain", "text/html", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "*/*",
    "json", "application/json; charset=utf-16", "application/xml", "audio/wav", "application/", "application/jsonp",
)  # fmt: skip
UNKNOWN = (
    "unknown", "self", "", "PROMPT", "prompt ", "__proto__", "__class__", "max_duration_s", "weights", "*", "a.b", "\0",
)  # fmt: skip
RAW = (
    b"\r\n\r\n",
    b"\0" * 100,
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"GET /predictions\r\n",
    b"POST /predictions HTTP/9.9\r\n\r\n",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\nContent-Type: application/json\r\n\r\n{}",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"POST /pre\0dictions HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /\xff\xfe HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 500_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /" + b"a" * 500_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX\0: y\r\nZ: \r\n folded\r\n\r\n",
)
HEADERS = (
    ("Accept", "text/html"),
    ("Accept-Encoding", "gzip, br, x"),
    ("Prefer", "respond-async, wait=-1, wait=x"),
    ("Cookie", ";".join(["a=b"] * 300)),
    ("X-Forwarded-For", "127.0.0.1, ' OR 1=1 --"),
    ("traceparent", "00-zz-zz-zz"),
    ("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff"),
    ("Authorization", "Bearer " + "x" * 5000),
    ("Origin", "null"),
    ("Content-Encoding", "gzip"),
    ("Range", "bytes=0-0"),
    ("If-Match", "*"),
)


def body(values: dict[str, str]) -> bytes:
    """A request as JSON, from the JSON text of each input's value."""
    return b'{"input": {' + ", ".join(f"{json.dumps(name)}: {text}" for name, text in values.items()).encode() + b"}}"


def _valid_inputs(random: Random) -> dict[str, str]:
    """Valid values of some inputs; always a duration of one second and a prompt."""
    names = random.sample(sorted(SERVED), random.randrange(5))
    return {name: input_values.draw_served(random, name) for name in ["prompt", "duration", *names]}


def one_bad_input(random: Random) -> Attempt:
    name = random.choice(sorted(REJECTED))
    values = {**_valid_inputs(random), name: input_values.draw_rejected(random, name)}
    return Attempt("one bad input", body(values), expected="refused", names=frozenset({name}))


def several_bad_inputs(random: Random) -> Attempt:
    names = random.sample(sorted(REJECTED), random.randrange(2, 6))
    values = {**_valid_inputs(random), **{name: input_values.draw_rejected(random, name) for name in names}}
    return Attempt("several bad inputs", body(values), expected="refused", names=frozenset(names))


def bad_audio_url(random: Random) -> Attempt:
    values = {**_valid_inputs(random), "input_audio": json.dumps(input_values.bad_audio_url(random))}
    if random.random() < 0.3:
        values["continuation"] = "true"
    return Attempt("bad audio URL", body(values), expected="refused", names=frozenset({"input_audio"}))


def inputs_that_contradict(random: Random) -> Attempt:
    """Inputs that are valid one by one and not together."""
    audio = {"input_audio": json.dumps(input_values.WAV_URL), "duration": "1"}
    cases: tuple[tuple[dict[str, str], str], ...] = (
        ({"prompt": '"x"', "continuation": "true"}, "continuation"),
        ({"duration": "1"}, "prompt"),
        ({"duration": "1", "continuation_start": random.choice(("5", "5.0", "1e300")), "prompt": '""'}, ""),
        (
            {**audio, "continuation_start": random.choice(("1", "1e18", "1e300", "9223372036854775808"))},
            "continuation_start",
        ),
        (
            {**audio, "continuation_start": "7", "continuation_end": random.choice(("3", "7", "7.0"))},
            "continuation_start",
        ),
        ({**audio, "continuation_start": "1e300", "continuation_end": "1.1e300"}, "continuation_start"),
    )
    values, name = random.choice(cases)
    if not name:
        return Attempt("contradicting inputs", body(values), expected="accepted")
    return Attempt("contradicting inputs", body(values), expected="refused", names=frozenset({name}))


def good_request(random: Random) -> Attempt:
    values = _valid_inputs(random)
    if random.random() < 0.3:
        values["input_audio"] = json.dumps(input_values.audio_url(random))
    if random.random() < 0.3:
        values[random.choice(UNKNOWN)] = json.dumps(input_values.anything(random))
    return Attempt("good request", body(values), expected="accepted")


def any_json_value(random: Random) -> Attempt:
    """One input with a random value: served, or rejected by name."""
    name = random.choice([name for name in INPUTS if name != "duration"])
    values = {**_valid_inputs(random), name: json.dumps(input_values.anything(random))}
    # A start is validated together with the end.
    names = {name, "continuation_start"} if name == "continuation_end" else {name}
    return Attempt("any JSON value", body(values), names=frozenset(names))


def broken_json(random: Random) -> Attempt:
    """Text that no JSON parser accepts, or that parses as something else."""
    good = body(_valid_inputs(random))
    cut = good[: random.randrange(len(good) - 1)]
    depth = random.choice((10, 127, 128, 129, 10_000))
    choices: tuple[bytes, ...] = (
        cut, cut, cut, random.randbytes(random.randrange(200)), b"\xef\xbb\xbf" + good, good.decode().encode("utf-16"),
        good + b"}", good + good, good.replace(b'"', b"'"), b"// x\n" + good, good[:-1] + b",}", b"\0" + good, b"",
        b"[" * depth, b'{"input": ' + b"[" * depth + b"]" * depth + b"}", b'{"a":' * depth + b"1" + b"}" * depth,
        good.replace(b"{", b'{"prompt": "\xff\xc0\xaf", ', 1), b"NaN", b"-", b"1e", b'"', b"'", b"\\",
        gzip.compress(good),
    )  # fmt: skip
    return Attempt("broken JSON", random.choice(choices))


def flipped_bits(random: Random) -> Attempt:
    """A valid body with a few flipped bits."""
    data = bytearray(body({"prompt": '"kick drum at 120 bpm"', **_valid_inputs(random), "seed": '"x"'}))
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return Attempt("flipped bits", bytes(data))


def odd_document(random: Random) -> Attempt:
    """JSON of a different shape from a prediction's."""
    value = input_values.anything(random)
    documents: tuple[object, ...] = (
        value, {}, [], None, {"input": None}, {"input": value}, {"inputs": {"prompt": "x"}}, {"Input": {}},
        {"input": {}, "webhook": 5}, {"input": {}, "webhook": value}, {"input": {}, "webhook_events_filter": value},
        {"input": {}, "id": random.choice((5, [], {}, None, "../fuzz"))}, {"input": {}, "context": value},
        {"input": {}, "output_file_prefix": value}, {"input": {}, "created_at": value}, {"input": [{"prompt": "x"}]},
        {"input": {"input": {"prompt": "x"}}},
    )  # fmt: skip
    return Attempt("odd document", json.dumps(random.choice(documents)).encode())


def wrong_media_type(random: Random) -> Attempt:
    media_type = random.choice(MEDIA_TYPES)
    headers = (("Content-Type", media_type),) if media_type else ()
    return Attempt("wrong media type", body({"seed": '"x"', "prompt": '"x"'}), headers=headers)


def wrong_path(random: Random) -> Attempt:
    method = random.choice(("POST", *METHODS))
    return Attempt("wrong method or path", body({"seed": '"x"'}), method, random.choice((*PATHS, "/predictions")))


def odd_id(random: Random) -> Attempt:
    """A prediction with the caller's id; most are rejected for their seed."""
    values = {"prompt": '"x"', "duration": "1", "seed": random.choice(('"x"', "-2", "-2", "-2", "1"))}
    identity = random.choice((*ODD_IDS, f"{random.randrange(10**9)}"))
    return Attempt("odd id", body(values), "PUT", f"/predictions/{identity}")


def odd_header(random: Random) -> Attempt:
    headers = (("Content-Type", "application/json"), *random.sample(HEADERS, random.randrange(1, 4)))
    return Attempt("odd header", body({"prompt": '"x"', "seed": "-2"}), headers=headers)


def no_http(random: Random) -> Attempt:
    raw = random.choice(RAW) if random.random() < 0.8 else random.randbytes(random.randrange(1, 2000))
    return Attempt("no HTTP", raw=raw)


KINDS: dict[Callable[[Random], Attempt], int] = {
    one_bad_input: 32,
    several_bad_inputs: 13,
    bad_audio_url: 13,
    inputs_that_contradict: 4,
    good_request: 6,
    any_json_value: 5,
    broken_json: 8,
    flipped_bits: 5,
    odd_document: 4,
    wrong_media_type: 2,
    wrong_path: 3,
    odd_id: 3,
    odd_header: 1,
    no_http: 1,
}


def attempts(n: int, seed: int) -> Iterator[Attempt]:
    """``n`` requests: the same for the same seed."""
    random = Random(seed)
    for _ in range(n):
        [make] = random.choices(list(KINDS), list(KINDS.values()))
        yield make(random)
