"""The Predictor in this process: what it leaves behind, and its settings."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import predict
from audiocraft_ext.errors import CheckpointError
from predict import Predictor
from tests import tiny

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
    return list(Path(predictor.outputs.name).iterdir())


def test_an_output_is_deleted_after_cog_has_read_it(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "KEEP_OUTPUT_S", 0.3)

    async def life() -> None:
        path = await ask(predictor)
        assert path.stat().st_size > 60_000
        await asyncio.sleep(0.5)
        assert files(predictor) == []

    asyncio.run(life())


@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.0])
def test_a_cancelled_prediction_ends_within_a_second_and_leaves_no_file(predictor: Predictor, after_s: float) -> None:
    async def life() -> None:
        task = asyncio.create_task(ask(predictor, duration=300))
        await asyncio.sleep(after_s)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - start < 1

    asyncio.run(life())
    assert files(predictor) == []


def test_a_refused_prediction_leaves_no_file(predictor: Predictor, tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    with pytest.raises(ValueError, match="input_audio"):
        asyncio.run(ask(predictor, input_audio=text))
    assert files(predictor) == []


def test_the_longest_duration_and_the_engine_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_MAX_DURATION", "2")
    predictor = Predictor()
    predictor.setup("weights/demo")
    with pytest.raises(ValueError, match="from 1 to 2"):
        asyncio.run(ask(predictor, duration=3))
    monkeypatch.setenv("MUSICGEN_ENGINE", "warp")
    with pytest.raises(ValueError, match="MUSICGEN_ENGINE=warp"):
        Predictor().setup("weights/demo")


@pytest.mark.parametrize(("variable", "value"), [("MUSICGEN_ENGINE", "upstream"), ("MUSICGEN_QUANTIZE", "int8")])
def test_every_way_of_decoding_is_chosen_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    predictor = Predictor()
    predictor.setup("weights/demo")
    assert asyncio.run(ask(predictor, seed=1)).stat().st_size > 60_000
    monkeypatch.setenv(variable, "int3")
    with pytest.raises(ValueError, match=f"{variable}=int3: one of"):
        predictor.setup("weights/demo")


def test_more_predictions_than_slots_wait_in_line_and_give_what_they_give_alone(predictor: Predictor) -> None:
    async def bytes_of(seed: int) -> bytes:
        return bytes((await ask(predictor, seed=seed)).read_bytes())

    async def at_once() -> list[bytes]:
        return await asyncio.gather(*(bytes_of(seed) for seed in range(10)))

    together = asyncio.run(at_once())
    assert together == [asyncio.run(bytes_of(seed)) for seed in range(10)]
    assert len(set(together)) == 10


def test_a_second_setup_serves_its_own_weights_and_ends_the_first_one_s_engine(tmp_path: Path) -> None:
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


def test_a_checkpoint_that_makes_no_music_fails_at_setup_unless_told_not_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write(tmp_path, "text") / "state_dict.bin"
    package = torch.load(path)
    package["best_state"]["out_norm.weight"].fill_(torch.nan)
    torch.save(package, path)
    with pytest.raises(CheckpointError, match="cannot make music"):
        Predictor().setup(str(tmp_path))
    monkeypatch.setenv("MUSICGEN_SMOKE_TEST", "off")
    Predictor().setup(str(tmp_path))
