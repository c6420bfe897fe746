"""Results of one part: each is printed and written to benchmarks/results/gpu_check.jsonl as soon as it exists."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import measure

NO_CUDA = "no CUDA device"


@dataclass
class Report:
    """The lines of one part on one size and device; ``n_failed`` of its attempts raised."""

    part: str
    size: str
    device: str
    n_failed: int = 0

    def add(self, what: str, /, **figures: Any) -> None:
        """Print and write one result."""
        shown = ", ".join(f"{name}: {value}" for name, value in figures.items() if name != "top kernels")
        print(f"{self.part} {self.size} | {what}: {shown}", flush=True)
        measure.append("gpu_check", part=self.part, size=self.size, device=self.device, what=what, **figures)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Within, an exception is a result: the next attempt goes on."""
        try:
            yield
        except Exception as error:
            self.n_failed += 1
            traceback.print_exc()
            self.add(what, error=f"{type(error).__name__}: {error}"[:500])
