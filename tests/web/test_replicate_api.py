"""Replicate's own clients, of PyPI and npm, against this server: nothing but the address is changed."""

import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import replicate
import soundfile
from replicate.exceptions import ModelError, ReplicateError

from tests.support.client import file_in, retry_on_409
from tests.support.server import ROOT

MODEL = "owner/name"
VERSION = "a" * 64
SHORT = {"prompt": "kick and bass", "duration": 1, "seed": 5}
LONG = {"prompt": "kick and bass", "duration": 200}
CLIENT_OF_NPM = "replicate@1.4.0"
SOON_S = 5


@pytest.fixture
def client(web: str) -> replicate.Client:
    return replicate.Client(api_token="any", base_url=web)


@pytest.fixture
def hooks() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a caller's webhook, and what arrives there."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()


def run(client: replicate.Client, ref: str = MODEL, **inputs: Any) -> bytes:
    output: Any = client.run(ref, input=SHORT | inputs)
    content: bytes = output.read()
    return content


def seconds(data: bytes) -> float:
    return float(soundfile.info(io.BytesIO(data)).duration)


@pytest.mark.parametrize("ref", [MODEL, f"{MODEL}:{VERSION}"])
def test_run_gives_the_server_s_own_file(client: replicate.Client, server: httpx.Client, ref: str) -> None:
    expected = retry_on_409(lambda: server.post("/predictions", json={"input": SHORT})).json()
    assert run(client, ref) == file_in(expected)


def test_a_prediction_is_followed_to_its_end(client: replicate.Client) -> None:
    prediction = client.predictions.create(version=VERSION, input={**SHORT, "duration": 30})
    assert prediction.status in ("starting", "processing")
    prediction.wait()
    assert prediction.status == "succeeded"
    assert prediction.progress is not None
    assert prediction.progress.percentage == 1
    assert prediction.metrics is not None
    assert prediction.metrics["seed"] == 5
    assert "Using seed 5" in (prediction.logs or "")
    assert (prediction.model, prediction.version) == ("local/musicgen", VERSION)
    assert None not in (prediction.created_at, prediction.started_at, prediction.completed_at)
    again = client.predictions.get(prediction.id)
    assert again.output == prediction.output
    assert client.predictions.list().results[0].id == prediction.id


def test_a_wait_that_is_over_leaves_the_prediction_running(client: replicate.Client) -> None:
    prediction = client.models.predictions.create(MODEL, input={**SHORT, "duration": 20}, wait=1)
    assert prediction.status == "starting"  # any other status is final to clients
    prediction.wait()
    assert prediction.status == "succeeded"
    assert prediction.model == MODEL


def test_a_cancelled_prediction_ends_at_once_and_frees_its_slot(client: replicate.Client) -> None:
    prediction = client.predictions.create(version=VERSION, input=LONG)
    start = time.monotonic()
    prediction.cancel()
    assert prediction.status == "canceled"
    assert time.monotonic() - start < SOON_S
    prediction.cancel()
    assert client.predictions.get(prediction.id).status == "canceled"
    assert client.run(MODEL, input=SHORT) is not None


@pytest.mark.slow
def test_more_predictions_than_slots_wait_in_line(client: replicate.Client) -> None:
    made = [client.predictions.create(version=VERSION, input={**LONG, "duration": 10}) for _ in range(7)]
    assert "starting" in [prediction.status for prediction in made]
    made[-1].cancel()
    assert made[-1].status == "canceled"
    for prediction in made:
        prediction.wait()
    assert [prediction.status for prediction in made] == ["succeeded"] * 6 + ["canceled"]


def test_what_the_predictor_refuses_is_a_failed_prediction(client: replicate.Client) -> None:
    with pytest.raises(ModelError, match=r"duration: -3 is outside its range\. Use a number from 1 to 300"):
        client.run(MODEL, input={"prompt": "x", "duration": -3})


@pytest.mark.parametrize("body", [{"prompt": "x", "duration": "long"}, {"prompt": "x", "top_k": 1.5}])
def test_what_the_schema_refuses_is_refused_at_once(client: replicate.Client, body: dict[str, Any]) -> None:
    with pytest.raises(ReplicateError, match="is not of type") as refusal:
        client.run(MODEL, input=body)
    assert refusal.value.status == 422


@pytest.mark.parametrize("strategy", ["base64", "url"])
def test_a_file_is_an_input_in_both_of_the_client_s_ways(client: replicate.Client, strategy: Any) -> None:
    data = run(client, duration=2)
    inputs = {**SHORT, "duration": 4, "continuation": True, "input_audio": io.BytesIO(data)}
    output: Any = client.run(MODEL, input=inputs, file_encoding_strategy=strategy)
    made = output.read()
    assert seconds(made) == 4
    begin, _ = soundfile.read(io.BytesIO(data), frames=32000)
    continued, _ = soundfile.read(io.BytesIO(made), frames=32000)
    assert abs(begin - continued).mean() < 0.5 * abs(begin).mean()


def test_files_are_listed_and_deleted(client: replicate.Client) -> None:
    file = client.files.create(io.BytesIO(b"sound"), metadata={"of": "a test"})
    assert (file.size, file.metadata) == (5, {"of": "a test"})
    assert client.files.get(file.id).checksums == file.checksums
    assert file.id in [one.id for one in client.files.list()]
    client.files.delete(file.id)
    with pytest.raises(ReplicateError, match="There is no file"):
        client.files.get(file.id)


