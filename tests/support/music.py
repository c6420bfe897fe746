"""Music of a checkpoint, and the tokens of one window, the same each time."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.musicgen import Model, RequestMusicGen
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import ConditioningAttributes
from tests.support.requests import DEFAULTS


def greedy(folder: Path, settings: EngineSettings = EngineSettings()) -> Tensor:
    """A second of greedy music by the checkpoint in a folder."""
    return greedy_of(checkpoint.load(str(folder), "cpu"), settings)


def greedy_of(loaded: Checkpoint, settings: EngineSettings) -> Tensor:
    """Of a model that can follow melodies, after one."""
    clip = Clip(torch.sin(torch.arange(32000) / 10)[None], 32000) if loaded.follows_melody else None
    request = Request.from_inputs(**{**DEFAULTS, "prompt": "bass", "duration": 1, "temperature": 0})
    model = Model(loaded, settings)
    samples = model.generate(request, clip, Progress())
    model.close()
    return samples


def window_tokens(
    model: Model,
    prompt: Tensor | None,
    attributes: list[ConditioningAttributes],
    *,
    max_gen_len: int,
    seed: int = 0,
    **sampling: Any,
) -> Tensor:
    """Tokens [1, K, T] of one window, by the arguments of audiocraft's ``lm.generate``."""
    music_gen = RequestMusicGen(model, Request(prompt="", seed=seed), Progress())
    music_gen.generation_params = sampling
    if prompt is None:
        prompt = torch.zeros((1, model.checkpoint.lm.n_q, 0), dtype=torch.int64)
    return music_gen.generate_window(attributes, prompt, max_gen_len, (0, max_gen_len - prompt.shape[-1]))
