"""Greedy music of a checkpoint, the same each time."""

from pathlib import Path

import torch
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.language_model import Settings
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from tests.support.requests import DEFAULTS


def greedy(folder: Path, settings: Settings = Settings()) -> Tensor:
    """A second of greedy music by the checkpoint in a folder."""
    return greedy_of(checkpoint.load(str(folder), "cpu"), settings)


def greedy_of(loaded: Checkpoint, settings: Settings) -> Tensor:
    """Of a model that can follow melodies, after one."""
    clip = Clip(torch.sin(torch.arange(32000) / 10)[None], 32000) if loaded.follows_melody else None
    request = Request.checked(**{**DEFAULTS, "prompt": "bass", "duration": 1, "temperature": 0})
    model = Model(loaded, settings)
    samples = model.generate(request, clip, Progress())
    model.close()
    return samples
