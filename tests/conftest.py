"""The real server, started once per worker for all tests over HTTP."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

if not torch.cuda.is_available():
    # Before the first import of Triton, so that its interpreter runs the kernels.
    os.environ["TRITON_INTERPRET"] = "1"

if TYPE_CHECKING:
    import httpx


@pytest.fixture(scope="session")
def _server_and_answer(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[httpx.Client, dict[str, Any]]]":
    # Here, since machines for the GPU tests have no httpx.
    from audiocraft_ext.checkpoint.locate.source import EMBEDDED
    from tests.support.adapters import write_by_our_names
    from tests.support.server import running

    adapters = tmp_path_factory.mktemp("adapters")
    write_by_our_names(adapters / "warm", EMBEDDED)
    with running(tmp_path_factory.mktemp("server"), MUSICGEN_ADAPTERS=str(adapters)) as started:
        first = started.client.post("/predictions", json={"input": {"prompt": "x", "duration": 1}})
        yield started.client, first.json()


@pytest.fixture(scope="session")
def server(_server_and_answer: "tuple[httpx.Client, dict[str, Any]]") -> "httpx.Client":
    """A client of ``make serve``'s server with the embedded checkpoint, once it is READY."""
    return _server_and_answer[0]


@pytest.fixture(scope="session")
def first_answer(_server_and_answer: "tuple[httpx.Client, dict[str, Any]]") -> dict[str, Any]:
    """The server's answer to its first prediction, made before all tests."""
    return _server_and_answer[1]
