"""One prediction, validated: the 14 inputs of the model's page as a frozen value. Standard library only.

The README's table defines the inputs and their errors. Checks that need the audio itself, like a window past
the end of the clip, are made where it is read.
"""

import math
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from audiocraft_ext.errors import InputError

NormalizationStrategy = Literal["loudness", "clip", "peak", "rms"]
OutputFormat = Literal["wav", "mp3"]
MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 100
MAX_STRENGTH = 10  # of an adapter
# A text encoder's attention grows with the square of its input; the longest prompts in use have some 500 characters.
MAX_PROMPT_CHARACTERS = 4000
DEFAULT_MAX_DURATION_S = 300
# Beyond these bounds the distribution no longer changes: always the likeliest token, or all alike. Smaller values would
# round to 0 in float32 or in the engine's integer probabilities, and 0 means greedy, or off.
MIN_TOP_P = 1e-6
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30

Number = TypeVar("Number", int, float)
# Name and strength of each; 1 merges all of an adapter, 0 nothing
AdapterNames = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Request:
    """The inputs of one prediction, by their names in the contract; below ``from_inputs`` nothing checks them again.

    ``input_audio`` is a file that exists. ``continuation_end`` None is the end of the clip. ``seed`` is never None: a
    missing one has been drawn. The defaults are the contract's, but for seed 0, and serve the server's own requests.
    """

    prompt: str | None = None
    input_audio: Path | None = None
    duration: int = 8
    continuation: bool = False
    continuation_start: int = 0
    continuation_end: int | None = None
    multi_band_diffusion: bool = False
    normalization_strategy: NormalizationStrategy = "loudness"
    top_k: int = 250
    top_p: float = 0.0
    temperature: float = 1.0
    classifier_free_guidance: int = 3
    output_format: OutputFormat = "wav"
    seed: int = 0
    adapters: AdapterNames = ()  # not an input: from the request's context

    def inputs(self) -> dict[str, Any]:
        """All inputs but the audio and those not given, ready to be sent again."""
        others = ("input_audio", "adapters")
        return {name: value for name, value in asdict(self).items() if name not in others and value is not None}

    def description(self) -> dict[str, Any]:
        """The inputs, and the adapters as a context, if there are any: for the file's comment."""
        adapters = ",".join(f"{name}:{strength:g}" for name, strength in self.adapters)
        return self.inputs() | ({"context": {"adapter": adapters}} if adapters else {})

    @staticmethod
    def from_inputs(
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
        context: Mapping[str, str] | None = None,
        max_duration_s: int = DEFAULT_MAX_DURATION_S,
    ) -> "Request":
        """The request with these inputs and context; raises ``InputError`` for the first that cannot be served."""
        if prompt is None and input_audio is None:
            hint = "Send at least one of them; over HTTP, inside input."
            raise InputError("prompt", "neither a prompt nor input_audio was given.", hint)
        if input_audio is not None and not isinstance(input_audio, Path):
            raise InputError("input_audio", "it is not the URL of a file.", "Send an http, https or data URL.")
        if continuation and input_audio is None:
            raise InputError(
                "continuation",
                "true, but there is no input_audio to continue.",
                "Send input_audio, or set continuation to false.",
            )
        start_s, end_s = _valid_window(continuation_start, continuation_end)
        return Request(
            prompt=_valid_prompt(prompt),
            input_audio=input_audio,
            duration=_integer("duration", duration, 1, max_duration_s, "It is in seconds."),
            continuation=continuation,
            continuation_start=start_s,
            continuation_end=end_s,
            multi_band_diffusion=multi_band_diffusion,
            normalization_strategy=_one_of("normalization_strategy", normalization_strategy, NormalizationStrategy),
            top_k=_integer("top_k", top_k, 0, None, "0 turns it off."),
            top_p=_clamp_if_positive(_in_range("top_p", top_p, 0, 1, "0 turns it off."), MIN_TOP_P, 1),
            temperature=_clamp_if_positive(
                _in_range("temperature", temperature, 0, None, "0 is greedy: always the likeliest token."),
                MIN_TEMPERATURE,
                MAX_TEMPERATURE,
            ),
            classifier_free_guidance=_integer(
                "classifier_free_guidance",
                classifier_free_guidance,
                -MAX_GUIDANCE,
                MAX_GUIDANCE,
                "1 turns guidance off.",
            ),
            output_format=_one_of("output_format", output_format, OutputFormat),
            seed=_valid_seed(seed),
            adapters=_adapters((context or {}).get("adapter", "")),
        )


