"""Download a URL to a file, within limits of size and time, on the event loop: a cancel ends it at any moment."""

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from pathlib import Path

import httpx2 as httpx

from audiocraft_ext.audio.read import ReadLimits
from audiocraft_ext.audio.source import FIELD
from audiocraft_ext.errors import InputError

TIMEOUT_S = 120.0
_SILENCE_S = 10.0
_MAX_REDIRECTS = 10
_ssl_context = cache(httpx.create_ssl_context)  # which takes 30 ms of the event loop


async def download(url: str, path: Path, *, limits: ReadLimits = ReadLimits()) -> None:
    """Write the file at ``url`` to ``path``.

    Raises ``InputError`` that names ``input_audio`` if it cannot be fetched, is too large or too slow.
    """
    n_bytes, hint = 0, "Check that it opens elsewhere."
    try:
        # The limit is on all of it: the host's name, redirects, headers that arrive byte by byte.
        async with asyncio.timeout(TIMEOUT_S), _answer(url) as response:
            with path.open("wb") as file:
                async for chunk in _content(response):
                    n_bytes += file.write(chunk)
                    if n_bytes > limits.file_bytes:
                        problem = f"the file has more than {limits.file_bytes / 1e6:g} MB."
                        raise InputError(FIELD, problem, "Cut it, or send it as mp3.")
    except InputError:
        raise
    except TimeoutError as error:
        problem = f"its URL took longer than {TIMEOUT_S:g} s."
        raise InputError(FIELD, problem, "Put it where it can be fetched faster.") from error
    except httpx.HTTPStatusError as error:
        problem = f"its URL answers {error.response.status_code} {error.response.reason_phrase}."
        raise InputError(FIELD, problem, hint) from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, zlib.error) as error:  # ValueError: a malformed redirect
        raise InputError(FIELD, "its URL cannot be fetched.", hint) from error


@asynccontextmanager
async def _answer(url: str) -> AsyncIterator[httpx.Response]:
    """The response at the end of redirects, their own bodies unread: httpx would read them without a limit."""
    logging.getLogger(httpx.__name__).setLevel(logging.WARNING)  # below that it logs every URL in full
    async with httpx.AsyncClient(timeout=_SILENCE_S, verify=_ssl_context()) as client:
        request = client.build_request("GET", url, headers={"Accept-Encoding": "identity"})
        for n_left in reversed(range(_MAX_REDIRECTS + 1)):
            async with aclosing(await client.send(request, stream=True)) as response:
                if response.next_request is None or not n_left:
                    response.raise_for_status()
                    yield response
                    return
            request = response.next_request


async def _content(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body in chunks, unpacked where it is packed all the same; ``zlib.error`` if its end is missing."""
    is_packed = response.headers.get("Content-Encoding") in ("gzip", "x-gzip", "deflate")
    inflate = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # either format, by its header
    async for chunk in response.aiter_raw():
        yield inflate.decompress(chunk) if is_packed else chunk
    if is_packed and (not inflate.eof or inflate.unused_data):
        raise zlib.error("the stream does not end where the response does")
