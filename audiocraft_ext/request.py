"""One prediction, validated: the 14 inputs of the model's page as a frozen value. Standard library only.

What an input means and what is refused stands here and in the README's table. What needs the audio itself, like a
window past the end of the clip, is checked where it is decoded (``audio/read.py``).
"""

import math
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from audiocraft_ext.errors import InputError

NormalizationStrategy = Literal["loudness", "clip", "peak", "rms"]
OutputFormat = Literal["wav", "mp3"]
MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 100
# A text encoder's attention grows with the square of its input; the longest prompts seen in use have some 500 letters.
MAX_PROMPT_CHARACTERS = 4000
DEFAULT_MAX_DURATION_S = 300
# Beyond these nothing changes in what is drawn: always the likeliest token, or all alike. Smaller values would round to
# 0 in float32, or in the engine's integer probabilities, and 0 means greedy, or off.
MIN_TOP_P = 1e-6
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Window:
    """The part of the input audio that is used: seconds from its start; ``end_s`` None is the end of the clip."""

    start_s: int
    end_s: int | None


@dataclass(frozen=True)
class Request:
    """The inputs of one prediction, after ``checked``: nothing below this needs to doubt them.

    ``seed`` is never None: a missing one has been drawn. ``window`` is the cut of ``input_audio``. Defaults are for
    requests of our own: the contract's, and seed 0.
    """

    prompt: str | None = None
    input_audio: Path | None = None
    duration: int = 8
    continuation: bool = False
    window: Window = Window(0, None)
    multi_band_diffusion: bool = False
    normalization_strategy: NormalizationStrategy = "loudness"
    top_k: int = 250
    top_p: float = 0.0
    temperature: float = 1.0
    classifier_free_guidance: int = 3
    output_format: OutputFormat = "wav"
    seed: int = 0

    @staticmethod
    def checked(
        *,
        prompt: str | None,
        input_audio: Path | None,
        duration: int,
        continuation: bool,
        continuation_start: int,
        continuation_end: int | None,
        multi_band_diffusion: bool,
        normalization_strategy: str,
        top_k: int,
        top_p: float,
        temperature: float,
        classifier_free_guidance: int,
        output_format: str,
        seed: int | None,
        max_duration_s: int = DEFAULT_MAX_DURATION_S,
    ) -> "Request":
        """The request that these inputs make; raises ``InputError`` for the first one that cannot be served."""
        if prompt is None and input_audio is None:
            raise InputError("prompt", "there is neither a prompt nor input_audio.", "Give at least one of them.")
        if input_audio is not None and not isinstance(input_audio, Path):
            raise InputError("input_audio", "it is no URL of a file.", "Send an http, https or data URL.")
        if continuation and input_audio is None:
            raise InputError(
                "continuation", "true, but there is no input_audio to continue.", "Add input_audio, or set it to false."
            )
        return Request(
            prompt=_text(prompt),
            input_audio=input_audio,
            duration=_duration(duration, max_duration_s),
            continuation=continuation,
            window=_window(continuation_start, continuation_end),
            multi_band_diffusion=multi_band_diffusion,
            normalization_strategy=cast(
                NormalizationStrategy,
                _one_of("normalization_strategy", normalization_strategy, get_args(NormalizationStrategy)),
            ),
            top_k=_in_range("top_k", _whole("top_k", top_k), 0, None, "0 turns it off."),
            top_p=_zero_or(_in_range("top_p", top_p, 0, 1, "0 turns it off."), MIN_TOP_P, 1),
            temperature=_zero_or(
                _in_range("temperature", temperature, 0, None, "0 always takes the likeliest token."),
                MIN_TEMPERATURE,
                MAX_TEMPERATURE,
            ),
            classifier_free_guidance=_in_range(
                "classifier_free_guidance",
                _whole("classifier_free_guidance", classifier_free_guidance),
                -MAX_GUIDANCE,
                MAX_GUIDANCE,
                "1 turns guidance off.",
            ),
            output_format=cast(OutputFormat, _one_of("output_format", output_format, get_args(OutputFormat))),
            seed=_seed(seed),
        )


def _text(prompt: str | None) -> str | None:
    if prompt is None:
        return None
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InputError(
            "prompt", f"{len(prompt)} characters are too many.", f"Use at most {MAX_PROMPT_CHARACTERS} characters."
        )
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise InputError("prompt", "it holds half of a surrogate pair, which is not text.", "Send valid Unicode.")
    return prompt


def _duration(duration: int, max_duration_s: int) -> int:
    duration = _whole("duration", duration)
    return _in_range("duration", duration, 1, max_duration_s, "It is in seconds.")


def _window(start: int, end: int | None) -> Window:
    """The cut, as far as it can be judged without the clip."""
    start = _in_range("continuation_start", _whole("continuation_start", start), 0, None, "It is in seconds.")
    # The hosted models read 0 as "not given", and clients that fill every field send it.
    if end is None or end in (-1, 0):
        return Window(start, None)
    end = _in_range("continuation_end", _whole("continuation_end", end), 0, None, "-1 or none: the end of the clip.")
    if start >= end:
        raise InputError(
            "continuation_start",
            f"{start} s is not before continuation_end, {end} s.",
            "Choose an earlier start or a later end.",
        )
    return Window(start, end)


def refuse_window_as_long_as_duration(window_s: float, duration: int) -> None:
    """A continuation must be longer than what it continues: ``duration`` counts the excerpt too."""
    if window_s >= duration:
        length = f"{window_s:g} s" if window_s < duration + 1 else f"more than {duration} s"
        raise InputError(
            "duration",
            f"{duration} s is not longer than the audio to continue, which it includes: {length}.",
            "Ask for a longer duration, or cut the audio with continuation_start and continuation_end.",
        )


def _seed(seed: int | None) -> int:
    if seed is None or seed == -1:
        return secrets.randbelow(MAX_SEED + 1)
    return _in_range("seed", _whole("seed", seed), 0, MAX_SEED, "-1 or none draws one.")


def _whole(field: str, value: float) -> int:
    # A JSON integer beyond 64 bits reaches Python as a float.
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        raise InputError(field, f"{value:g} is not a whole number.", "Send an integer.")
    return int(value)


def _in_range(field: str, value: Number, low: int, high: int | None, note: str) -> Number:
    # Compared, since an integer may be too large to be made a float; NaN and infinity are not within it either.
    is_float_s = abs(value) < sys.float_info.max
    if is_float_s and value >= low and (high is None or value <= high):
        return value
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
    shown = f"{value:.12g}" if is_float_s or isinstance(value, float) else "a number beyond 1e308"
    raise InputError(field, f"{shown} is outside its range.", f"Use a number {bounds}. {note}")


def _zero_or(value: float, low: float, high: float) -> float:
    # A whole number in JSON comes as an int, and of those torch takes none beyond 64 bits.
    return float(min(max(value, low), high)) if value > 0 else 0.0


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> str:
    if value in allowed:
        return value
    raise InputError(field, f"{value!r:.40} is not one of its choices.", f"Use one of: {', '.join(allowed)}.")
