"""`read_dataset` with what most tests have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audiocraft_ext.training.dataset import Dataset, read_dataset


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Dataset]:
    """With a window of 5 s and without labels, by default."""
    settings: dict[str, Any] = {
        "window_s": 5.0,
        "one_same_description": None,
        "trigger_word": None,
        "auto_labeling": False,
        "drop_vocals": False,
        "held_out": 0.1,
        "seed": 0,
        "channels": 1,
    }
    return lambda path, **changes: read_dataset(path, tmp_path / "work", **{**settings, **changes})
