"""The server under faults of its worker, disk, memory and ffmpeg, and at shutdown.

Faults are injected into the real server from outside: a killed worker, a limit on the size of its files, an ffmpeg that
fails or hangs, and an engine whose step raises torch's error for full CUDA memory.
"""

import ctypes
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from audiocraft_ext.audio.ffmpeg import ffmpeg_path
from predict import Predictor
from tests.support.client import retry_on_409
from tests.support.input_values import data_url
from tests.support.server import COG_FOLDER, ROOT, Server, running

FFMPEG = """#!/bin/sh
test ! -e {faults}/ffmpeg-fails || {{ echo "{faults}: broken" >&2; exit 1; }}
while test -e {faults}/ffmpeg-hangs; do touch {faults}/hanging-$$; sleep 0.1; done
exec {ffmpeg} "$@"
"""
# Python runs it at its start; it changes the worker alone. The file "minutes-are-short" shortens KEEP_OUTPUT_S.
SITE = """
import pathlib, sys
if "_run_worker" in sys.orig_argv[-1]:
    sys.path.insert(0, {root!r})
    import torch
    from audiocraft_ext.engine.engine import Engine
    step = Engine.step
    def failing_step(self):
        predict = sys.modules["predict"]
        predict.KEEP_OUTPUT_S = 0.5 if pathlib.Path({faults!r}, "minutes-are-short").exists() else 60
        if pathlib.Path({faults!r}, "out-of-memory").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        step(self)
    Engine.step = failing_step
"""


PATIENCE_S = 30  # every awaited event takes a few seconds at most
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="inspects and limits processes by Linux's means"),
]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files switch on faults of servers with ``environment(faults)``."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "bin").mkdir()
    ffmpeg = folder / "bin" / "ffmpeg"
    ffmpeg.write_text(FFMPEG.format(faults=folder, ffmpeg=ffmpeg_path()))
    ffmpeg.chmod(0o755)
    (folder / "sitecustomize.py").write_text(SITE.format(root=str(ROOT), faults=str(folder)))
    return folder


def environment(faults: Path) -> dict[str, str]:
    return {"IMAGEIO_FFMPEG_EXE": str(faults / "bin" / "ffmpeg"), "PYTHONPATH": str(faults)}


