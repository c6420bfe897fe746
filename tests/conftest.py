"""The real server, started once for all tests that speak HTTP to it."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if not torch.cuda.is_available():
    # Before anything imports Triton: its kernels are then run by its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

if TYPE_CHECKING:
    import httpx


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[httpx.Client]":
    """A client of ``make serve``'s server with the embedded checkpoint, once it is READY."""
    from benchmarks.hardening.server import running  # here, since machines that run the GPU's tests have no httpx

    with running(tmp_path_factory.mktemp("server")) as started:
        yield started.client