def _valid_prompt(prompt: str | None) -> str | None:
    if prompt is None:
        return None
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        problem = f"it has {len(prompt)} characters; the limit is {MAX_PROMPT_CHARACTERS}."
        raise InputError("prompt", problem, "Use fewer words.")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InputError("prompt", "it contains half of a surrogate pair, which is not text.", "Send valid Unicode.")
    return prompt


def _valid_window(start: int, end: int | None) -> tuple[int, int | None]:
    """The window's start and end, as far as it can be checked without the clip."""
    start = _integer("continuation_start", start, 0, None, "It is in seconds.")
    # A window that ends at 0 has nothing in it, and clients that fill in every field send 0.
    if end is None or end in (-1, 0):
        return start, None
    end = _integer("continuation_end", end, 0, None, "-1 is the end of the clip.")
    if start >= end:
        problem = f"{start} s is not before continuation_end, {end} s."
        raise InputError("continuation_start", problem, "Choose an earlier start or a later end.")
    return start, end


def check_window_shorter_than_duration(window_s: float, duration: int) -> None:
    """Raise ``InputError`` unless something is left to generate: ``duration`` includes the excerpt."""
    if window_s >= duration:
        length = f"{window_s:g} s" if window_s < duration + 1 else f"more than {duration} s"
        raise InputError(
            "duration",
            f"{duration} s includes the audio to continue, and is not longer than it: {length}.",
            "Ask for a longer duration, or cut the audio with continuation_start and continuation_end.",
        )


def _valid_seed(seed: int | None) -> int:
    if seed is None or seed == -1:
        return secrets.randbelow(MAX_SEED + 1)
    return _integer("seed", seed, 0, MAX_SEED, "-1 is a random one.")


def _adapters(text: str) -> AdapterNames:
    """Those of "name", "name:0.8" or several of these, separated by commas."""
    adapters = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, strength = part.partition(":")
        try:
            number = float(strength) if colon else 1.0
        except ValueError:
            number = math.nan
        if not abs(number) <= MAX_STRENGTH:
            problem = f"{part!r:.80} has no strength from {-MAX_STRENGTH} to {MAX_STRENGTH} after its colon."
            raise InputError("context.adapter", problem, 'Use "name" or "name:0.8".')
        adapters.append((name.strip(), number))
    return tuple(adapters)


def _integer(field: str, value: float, low: int, high: int | None, note: str) -> int:
    # A JSON integer beyond 64 bits reaches Python as a float.
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        raise InputError(field, f"{value:g} is not a whole number.", "Send an integer.")
    return _in_range(field, int(value), low, high, note)


def _in_range(field: str, value: Number, low: int, high: int | None, note: str) -> Number:
    # An integer may be too large for a float; NaN and infinity do not fit either.
    fits_float = abs(value) < sys.float_info.max
    if fits_float and value >= low and (high is None or value <= high):
        return value
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
    shown = f"{value:.12g}" if fits_float or isinstance(value, float) else "a number beyond 1e308"
    raise InputError(field, f"{shown} is outside its range.", f"Use a number {bounds}. {note}")


def _clamp_if_positive(value: float, low: float, high: float) -> float:
    # A whole number in JSON arrives as an int, and torch takes none beyond 64 bits.
    return float(min(max(value, low), high)) if value > 0 else 0.0


def _one_of(field: str, value: str, choices: Any) -> Any:
    """``value``, if it is one of a Literal's."""
    if value in get_args(choices):
        return value
    raise InputError(field, f"{value!r:.40} is not one of its choices.", f"Use one of: {', '.join(get_args(choices))}.")
