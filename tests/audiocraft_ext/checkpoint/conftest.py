"""One small export, and a folder in which its language model can be written again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("export"), "text")


@pytest.fixture
def package(export: Path) -> dict[str, Any]:
    """The contents of the export's ``state_dict.bin``."""
    package: dict[str, Any] = torch.load(export / "state_dict.bin")
    return package


@pytest.fixture
def without_lm(export: Path, tmp_path: Path) -> Path:
    """A folder with the export's codec and text encoder, whose language model is yet to be written."""
    (tmp_path / "text_encoder").symlink_to(export / "text_encoder")
    (tmp_path / "codec.bin").symlink_to(export / "compression_state_dict.bin")
    return tmp_path
