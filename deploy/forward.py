"""An HTTP request passed on as it came, and the answer with it. Knows no Ray and no predictions."""

from collections.abc import Mapping

import aiohttp

from deploy.prediction import Answer

# Headers of one connection, or set again for the next; the others pass.
HOP_HEADERS = {"host", "content-length", "connection", "keep-alive", "transfer-encoding", "upgrade", "date", "server"}
FAULTS = (aiohttp.ClientError, OSError, TimeoutError)


def open_session() -> aiohttp.ClientSession:
    """A session that adds nothing to a request; in a running event loop."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )


async def forward(
    session: aiohttp.ClientSession, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    """The answer of ``url``; raises one of ``FAULTS`` without one."""
    passed = {name: value for name, value in headers.items() if name.lower() not in HOP_HEADERS}
    async with session.request(method, url, headers=passed, data=body or None, allow_redirects=False) as response:
        kept = {name: value for name, value in response.headers.items() if name.lower() not in HOP_HEADERS}
        return Answer(response.status, kept, await response.read())
