"""Fine-tuning as users start it: POST /trainings in cog's train mode, and script/train; and what comes of it."""

import base64
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from audiocraft_ext import musicgen
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from tests.support.server import Server, running
from tests.support.training_data import write_base, write_songs, zip_folder

SCRIPT = Path(__file__).parents[1] / "script" / "train"
SETTINGS: dict[str, Any] = {"steps": 2, "batch_size": 2, "auto_labeling": False, "lora_rank": 2}
MANY_STEPS = 20_000


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("train")
    write_base(folder / "base")
    return {"MUSICGEN_WEIGHTS": str(folder / "base"), "XDG_CACHE_HOME": str(folder / "cache")}


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs") / "songs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), mode="train", **environment) as started:
        yield started


def data_url(songs: Path) -> str:
    return f"data:application/zip;base64,{base64.b64encode(zip_folder(songs)).decode()}"


def train(client: httpx.Client, songs: Path, **inputs: Any) -> httpx.Response:
    return client.post("/trainings", json={"input": {"dataset_path": data_url(songs), **SETTINGS, **inputs}})


def assert_plays(weights: Path) -> None:
    model = musicgen.load(str(weights), "cpu", EngineSettings(), smoke_test=False)
    samples = model.generate(Request(prompt="a tone", duration=1), None, SilentProgress())
    model.close()
    assert samples.abs().max() > 0


def test_a_training_returns_an_archive_that_plays(server: Server, songs: Path, tmp_path: Path) -> None:
    answer = train(server.client, songs).json()
    assert answer["status"] == "succeeded", answer["error"]
    weights = tmp_path / "trained_model.tar"
    weights.write_bytes(base64.b64decode(answer["output"]["weights"].split(",")[1]))
    with tarfile.open(weights) as tar:
        assert "adapter_config.json" in tar.getnames()
    assert_plays(weights)
    assert answer["metrics"]["step"] == 2
    assert {"loss", "held_out"} <= answer["metrics"].keys()
    assert "100% step 2/2 loss " in answer["logs"]
    assert "Training on 3 songs" in answer["logs"]


@pytest.mark.parametrize("inputs", [{"steps": 0}, {"lora_rank": 1000}, {"method": "dora"}, {"dataset_path": None}])
def test_the_schema_rejects_an_input_out_of_bounds(server: Server, songs: Path, inputs: dict[str, Any]) -> None:
    response = train(server.client, songs, **inputs)
    assert response.status_code == 422
    assert next(iter(inputs)) in response.text


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"lr": 1}, "lr: 1 is for dadam, which sets its own rate. Leave lr out, or try 2e-4."),
        ({"optimizer": "dadam"}, "optimizer: 'dadam' sets its own learning rate"),
        ({"dataset_path": "data:text/plain;base64,bm8gbXVzaWM="}, "dataset_path: "),
    ],
)
def test_a_training_that_cannot_be_run_fails_with_a_sentence(
    server: Server, songs: Path, inputs: dict[str, Any], sentence: str
) -> None:
    answer = train(server.client, songs, **inputs).json()
    assert answer["status"] == "failed"
    assert sentence in answer["error"]  # after cog's own words


@pytest.mark.slow
def test_a_cancelled_training_is_saved_and_frees_the_server(
    server: Server, environment: dict[str, str], songs: Path
) -> None:
    body = {"input": {"dataset_path": data_url(songs), **SETTINGS, "steps": MANY_STEPS, "save_every": MANY_STEPS}}
    headers = {"Prefer": "respond-async"}
    assert server.client.put("/trainings/mine", json=body, headers=headers).status_code == 202
    deadline = time.monotonic() + 120
    while not server.client.put("/trainings/mine", json=body, headers=headers).json().get("metrics", {}).get("step"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server.client.post("/trainings/mine/cancel").status_code == 200
    trainings = Path(environment["XDG_CACHE_HOME"]) / "musicgen" / "trainings"
    while not list(trainings.glob("*/state/state.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server.wait_for("READY", timeout_s=30)
    assert train(server.client, songs, lr=1).json()["status"] == "failed"  # it serves again


def run_script(*arguments: str, environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def flags(**inputs: Any) -> list[str]:
    return [f"-i{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in inputs.items()]


def test_the_script_writes_an_archive_that_plays(environment: dict[str, str], songs: Path, tmp_path: Path) -> None:
    arguments = flags(dataset_path=songs, trigger_word="zonk", **SETTINGS)
    child = run_script(*arguments, "-o", "my.tar", environment=environment, folder=tmp_path)
    printed, _ = child.communicate(timeout=300)
    assert child.returncode == 0, printed
    lines = printed.splitlines()
    assert lines[0] == "Training on songs; the result will be my.tar."
    assert lines[-2:] == ["Written output to: my.tar", "Listen: MUSICGEN_WEIGHTS=my.tar make serve"]
    assert [path.name for path in tmp_path.iterdir()] == ["my.tar"]
    assert_plays(tmp_path / "my.tar")


def test_a_result_that_cannot_be_moved_is_kept(environment: dict[str, str], songs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = [*flags(dataset_path=songs, **SETTINGS), "-o", str(out / "my.tar")]
    child = run_script(*arguments, environment=environment, folder=tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline().startswith("Training on songs")
    out.rmdir()
    printed, _ = child.communicate(timeout=300)
    assert child.returncode == 1
    last = printed.splitlines()[-1]
    found = re.fullmatch(
        r".*/my\.tar cannot be written: No such file or directory\. The result is (.*): move it\.", last
    )
    assert found, printed
    assert_plays(Path(found[1]))


@pytest.mark.slow
def test_an_interrupt_saves_and_the_same_command_goes_on(
    environment: dict[str, str], songs: Path, tmp_path: Path
) -> None:
    arguments = flags(dataset_path=songs, **{**SETTINGS, "steps": 400, "save_every": 400})
    child = run_script(*arguments, environment=environment, folder=tmp_path)
    assert child.stdout is not None
    printed = ""
    while " step 5/" not in printed and " step 1" not in printed:
        line = child.stdout.readline()
        assert line, printed
        printed += line
    child.send_signal(signal.SIGINT)
    rest, _ = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGINT, printed + rest
    assert rest.splitlines()[-1] == "Saved: the same command goes on from here."
    again, _ = run_script(*arguments, environment=environment, folder=tmp_path).communicate(timeout=300)
    assert "Resumed after step " in again
    assert (tmp_path / "trained_model.tar").exists()


REFUSED = [
    ([], "dataset_path: it is missing. Name a zip or tar archive, a folder, or one audio file."),
    (["-idataset_path=@no.zip"], "dataset_path: there is no file no.zip. Name a zip or tar archive, a folder, or one audio file."),  # noqa: E501
    (["-idataset_path=.", "-ilr=1"], "lr: 1 is for dadam, which sets its own rate. Leave lr out, or try 2e-4."),
    (["-idataset_path=.", "-isteps=many"], "steps: 'many' is not an integer. Send an integer."),
    (["-idataset_path=.", "-o", "/proc/x.tar"], "-o /proc/x.tar: /proc cannot be written to: No such file or directory. Name a file in another folder."),  # noqa: E501
    (["-idataset_path=.", "-o", "no/x.tar"], "-o no/x.tar: there is no folder no. Name a file in a folder that exists."),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_a_mistake_is_answered_before_torch_is_imported(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    *imports, answer = done.stderr.splitlines()
    assert (done.returncode, done.stdout, answer) == (1, "", sentence)
    assert not {line.split("|")[-1].strip().split(".")[0] for line in imports} & {"torch", "numpy", "cog", "audiocraft"}
