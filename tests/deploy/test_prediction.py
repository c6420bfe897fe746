"""A request's id and seed, put into the caller's own text."""

import json
from typing import Any

import pytest

from deploy.prediction import MAX_ADAPTER_CHARACTERS, Answer, Prediction, read

HEADERS = {"content-type": "application/json"}


def post(body: str | bytes, path: str = "/predictions", **headers: str) -> Prediction:
    data = body.encode() if isinstance(body, str) else body
    return read("PUT" if path.count("/") > 1 else "POST", path, HEADERS | headers, data)


ACCEPTED = [
    '{"input":{"prompt":"x"}}',
    '{ "input" : { "prompt" : "x" } }\n',
    '{"input":{},"context":{}}',
    '{"context":{"a":"b"},"input":{"prompt":"\\"seed\\":5,\\u266a ♪","duration":1e0},"webhook":null}',
    '{"input":{"prompt":"x","seed":-1,"top_k":250},"webhook_events_filter":["completed"]}',
]


@pytest.mark.parametrize("body", ACCEPTED)
def test_only_an_id_and_a_seed_are_added(body: str) -> None:
    sent = json.loads(post(body).body)
    seed, expected = sent["input"].pop("seed"), json.loads(body)
    assert 0 <= seed < 2**32
    assert sent.pop("id").startswith("pred_")
    expected["input"].pop("seed", None)
    assert sent == expected


@pytest.mark.parametrize("body", ACCEPTED)
def test_the_echo_is_the_caller_s_input(body: str) -> None:
    first = post(body, "/predictions/mine")
    compact = json.dumps({"id": "mine", **json.loads(first.body)}, separators=(",", ":"), ensure_ascii=False)
    assert json.loads(first.as_sent(compact.encode()))["input"] == json.loads(body)["input"]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_given_seed_and_id_stay(seed: int) -> None:
    body = f'{{"input":{{"prompt":"x","seed":{seed}}},"id":"mine"}}'
    prediction = post(body)
    assert prediction.body == body.encode()
    assert (prediction.id, prediction.seed) == ("mine", None)


def test_an_id_of_the_path_is_not_added_to_the_body() -> None:
    prediction = post('{"input":{"seed":1}}', "/predictions/a%20b")
    assert (prediction.id, prediction.body) == ("a b", b'{"input":{"seed":1}}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"input":5}',
        b'{"input":null}',
        b'{"input":{"temperature":NaN}}',
        b'{"input":{},"input":{}}',
        b'{"input":{}} {}',
        b'{"input":{},"context":null}',
        b'{"input":{},"context":{"a":5}}',
        b'{"input":{},"id":5}',
        b'{"input":{},"webhook":5}',
        b'{"input":{},"webhook_events_filter":["never"]}',
        b'{"input":' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_a_body_that_cog_refuses_passes_unchanged(body: bytes) -> None:
    assert post(body).body == body


def test_a_second_object_s_name_is_no_member() -> None:
    """The seed goes into ``input``, wherever else the word stands."""
    sent = json.loads(post('{"context":{"input":"{","seed":"1"},"input":{"prompt":"seed"}}').body)
    assert sent["context"] == {"input": "{", "seed": "1"}
    assert isinstance(sent["input"]["seed"], int)


def test_what_the_cluster_reads_of_a_request() -> None:
    body = '{"input":{"duration":3},"context":{"adapter":"bass:0.5"},"webhook":"https://example.com/","webhook_events_filter":["start"]}'
    prediction = post(body, prefer="respond-async")
    assert (prediction.adapter, prediction.webhook, prediction.duration_s) == ("bass:0.5", "https://example.com/", 3)
    assert prediction.is_async
    assert not prediction.is_completion_wanted
    assert post('{"input":{}}').is_completion_wanted
    assert post(f'{{"input":{{}},"context":{{"adapter":"{"x" * (MAX_ADAPTER_CHARACTERS + 1)}"}}}}').adapter == ""
    assert json.loads(prediction.with_webhook("http://other/"))["webhook"] == "http://other/"


@pytest.mark.parametrize(
    ("body", "is_lost"),
    [
        ({"error": "Worker crashed", "id": "x", "status": "failed"}, True),
        ({"error": "Failed to send request: Broken pipe", "id": "x", "status": "failed"}, True),
        (
            {"error": "Prediction failed: Async prediction failed: InputError: Worker crashed", "status": "failed"},
            False,
        ),
        ({"id": "Worker crashed", "output": "x", "status": "succeeded"}, False),
    ],
)
def test_only_cog_s_own_report_of_a_dead_worker_is_a_loss(body: dict[str, Any], is_lost: bool) -> None:
    answer = Answer(200, {}, json.dumps(body, separators=(",", ":")).encode())
    assert answer.is_lost == is_lost
    assert answer.outcome == body["status"]
    assert Answer(422, {}, b"{}").outcome == "422"
