"""The Predictor: the 14 inputs of the model's page, as cog reads them.

The only file that imports cog. cog's schema generator reads it as text, so the ``Input(...)`` literals stay here;
``audiocraft_ext/request.py`` and the README's table say what they mean.
"""

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Optional

import cog
from cog import BasePredictor, File, Input, Path

from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.service import KEEP_OUTPUT_S, Service
from audiocraft_ext.settings import Settings

# cog reads the number in @cog.concurrent as text: it has to be a literal there too.
MAX_CONCURRENCY = 16
# cog makes two folders here for each prediction, and leaves them.
COG_FOLDER = Path("/tmp/coglet/predictions")
COG_ID = "_coglet_prediction_id"


class Predictor(BasePredictor):
    """Any MusicGen checkpoint, served."""

    def setup(self, weights: Optional[str] = None) -> None:
        """Load ``weights`` (a path, https URL or hub id); by default the checkpoint that the environment names."""
        logging.basicConfig(format="%(message)s")
        settings = Settings.from_environment(MAX_CONCURRENCY)
        if hasattr(self, "service"):  # set up again: both models at once may not fit into memory
            self.service.close()
            del self.service  # also where the next line fails
        self.service: Service = Service(str(weights) if weights else None, settings, MAX_CONCURRENCY)
        self.running: set[str] = set()

    async def healthcheck(self) -> bool:
        """Whether predictions succeed, as far as known."""
        return await self.service.is_healthy()

    @cog.concurrent(max=16)
    async def predict(
        self,
        prompt: Optional[str] = Input(
            default=None,
            description="A description of the music you want to generate.",
        ),
        input_audio: Optional[File] = Input(
            default=None,
            description="An audio file that will influence the generated music. If `continuation` is `True`, the generated music will be a continuation of the audio file. Otherwise, the generated music will mimic the audio file's melody.",  # noqa: E501
        ),
        duration: int = Input(
            default=8,
            description="Duration of the generated audio in seconds.",
        ),
        continuation: bool = Input(
            default=False,
            description="If `True`, generated music will continue `melody`. Otherwise, generated music will mimic `audio_input`'s melody.",  # noqa: E501
        ),
        continuation_start: int = Input(
            default=0,
            ge=0,
            description="Start time of the audio file to use for continuation.",
        ),
        continuation_end: Optional[int] = Input(
            default=None,
            ge=0,
            description="End time of the audio file to use for continuation. If -1 or None, will default to the end of the audio clip.",  # noqa: E501
        ),
        multi_band_diffusion: bool = Input(
            default=False,
            description="If `True`, the EnCodec tokens will be decoded with MultiBand Diffusion.",
        ),
        normalization_strategy: str = Input(
            default="loudness",
            choices=["loudness", "clip", "peak", "rms"],
            description="Strategy for normalizing audio.",
        ),
        top_k: int = Input(
            default=250,
            description="Reduces sampling to the k most likely tokens.",
        ),
        top_p: float = Input(
            default=0.0,
            description="Reduces sampling to tokens with cumulative probability of p. When set to `0` (default), top_k sampling is used.",  # noqa: E501
        ),
        temperature: float = Input(
            default=1.0,
            description="Controls the 'conservativeness' of the sampling process. Higher temperature means more diversity.",  # noqa: E501
        ),
        classifier_free_guidance: int = Input(
            default=3,
            description="Increases the influence of inputs on the output. Higher values produce lower-varience outputs that adhere more closely to inputs.",  # noqa: E501
        ),
        output_format: str = Input(
            default="wav",
            choices=["wav", "mp3"],
            description="Output format for generated audio.",
        ),
        seed: Optional[int] = Input(
            default=None,
            description="Seed for random number generator. If None or -1, a random seed will be used.",
        ),
    ) -> Path:
        """One audio file for the 14 inputs; raises ``InputError`` for an input that cannot be served."""
        progress = Progress()
        with self._without_cog_folders(), self.service.caller_errors():
            async with self.service.input_file(input_audio, progress) as audio_file:
                request = Request.from_inputs(
                    prompt=prompt,
                    input_audio=audio_file,
                    duration=duration,
                    continuation=continuation,
                    continuation_start=continuation_start,
                    continuation_end=continuation_end,
                    multi_band_diffusion=multi_band_diffusion,
                    normalization_strategy=normalization_strategy,
                    top_k=top_k,
                    top_p=top_p,
                    temperature=temperature,
                    classifier_free_guidance=classifier_free_guidance,
                    output_format=output_format,
                    seed=seed,
                    context=getattr(cog.current_scope(), "context", None),
                    max_duration_s=self.service.max_duration_s,
                )
                print(f"Using seed {request.seed}", flush=True)
                self.record_metric("seed", request.seed)
                prediction = await self.service.predict(request, progress)
            for name, value in prediction.metrics.items():
                self.record_metric(name, value)
            return Path(prediction.path)

    # cog would decode a File's data URL and drop foreign letters (benchmarks/LOG.md): at run time, take the URL itself.
    predict.__annotations__["input_audio"] = Optional[str]

    @contextmanager
    def _without_cog_folders(self) -> Iterator[None]:
        """Remove the folders that cog leaves of a prediction, once its answer has been sent."""
        prediction_id = next(
            (str(value) for key, value in contextvars.copy_context().items() if key.name == COG_ID), ""
        )
        self.running.add(prediction_id)
        try:
            yield
        finally:
            self.running.discard(prediction_id)
            asyncio.get_running_loop().call_later(KEEP_OUTPUT_S, self._remove_cog_folders, prediction_id)

    def _remove_cog_folders(self, prediction_id: str) -> None:
        # A caller may choose an id, use it twice, and choose one that is a path.
        is_name = prediction_id not in ("", ".", "..") and Path(prediction_id).name == prediction_id
        if is_name and prediction_id not in self.running:
            for folder in ("inputs", "outputs", ""):
                with suppress(OSError):
                    (COG_FOLDER / prediction_id / folder).rmdir()