def test_webhooks_report_start_and_end(client: replicate.Client, hooks: tuple[str, list[dict[str, Any]]]) -> None:
    address, received = hooks
    events: Any = ["start", "completed"]
    prediction = client.predictions.create(
        version=VERSION, input={**SHORT, "duration": 20}, webhook=address, webhook_events_filter=events
    )
    prediction.wait()
    deadline = time.monotonic() + SOON_S
    while len(received) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [state["status"] for state in received] == ["processing", "succeeded"]
    assert {state["id"] for state in received} == {prediction.id}
    assert received[1]["output"] == prediction.output


def test_streaming_and_foreign_parts_end_in_a_sentence(client: replicate.Client) -> None:
    with pytest.raises(ReplicateError, match="Model does not support streaming"):
        list(client.stream(MODEL, input=SHORT))
    with pytest.raises(ReplicateError, match="nothing else of Replicate's API"):
        client.collections.list()
    with pytest.raises(ReplicateError, match="There is no prediction 'unknown'"):
        client.predictions.get("unknown")


def test_the_document_s_snippet_works_as_written(web: str, tmp_path: Path) -> None:
    [snippet] = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "page.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "client.py").write_text(snippet.replace("http://127.0.0.1:5001", web))
    subprocess.run([sys.executable, "client.py"], cwd=tmp_path, check=True)
    assert soundfile.info(tmp_path / "bass.wav").duration == 4


def test_the_model_has_the_server_s_schema(client: replicate.Client, server: httpx.Client) -> None:
    version = client.models.get(MODEL).latest_version
    assert version is not None
    assert version.openapi_schema == server.get("/openapi.json").json()
    assert client.models.get(MODEL).versions.get(version.id).id == version.id


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "The body is not JSON: Expecting value"),
        (b"[]", "The body is not a JSON object"),
        (b'{"input": 3}', "The body is not a JSON object with an object as its input."),
        (b"\xff", "The body is not JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "The body is not JSON: it is nested too deeply."),
        (b'{"input": {"prompt": "\\ud800"}}', "The body is not JSON: 'utf-8' codec can't encode character"),
        (b'{"input": {"temperature": NaN}}', "The body is not JSON: Out of range float values"),
        (b'{"input": {"temperature": 1e400}}', "The body is not JSON: Out of range float values"),
        (b'{"webhook": 5}', "webhook: 5 is not an http or https URL."),
        (b'{"webhook": "ftp://x"}', "webhook: 'ftp://x' is not an http or https URL."),
        (b'{"webhook_events_filter": 5}', "webhook_events_filter: 5 is not a list of some of start, output"),
        (b'{"webhook_events_filter": "completed"}', "webhook_events_filter: 'completed' is not a list of some of"),
        (b'{"webhook_events_filter": [["start"]]}', "webhook_events_filter: [['start']] is not a list of some of"),
    ],
)
def test_a_body_that_is_no_request_is_refused(web: str, content: bytes, sentence: str) -> None:
    answer = httpx.post(f"{web}/v1/predictions", content=content)
    assert (answer.status_code, answer.json()["title"]) == (422, "Request failed")
    assert answer.json()["detail"].startswith(sentence)


@pytest.mark.parametrize("metadata", ["{", "NaN"])
def test_metadata_that_cannot_be_sent_back_is_refused(web: str, metadata: str) -> None:
    answer = httpx.post(f"{web}/v1/files", files={"content": b"x", "metadata": metadata})
    assert (answer.status_code, answer.json()["detail"]) == (422, "The metadata is not JSON.")
    assert httpx.get(f"{web}/v1/files").status_code == 200


def test_reports_need_the_secret_that_cog_was_given(web: str, client: replicate.Client) -> None:
    prediction = client.predictions.create(version=VERSION, input=SHORT)
    forged = httpx.post(f"{web}/hooks/guess/{prediction.id}", json={"status": "processing", "logs": "forged"})
    assert forged.status_code == 404
    prediction.wait()
    assert "forged" not in (prediction.logs or "")


NPM_CLIENT = """
import Replicate from "replicate";
const client = new Replicate({ auth: "any", baseUrl: process.argv[2] + "/v1" });
const result = {};
const input = { prompt: "kick and bass", duration: 1, seed: 5 };
const sizeOf = async (output) => (await output.blob()).size;
result.run = await sizeOf(await client.run("owner/name", { input }));
const states = [];
const wait = { mode: "poll", interval: 200 };
const long = { ...input, duration: 20 };
result.version = await sizeOf(await client.run("owner/name:abc", { input: long, wait }, (p) => states.push(p.status)));
result.last = states.at(-1);
const begun = await client.predictions.create({ version: "abc", input: { ...input, duration: 200 } });
result.canceled = (await client.predictions.cancel(begun.id)).status;
result.listed = (await client.predictions.list()).results.some(({ id }) => id === begun.id);
result.refused = await client.run("owner/name", { input: { ...input, duration: -1 } }).catch((error) => error.message);
const iterator = client.stream("owner/name", { input });
result.stream = await iterator.next().catch((error) => error.message);
const sound = Buffer.from(await (await client.run("owner/name", { input })).arrayBuffer?.() ?? []);
const file = await client.files.create(Buffer.from("sound"));
result.deleted = await client.files.delete(file.id);
console.log(JSON.stringify(result));
"""


@pytest.mark.slow
def test_the_client_of_npm_works_unchanged(web: str, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm here")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), CLIENT_OF_NPM]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"{CLIENT_OF_NPM} cannot be installed here")
    (tmp_path / "client.mjs").write_text(NPM_CLIENT)
    done = subprocess.run(["node", "client.mjs", web], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert 60_000 < result["run"] < 70_000 < result["version"]
    assert (result["last"], result["canceled"], result["listed"], result["deleted"]) == (
        "succeeded",
        "canceled",
        True,
        True,
    )
    assert "duration: -1 is outside its range" in result["refused"]
    assert result["stream"] == "Prediction does not support streaming"
