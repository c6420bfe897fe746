"""The Predictor in this process: its files, memory, threads and settings."""

import asyncio
import dataclasses
import json
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import predict
from audiocraft_ext import musicgen, service
from audiocraft_ext.errors import Cancelled, CheckpointError, InputError
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.service import SWITCH_INTERVAL_S, ServerError
from audiocraft_ext.settings import EngineSettings
from predict import Predictor
from tests.support import tiny
from tests.support.memory import resident_bytes

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "openapi.json").read_text())["components"]["schemas"]["Input"]["properties"]
DEFAULTS = {name: schema["default"] for name, schema in SCHEMA.items()}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    predictor = Predictor()
    predictor.setup("weights/demo")
    return predictor


def ask(predictor: Predictor, **inputs: Any) -> Any:
    return predictor.predict(**{**DEFAULTS, "prompt": "kick", "duration": 1, **inputs})


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "engine"}


def files(predictor: Predictor) -> list[Path]:
    return list(predictor.service.folder.iterdir())


def test_python_threads_are_switched_often(predictor: Predictor) -> None:
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)


def test_an_output_is_deleted_after_cog_has_read_it(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "KEEP_OUTPUT_S", 0.3)

    async def life() -> None:
        path = await ask(predictor)
        assert path.stat().st_size > 60_000
        await asyncio.sleep(0.5)
        assert files(predictor) == []

    asyncio.run(life())


@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.0])
def test_a_cancelled_prediction_ends_early_and_leaves_no_file(predictor: Predictor, after_s: float) -> None:
    async def life() -> None:
        task = asyncio.create_task(ask(predictor, duration=300))
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.wait([task], timeout=5)  # 0.8 s at most; all of its music takes forty
        assert task.cancelled()

    asyncio.run(life())
    assert files(predictor) == []


def test_a_refused_prediction_leaves_no_file(predictor: Predictor, tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    with pytest.raises(ValueError, match="input_audio"):
        asyncio.run(ask(predictor, input_audio=text))
    assert files(predictor) == []


def test_a_file_from_a_url_is_deleted_after_its_use(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="input_audio: the file is not audio"):
        asyncio.run(ask(predictor, input_audio="data:audio/wav;base64,bm8gYXVkaW8="))
    assert files(predictor) == []


def test_cancelled_predictions_of_a_slow_url_occupy_no_thread(predictor: Predictor) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.1)

    async def life() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1")
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.wav"
        tasks = [asyncio.create_task(ask(predictor, input_audio=url)) for _ in range(2 * predict.MAX_CONCURRENCY + 1)]
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5)
        assert all(task.cancelled() for task in tasks)
        async with asyncio.timeout(10):
            (await ask(predictor)).unlink()
        server.close()

    asyncio.run(life())


