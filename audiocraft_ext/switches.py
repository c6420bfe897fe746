"""What the environment says of how to serve (README's table of switches). Which checkpoint, says ``checkpoint``."""

import os
import sys
from dataclasses import dataclass
from typing import Any, get_args

import torch

from audiocraft_ext.language_model import EngineName, Quantize, Settings
from audiocraft_ext.request import DEFAULT_MAX_DURATION_S


@dataclass(frozen=True)
class Switches:
    """``MUSICGEN_*`` and ``COG_MAX_CONCURRENCY``; one that is unset or empty is its default."""

    device: str
    settings: Settings
    smoke_test: bool
    max_duration_s: int

    @staticmethod
    def read(max_concurrency: int) -> "Switches":
        """As the environment is now; raises ``ValueError`` that names the switch, its value, and what it may be."""
        return Switches(
            device=_device(),
            settings=Settings(
                engine=_choice("MUSICGEN_ENGINE", get_args(EngineName)),
                quantize=_choice("MUSICGEN_QUANTIZE", get_args(Quantize)),
                n_slots=_number("COG_MAX_CONCURRENCY", max_concurrency, max_concurrency),
            ),
            smoke_test=_choice("MUSICGEN_SMOKE_TEST", ("on", "off")) == "on",
            max_duration_s=_number("MUSICGEN_MAX_DURATION", DEFAULT_MAX_DURATION_S),
        )


def _device() -> str:
    """The GPU, if there is one and nothing else is said."""
    has_gpu = torch.cuda.is_available()
    device: str = _choice("MUSICGEN_DEVICE", ("cuda", "cpu") if has_gpu else ("cpu", "cuda"))
    if device == "cuda" and not has_gpu:
        raise ValueError("MUSICGEN_DEVICE=cuda: torch sees no CUDA GPU here. Set it to cpu, or mend the driver.")
    return device


def _choice(variable: str, choices: tuple[str, ...]) -> Any:
    """One of the choices, else the first."""
    value = os.environ.get(variable) or choices[0]
    if value not in choices:
        raise ValueError(f"{variable}={value}: one of {', '.join(choices)} is known.")
    return value


def _number(variable: str, default: int, largest: int | None = None) -> int:
    value = os.environ.get(variable) or str(default)
    is_number = value.isascii() and value.isdecimal() and len(value) < 19
    if not is_number or not 1 <= int(value) <= (largest or sys.maxsize):
        bounds = "at least 1" if largest is None else f"from 1 to {largest}"
        raise ValueError(f"{variable}={value}: it is a whole number, {bounds}.")
    return int(value)
