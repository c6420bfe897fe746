"""The server's settings, read from the environment (README's table). Knows no checkpoint: ``checkpoint`` chooses it."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from audiocraft_ext.engine.backends import BackendName
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.request import DEFAULT_MAX_DURATION_S

EngineName = Literal["fast", "upstream"]


@dataclass(frozen=True)
class EngineSettings:
    """How tokens are made. Fewer slots than ``n_slots`` are used where memory or the CPU's kernels allow fewer."""

    engine: EngineName = "fast"
    n_slots: int = 16
    quantize: Quantize = "none"
    backend: BackendName | None = None  # the device's fastest
    capture: bool = True
    # Move the weights out of audiocraft's LM, which can then no longer generate; tests keep it as the oracle.
    consume: bool = True


@dataclass(frozen=True)
class Settings:
    """``MUSICGEN_*`` and ``COG_MAX_CONCURRENCY``; one that is unset or empty has its default."""

    device: str
    engine: EngineSettings = field(default_factory=EngineSettings)
    smoke_test: bool = True
    max_duration_s: int = DEFAULT_MAX_DURATION_S
    adapters: Path | None = None  # a folder
    max_adapters: int = 2  # in memory

    @staticmethod
    def from_environment(max_concurrency: int) -> "Settings":
        """The settings as the environment is now; raises ``ValueError`` naming the variable, its value and choices."""
        device, has_kernels = _device(), _choice("MUSICGEN_KERNELS", ("on", "off")) == "on"
        return Settings(
            device=device,
            engine=EngineSettings(
                backend=None if has_kernels else "cuda" if device == "cuda" else "torch",
                capture=_choice("MUSICGEN_CAPTURE", ("on", "off")) == "on",
                engine=_choice("MUSICGEN_ENGINE", get_args(EngineName)),
                quantize=_choice("MUSICGEN_QUANTIZE", get_args(Quantize)),
                n_slots=_number("COG_MAX_CONCURRENCY", max_concurrency, max_concurrency),
            ),
            smoke_test=_choice("MUSICGEN_SMOKE_TEST", ("on", "off")) == "on",
            max_duration_s=_number("MUSICGEN_MAX_DURATION", DEFAULT_MAX_DURATION_S),
            adapters=_folder("MUSICGEN_ADAPTERS"),
            max_adapters=_number("MUSICGEN_MAX_ADAPTERS", Settings.max_adapters),
        )


def _device() -> str:
    """``MUSICGEN_DEVICE``, by default the GPU where there is one."""
    has_gpu = torch.cuda.is_available()
    device: str = _choice("MUSICGEN_DEVICE", ("cuda", "cpu") if has_gpu else ("cpu", "cuda"))
    if device == "cuda" and not has_gpu:
        raise ValueError("MUSICGEN_DEVICE=cuda: torch finds no CUDA GPU. Set it to cpu, or repair the driver.")
    return device


def _choice(variable: str, choices: tuple[str, ...]) -> Any:
    """One of ``choices``; the first is the default."""
    value = os.environ.get(variable) or choices[0]
    if value not in choices:
        raise ValueError(f"{variable}={value}: use one of {', '.join(choices)}.")
    return value


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if value and not Path(value).is_dir():
        raise ValueError(f"{variable}={value}: it is not a folder.")
    return Path(value) if value else None


def _number(variable: str, default: int, largest: int | None = None) -> int:
    value = os.environ.get(variable) or str(default)
    is_number = value.isascii() and value.isdecimal() and len(value) < 19
    if not is_number or not 1 <= int(value) <= (largest or sys.maxsize):
        bounds = "of at least 1" if largest is None else f"from 1 to {largest}"
        raise ValueError(f"{variable}={value}: use a whole number {bounds}.")
    return int(value)