def test_an_unexpected_error_is_a_sentence_and_a_traceback_in_the_log(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("/secret/path")

    monkeypatch.setattr(predictor.service.model, "generate", broken)
    with pytest.raises(ServerError) as raised:
        asyncio.run(ask(predictor))
    assert str(raised.value).startswith("The server failed; its log says why (")
    assert "secret" not in str(raised.value)
    assert str(raised.value)[-10:-2] in caplog.text
    assert "Traceback" in caplog.text
    assert "/secret/path" in caplog.text


def test_the_health_check_fails_only_while_predictions_do(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = predictor.service.model.generate
    can_fail = {"once": True, "always": True}

    def failing(request: Any, *others: Any) -> torch.Tensor:
        if can_fail["always"] or (can_fail["once"] and request.seed == 13):
            raise torch.OutOfMemoryError
        return generate(request, *others)

    async def health_after_a_failure() -> bool:
        with pytest.raises(ServerError, match="out of memory"):
            await ask(predictor, seed=13)
        assert predictor.service.probe is not None
        await predictor.service.probe
        return await predictor.healthcheck()

    async def life() -> None:
        assert not await health_after_a_failure()
        can_fail["always"] = False
        assert predictor.service.probe is not None
        await predictor.service.probe
        assert await predictor.healthcheck()
        assert await health_after_a_failure()

    monkeypatch.setattr(predictor.service.model, "generate", failing)
    asyncio.run(life())


def test_only_a_prediction_s_own_folders_are_deleted_and_only_when_unused(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(predict, "COG_FOLDER", tmp_path / "cog")
    monkeypatch.setattr(predictor, "running", {"again"})
    folders = {tmp_path / name for name in ("cog/mine", "cog/another", "cog/again", "cog", "outside", "")}
    for folder in folders:
        (folder / "inputs").mkdir(parents=True)
        (folder / "outputs").mkdir()
    for name in ("mine", "again", "", ".", "..", "../outside", str(tmp_path / "outside")):
        predictor._remove_cog_folders(name)
    assert {folder for folder in folders if folder.exists()} == folders - {tmp_path / "cog/mine"}
    assert all((folder / "outputs").exists() for folder in folders - {tmp_path / "cog/mine"})


def test_as_many_predictions_run_as_cog_reads_in_the_decorator() -> None:
    decorators = re.findall(r"@cog\.concurrent\(max=(\d+)\)", Path(predict.__file__).read_text())
    assert decorators == [str(predict.MAX_CONCURRENCY)]


class _Ending(Progress):
    """Stops itself at its n-th check."""

    def __init__(self, n_checks: int) -> None:
        super().__init__()
        self.n_checks = n_checks

    def check(self) -> None:
        self.n_checks -= 1
        if self.n_checks == 0:
            self.stop()
        super().check()


def test_a_cancel_ends_a_prediction_before_and_while_reading_audio(predictor: Predictor, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", [0.1, -0.1] * 16000, 32000)
    request = Request(input_audio=tmp_path / "a.wav", duration=2, continuation=True)
    for n_checks in (1, 2):
        progress = _Ending(n_checks)
        with pytest.raises(Cancelled):
            predictor.service._predict(request, tmp_path / "out.wav", progress)
        assert progress.n_checks == 0
        assert progress.n_frames == 0
    assert files(predictor) == []


def test_no_more_of_a_long_clip_is_read_than_is_used(predictor: Predictor, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(20 * 60 * 8000), 8000)
    request = Request(input_audio=tmp_path / "a.flac", duration=2, continuation_start=5)
    clip = predictor.service._read_clip(request, Progress())
    assert clip is not None
    assert clip.duration_s == predictor.service.model.max_input_s(request) < 60
    with pytest.raises(InputError, match="more than 2 s"):
        predictor.service._read_clip(dataclasses.replace(request, continuation=True), Progress())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_malloc_s_free_memory_is_returned_after_a_pause(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "KEEP_OUTPUT_S", 0.2)

    async def life() -> None:
        await ask(predictor)
        blocks = [torch.ones(2**14) for _ in range(1024)]
        kept, blocks = blocks[1::2], []
        before = resident_bytes()
        await asyncio.sleep(0.5)
        assert before - resident_bytes() > 16 * 2**20
        assert all(block.eq(1).all() for block in kept)

    asyncio.run(life())


def test_the_longest_duration_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_MAX_DURATION", "2")
    predictor = Predictor()
    predictor.setup("weights/demo")
    with pytest.raises(ValueError, match="from 1 to 2"):
        asyncio.run(ask(predictor, duration=3))


@pytest.mark.parametrize(("variable", "value"), [("MUSICGEN_ENGINE", "upstream"), ("MUSICGEN_QUANTIZE", "int8")])
def test_the_environment_chooses_engine_and_quantization(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    predictor = Predictor()
    predictor.setup("weights/demo")
    assert asyncio.run(ask(predictor, seed=1)).stat().st_size > 60_000


def test_queued_predictions_give_the_same_files_as_alone(predictor: Predictor) -> None:
    async def bytes_of(seed: int) -> bytes:
        return bytes((await ask(predictor, seed=seed)).read_bytes())

    async def at_once() -> list[bytes]:
        return await asyncio.gather(*(bytes_of(seed) for seed in range(10)))

    together = asyncio.run(at_once())
    assert together == [asyncio.run(bytes_of(seed)) for seed in range(10)]
    assert len(set(together)) == 10


def test_a_second_setup_serves_its_weights_and_ends_the_first_engine(tmp_path: Path) -> None:
    predictor = Predictor()
    predictor.setup("weights/demo")
    demo = asyncio.run(ask(predictor, seed=1)).read_bytes()
    predictor.setup(str(tiny.write(tmp_path, "text")))
    other = asyncio.run(ask(predictor, seed=1)).read_bytes()
    predictor.setup("weights/demo")
    assert asyncio.run(ask(predictor, seed=1)).read_bytes() == demo != other
    before = engine_threads()
    predictor.setup("weights/demo")
    assert len(engine_threads()) == len(before)
    assert engine_threads() != before


def test_a_set_up_that_fails_leaves_no_service_and_the_next_one_serves(tmp_path: Path) -> None:
    predictor = Predictor()
    predictor.setup("weights/demo")
    asyncio.run(ask(predictor))
    first, threads = predictor.service, set(threading.enumerate())
    with pytest.raises(CheckpointError):
        predictor.setup(str(tmp_path / "missing"))
    assert not first.folder.exists()
    ended = threads - set(threading.enumerate())
    assert {thread.name.partition("_")[0] for thread in ended} == {"engine", "prediction"}
    assert not hasattr(predictor, "service")
    predictor.setup("weights/demo")
    assert asyncio.run(ask(predictor)).stat().st_size > 60_000


def test_the_time_to_load_is_in_the_first_caller_s_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, metrics = Predictor(), dict[str, Any]()
    predictor.setup("weights/demo")
    monkeypatch.setattr(predictor, "record_metric", metrics.__setitem__, raising=False)

    async def life() -> None:
        await predictor.service._probe()
        await ask(predictor)

    asyncio.run(life())
    assert metrics["load_s"] > 0


def test_a_checkpoint_without_music_fails_at_setup_with_the_smoke_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write(tmp_path, "text") / "state_dict.bin"
    package = torch.load(path)
    package["best_state"]["out_norm.weight"].fill_(torch.nan)
    torch.save(package, path)
    with pytest.raises(CheckpointError, match="cannot generate music"):
        Predictor().setup(str(tmp_path))
    monkeypatch.setenv("MUSICGEN_SMOKE_TEST", "off")
    Predictor().setup(str(tmp_path))


@pytest.mark.parametrize("overflows", [False, True])
def test_a_model_that_overflows_fp16_is_loaded_in_bf16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overflows: bool
) -> None:
    """As on CUDA, here on the CPU."""
    path = tiny.write(tmp_path, "text") / "state_dict.bin"
    package = torch.load(path)
    if overflows:
        tiny.overflow(package)
    torch.save(package, path)
    model = musicgen.load(str(tmp_path), "cpu", EngineSettings(), dtypes=[torch.float16, torch.bfloat16])
    model.smoke_test()
    assert ("logits are NaN or infinite in float16" in capsys.readouterr().out) == overflows
    model.close()
    if overflows:
        with pytest.raises(CheckpointError, match="its logits are NaN or infinite"):
            musicgen.load(str(tmp_path), "cpu", EngineSettings(), dtypes=[torch.float16])
