"""Every kind of checkpoint in every mode, over HTTP: the music has its channels, and is as long as asked to the sample.

Small random checkpoints with a window of 20 s, so that 2 s, 30 s and 45 s are one window, two, and three.
"""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch

from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_FILE
from tests.support import tiny, tiny_components
from tests.support.client import file_in, until_taken
from tests.support.input_values import data_url
from tests.support.server import running

KINDS: tuple[tiny.Kind, ...] = ("text", "stereo", "melody", "melody stereo")
DURATIONS_S = (2, 30, 45)
MODES = ("prompt", "continuation", "melody")
N_SLOTS = 4


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A kind, and a client of a server with a checkpoint of it, diffusion weights beside."""
    place = tmp_path_factory.mktemp("matrix")
    folder = tiny.write(place / "checkpoint", request.param)
    torch.save(tiny_components.diffusion(), folder / DIFFUSION_FILE)
    with running(place / "scratch", MUSICGEN_WEIGHTS=str(folder)) as server:
        yield request.param, server.client


def tune(seconds: float) -> str:
    """A data URL of a stereo wav at 44.1 kHz."""
    t = np.arange(int(seconds * 44100)) / 44100
    wav = io.BytesIO()
    notes = np.stack([0.3 * np.sin(2 * np.pi * hz * t) for hz in (220, 330)], axis=1)
    soundfile.write(wav, notes, 44100, format="WAV")
    return data_url(wav.getvalue())


def answer(client: httpx.Client, cell: tuple[str, int, bool]) -> dict[str, Any]:
    """The prediction of one cell of the matrix."""
    mode, duration, by_diffusion = cell
    inputs = {"prompt": "electro", "duration": duration, "seed": 1, "multi_band_diffusion": by_diffusion}
    if mode != "prompt":
        inputs |= {"input_audio": tune(1.3), "continuation": mode == "continuation"}
    made: dict[str, Any] = until_taken(lambda: client.post("/predictions", json={"input": inputs}, timeout=300)).json()
    return made


def test_every_cell_is_as_long_as_asked_and_sounds(served: tuple[tiny.Kind, httpx.Client]) -> None:
    kind, client = served
    modes = MODES if "melody" in kind else MODES[:2]
    # Long clips by diffusion take half a minute each, and tokens are tokens to it: of those, one mode of two kinds.
    by_codec, by_diffusion = product(modes, DURATIONS_S, [False]), product(modes, DURATIONS_S[:1], [True])
    long_by_diffusion = [] if "melody" in kind else product(modes[:1], DURATIONS_S[1:], [True])
    cells = [*by_codec, *by_diffusion, *long_by_diffusion]
    with ThreadPoolExecutor(N_SLOTS) as pool:
        answers = list(pool.map(partial(answer, client), cells))
    heard: dict[bytes, tuple[str, int, bool]] = {}
    for cell, made in zip(cells, answers, strict=True):
        file = file_in(made)
        assert file is not None, (cell, made.get("error"))
        samples, sample_rate = soundfile.read(io.BytesIO(file), always_2d=True)
        assert samples.shape == (cell[1] * sample_rate, 2 if "stereo" in kind else 1), cell
        assert sample_rate == tiny.SAMPLE_RATE
        assert samples[-sample_rate // 10 :].std() > 0, f"{cell}: the end is missing"
        assert heard.setdefault(samples.tobytes(), cell) == cell, "two cells sound alike"
