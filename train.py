"""The training, as cog reads it: its inputs, and the archive that it returns.

With ``predict.py`` the only file that imports cog, whose schema generator reads it as text: the ``Input(...)`` literals
stay here. ``audiocraft_ext/training/request.py`` and docs/fine-tuning.md say what they mean.
"""

import asyncio
import contextvars
import logging
import shutil
from contextlib import suppress
from functools import partial
from typing import Optional

import cog
from cog import BaseModel, Input, Path

from audiocraft_ext.errors import Cancelled
from audiocraft_ext.progress import Progress
from audiocraft_ext.training import run
from audiocraft_ext.training.loop import StepReport
from audiocraft_ext.training.request import TrainingRequest
from audiocraft_ext.training.run import TrainingSettings

KEEP_ARCHIVE_S = 3600.0  # cog may have gigabytes to upload


class TrainingOutput(BaseModel):
    """``weights`` is a tar that ``MUSICGEN_WEIGHTS`` takes."""

    weights: Path


async def train(
    dataset_path: Path = Input(
        description="Music to learn from: a zip or tar archive, or one audio file. Describe `song.wav` in a `song.txt` beside it, or all files in a `captions.csv` with the columns `file_name` and `text`.",  # noqa: E501
    ),
    one_same_description: Optional[str] = Input(
        default=None,
        description="One description for all of the music; it replaces those in the dataset.",
    ),
    trigger_word: Optional[str] = Input(
        default=None,
        description="A word put in front of every description: prompts call the new sound by it.",
    ),
    auto_labeling: bool = Input(
        default=True,
        description="Add tempo and key to the descriptions, where they are clear.",
    ),
    drop_vocals: bool = Input(
        default=False,
        description="Remove vocals with Demucs. Instrumental music loses some quality by it.",
    ),
    model_version: Optional[str] = Input(
        default=None,
        choices=[
            "small",
            "medium",
            "melody",
            "large",
            "stereo-small",
            "stereo-medium",
            "stereo-melody",
            "stereo-large",
        ],
        description="Meta's model to start from. Without it: the checkpoint that this server would play.",
    ),
    method: str = Input(
        default="lora",
        choices=["lora", "full"],
        description="`lora` trains an adapter of some 20 to 80 MB, `full` all weights.",
    ),
    lora_rank: int = Input(
        default=16,
        ge=1,
        le=128,
        description="Rank of the adapter's matrices.",
    ),
    lr: Optional[float] = Input(
        default=None,
        ge=0.000001,
        le=1,
        description="Peak learning rate. Without it: 2e-4 for `lora`, 1e-5 for `full`.",
    ),
    steps: Optional[int] = Input(
        default=None,
        ge=1,
        le=20000,
        description="Number of updates. Without it: 15 passes over the music, within 200 to 1500.",
    ),
    epochs: Optional[int] = Input(
        default=None,
        ge=1,
        le=20000,
        description="Instead of `steps`: this many times `updates_per_epoch`.",
    ),
    updates_per_epoch: Optional[int] = Input(
        default=None,
        ge=1,
        le=20000,
        description="Number of updates in an epoch; 100 if only `epochs` is given.",
    ),
    batch_size: int = Input(
        default=8,
        ge=1,
        le=256,
        description="Clips in an update. The result is the same however many fit into memory at once.",
    ),
    optimizer: str = Input(
        default="adamw",
        choices=["adamw", "dadam"],
        description="`adamw`; `dadam` is rejected with the reason.",
    ),
    lr_scheduler: str = Input(
        default="cosine",
        choices=["cosine", "exponential", "polynomial_decay", "inverse_sqrt", "linear_warmup"],
        description="Course of the learning rate after the warm-up.",
    ),
    warmup: Optional[int] = Input(
        default=None,
        ge=0,
        le=20000,
        description="Updates until the learning rate has its peak. Without it: a tenth of them.",
    ),
    cfg_p: Optional[float] = Input(
        default=None,
        ge=0,
        le=1,
        description="Share of updates without descriptions, which guidance depends on. Without it: the base's.",
    ),
    held_out: float = Input(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of songs that are not trained on and choose the best update.",
    ),
    save_every: int = Input(
        default=100,
        ge=1,
        le=20000,
        description="Updates between two saved states, from which the same training goes on after a failure.",
    ),
    sample_prompts: Optional[str] = Input(
        default=None,
        description="Prompts to listen to before and after, one a line. Without it: held-out descriptions and the trigger word.",  # noqa: E501
    ),
    seed: int = Input(
        default=0,
        ge=0,
        le=4294967295,
        description="Seed for random number generators.",
    ),
) -> TrainingOutput:
    """An archive with the fine-tuned weights; raises ``InputError`` for an input that cannot be used.

    A cancelled training is saved, and the same inputs go on with it.
    """
    request = TrainingRequest(**locals())
    logging.basicConfig(format="%(message)s")
    progress, record_metric = Progress(), cog.current_scope().record_metric
    settings = TrainingSettings.from_environment()

    def record(step: StepReport) -> None:
        for name, value in (("step", step.step), ("loss", step.loss), ("held_out", step.held_out)):
            if value is not None:
                record_metric(name, value)

    run_in_context = partial(contextvars.copy_context().run, run.train, request, settings, progress, record)
    future = asyncio.get_running_loop().run_in_executor(None, run_in_context)
    try:
        archive = await asyncio.shield(future)
        assert archive is not None  # cog starts one process
    except asyncio.CancelledError:
        progress.stop()
        with suppress(Cancelled):  # not what else may go wrong with saving
            await future
        raise
    remove = partial(shutil.rmtree, archive.parent, ignore_errors=True)
    asyncio.get_running_loop().call_later(KEEP_ARCHIVE_S, remove)
    return TrainingOutput(weights=Path(archive))
