"""``python -m web`` in front of the tests' server."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.page import page_of


@pytest.fixture(scope="session")
def web(server: httpx.Client) -> Iterator[str]:
    """Its address, once it answers."""
    with page_of(str(server.base_url)) as address:
        yield address
