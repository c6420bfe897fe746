"""Every kind of checkpoint in every mode: the right channels, the exact length in samples, and sound up to the end.

Small random checkpoints with a window of 20 s, so that 2 s, 30 s and 45 s take one window, two, and three.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_FILE
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from tests.support import tiny, tiny_components

KINDS: tuple[tiny.Kind, ...] = ("text", "stereo", "melody", "melody stereo")
DURATIONS_S = (2, 30, 45)
MODES = ("prompt", "continuation", "melody")
N_SLOTS = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=KINDS)
def kind_and_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Model]]:
    """A kind, and a model of it with diffusion weights."""
    folder = tiny.write(tmp_path_factory.mktemp("matrix"), request.param)
    torch.save(tiny_components.diffusion(), folder / DIFFUSION_FILE)
    model = Model(checkpoint.load(str(folder), "cpu"), EngineSettings(n_slots=N_SLOTS))
    yield request.param, model
    model.close()


def tune(seconds: float) -> Clip:
    """Two notes in stereo at 44.1 kHz."""
    t = np.arange(int(seconds * 44100)) / 44100
    notes = np.stack([0.3 * np.sin(2 * np.pi * hz * t) for hz in (220, 330)])
    return Clip(torch.from_numpy(notes).float(), 44100)


def generate(model: Model, cell: tuple[str, int, bool]) -> Tensor:
    """Samples [C, N] of one cell of the matrix."""
    mode, duration, by_diffusion = cell
    clip = None if mode == "prompt" else tune(1.3)
    request = Request(
        prompt="electro",
        duration=duration,
        seed=1,
        multi_band_diffusion=by_diffusion,
        continuation=mode == "continuation",
    )
    return model.generate(request, clip, Progress())


def test_every_cell_has_its_channels_and_its_exact_length(kind_and_model: tuple[str, Model]) -> None:
    kind, model = kind_and_model
    modes = MODES if "melody" in kind else MODES[:2]
    # Long clips by diffusion take half a minute each, and do not depend on the mode: one mode of two kinds.
    by_codec, by_diffusion = product(modes, DURATIONS_S, [False]), product(modes, DURATIONS_S[:1], [True])
    long_by_diffusion = [] if "melody" in kind else product(modes[:1], DURATIONS_S[1:], [True])
    cells = [*by_codec, *by_diffusion, *long_by_diffusion]
    with ThreadPoolExecutor(N_SLOTS) as pool:
        clips = list(pool.map(partial(generate, model), cells))
    seen: dict[bytes, tuple[str, int, bool]] = {}
    for cell, samples in zip(cells, clips, strict=True):
        assert samples.shape == (2 if "stereo" in kind else 1, cell[1] * tiny.SAMPLE_RATE), cell
        assert samples[:, -tiny.SAMPLE_RATE // 10 :].std() > 0, f"{cell}: the end is missing"
        assert seen.setdefault(samples.numpy().tobytes(), cell) == cell, "two cells are equal"