@pytest.fixture(scope="module")
def faulty(faults: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the faults of the folder."""
    weights = str(ROOT / "weights" / "demo")
    with running(tmp_path_factory.mktemp("faulty"), MUSICGEN_WEIGHTS=weights, **environment(faults)) as server:
        yield server


def predict(server: Server, name: str = "", **inputs: Any) -> dict[str, Any]:
    body = {"input": {"prompt": "kick", "duration": 1, "seed": 1, **inputs}}
    url = f"/predictions/{name}" if name else "/predictions"
    response = retry_on_409(lambda: server.client.request("PUT" if name else "POST", url, json=body))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def in_flight(server: Server, name: str, **inputs: Any) -> Callable[[], dict[str, Any]]:
    """Start a prediction in a thread; returns a function that waits for its answer."""
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(predict(server, name, **inputs)))
    thread.start()

    def answer() -> dict[str, Any]:
        thread.join(60)
        return answers[0]

    return answer


@contextmanager
def present(fault: Path) -> Iterator[Path]:
    """Switch the fault on, at most until the end of the block."""
    fault.touch()
    try:
        yield fault
    finally:
        fault.unlink(missing_ok=True)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def files(server: Server) -> list[Path]:
    return [path for path in server.scratch.rglob("*") if path.is_file()]


def assert_one_sentence(server: Server, answer: dict[str, Any], sentence: str) -> None:
    """The answer is one sentence without server internals; the log has the traceback under its reference."""
    assert answer["status"] == "failed"
    assert sentence in answer["error"]
    for secret in (str(ROOT), str(server.scratch), str(server.scratch.parent), "Traceback", ".py"):
        assert secret not in answer["error"] + answer["logs"]
    reference = answer["error"].split("(")[-1].split(")")[0]
    # The log may be written after the answer.
    wait_until(lambda: "Traceback" in server.log.read_text().partition(f"Error {reference}")[2])


def assert_unhealthy_until(server: Server, repair: Callable[[], object]) -> None:
    """The health check reports a lasting fault, and its end without a prediction by a caller."""
    server.wait_for("UNHEALTHY", timeout_s=20)
    assert server.status() == "UNHEALTHY"
    repair()
    server.wait_for("READY", timeout_s=20)
    assert predict(server)["status"] == "succeeded"


def test_the_health_check_contains_no_path_and_no_environment_value(faulty: Server) -> None:
    health = faulty.client.get("/health-check").text
    assert "Loaded demo on cpu" in health
    assert not [value for value in (str(ROOT), str(faulty.scratch), os.environ["PATH"]) if value in health]


def test_cuda_out_of_memory_fails_predictions_with_a_sentence(faulty: Server, faults: Path) -> None:
    before = predict(faulty)
    with present(faults / "out-of-memory") as fault:
        assert_one_sentence(faulty, predict(faulty), "The server ran out of memory")
        assert_unhealthy_until(faulty, fault.unlink)
    assert predict(faulty)["output"] == before["output"]


def test_out_of_memory_at_setup_is_in_the_health_check(faults: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with present(faults / "out-of-memory"), running(scratch, "SETUP_FAILED", **environment(faults)) as server:
        health = server.client.get("/health-check").json()
        assert "CUDA out of memory" in health["setup"]["logs"]
        assert "Traceback" not in health["setup"]["logs"]
        assert server.client.post("/predictions", json={"input": {"prompt": "x"}}).status_code == 503


def test_a_failing_ffmpeg_fails_predictions_with_a_sentence(faulty: Server, faults: Path) -> None:
    with present(faults / "ffmpeg-fails") as fault:
        assert_one_sentence(faulty, predict(faulty, output_format="mp3"), "The server failed; its log says why")
        assert_unhealthy_until(faulty, fault.unlink)


def test_a_hanging_ffmpeg_does_not_block_a_cancelled_slot(faulty: Server, faults: Path) -> None:
    with present(faults / "ffmpeg-hangs"):
        answers = [in_flight(faulty, f"hanging-{i}", output_format="mp3") for i in range(4)]
        wait_until(lambda: len(list(faults.glob("hanging-*"))) == 4)
        assert faulty.status() == "BUSY"
        for i in range(4):
            assert faulty.client.post(f"/predictions/hanging-{i}/cancel").status_code == 200
        # While each ffmpeg still hangs.
        assert [answer()["status"] for answer in answers] == ["canceled"] * 4
        assert faulty.wait_for("READY", timeout_s=PATIENCE_S) == "READY"
    assert predict(faulty)["status"] == "succeeded"


def test_cog_s_folders_of_a_prediction_are_deleted_later(faulty: Server, faults: Path) -> None:
    name = f"kept-{faulty.process.pid}"
    assert predict(faulty, name)["status"] == "succeeded"
    assert (COG_FOLDER / name / "outputs").is_dir(), "there is nothing to delete, or it was deleted at once"
    with present(faults / "minutes-are-short"):
        assert predict(faulty, name)["status"] == "succeeded"
        # Before the first prediction's minute is over.
        wait_until(lambda: not (COG_FOLDER / name).exists())


def test_a_full_disk_fails_predictions_and_leaves_no_file(faulty: Server) -> None:
    kept = files(faulty)
    limits = resource.prlimit(faulty.worker, resource.RLIMIT_FSIZE)
    resource.prlimit(faulty.worker, resource.RLIMIT_FSIZE, (1000, limits[1]))
    audio = data_url(bytes(100_000))
    try:
        for format in ("wav", "mp3"):
            assert_one_sentence(faulty, predict(faulty, output_format=format), "The server failed")
        assert_one_sentence(faulty, predict(faulty, input_audio=audio), "The server failed")
        assert set(files(faulty)) <= set(kept)
    finally:
        assert_unhealthy_until(faulty, lambda: resource.prlimit(faulty.worker, resource.RLIMIT_FSIZE, limits))


def test_a_killed_worker_fails_its_predictions_and_the_health_check(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with running(scratch) as server:
        answers = [in_flight(server, f"killed-{i}", duration=60) for i in range(4)]
        server.wait_for("BUSY", timeout_s=PATIENCE_S)
        os.kill(server.worker, signal.SIGKILL)
        assert [answer()["error"] for answer in answers] == ["Worker crashed"] * 4
        assert server.wait_for("UNHEALTHY", timeout_s=PATIENCE_S) == "UNHEALTHY"
        time.sleep(1)
        assert server.status() == "UNHEALTHY", "only a restart helps"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0


def test_sigterm_lets_predictions_finish_and_leaves_no_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with running(scratch) as server:
        answers = [in_flight(server, f"last-{i}", duration=6, seed=i) for i in range(3)]
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.client.base_url.join("/health-check"))
        assert [answer()["status"] for answer in answers] == ["succeeded"] * 3
        assert server.process.wait(timeout=10) == 0
        assert list(scratch.iterdir()) == []


def test_a_killed_server_ends_its_worker(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with running(scratch) as server:
        worker = server.worker
        threading.Timer(1, server.process.kill).start()
        with pytest.raises(httpx.TransportError):
            predict(server, duration=120)
        wait_until(lambda: not _is_running(worker))
        assert list(scratch.iterdir()) == []


def _is_running(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Within, root obeys file permissions, in this thread and its new ones (capabilities(7))."""
    libc, version_3, override = ctypes.CDLL(None, use_errno=True), 0x20080522, 1 << 1
    header, sets = (ctypes.c_uint32 * 2)(version_3, 0), (ctypes.c_uint32 * 6)()

    def call(function: Callable[..., int]) -> None:
        if function(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "this thread's capabilities are not known, or cannot be changed")

    call(libc.capget)
    effective = sets[0]
    sets[0] = effective & ~override
    call(libc.capset)
    try:
        yield
    finally:
        sets[0] = effective
        call(libc.capset)


def test_read_only_weights_are_served_and_left_unchanged(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(ROOT / "weights" / "demo", weights, ignore=shutil.ignore_patterns("train"))
    for path in (weights, *weights.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in (weights, *weights.rglob("*"))}
    with bound_by_permissions():
        with pytest.raises(PermissionError):
            (weights / "new").touch()
        Predictor().setup(str(weights))  # ends with a second of music
    assert {path: path.stat().st_mtime_ns for path in (weights, *weights.rglob("*"))} == before


def test_setup_fails_without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("imageio_ffmpeg._utils._get_ffmpeg_exe", lambda: None)
    with pytest.raises(RuntimeError, match="No ffmpeg"):
        Predictor().setup("weights/demo")
