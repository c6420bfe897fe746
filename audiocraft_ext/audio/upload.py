"""Download an upload to a file, within limits of size and time. Knows nothing of audio or of URLs.

It reads an open file, or one that opens itself at the first read, as cog's URL files do.
"""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import requests
import urllib3

from audiocraft_ext.audio.read import ReadLimits
from audiocraft_ext.audio.source import FIELD
from audiocraft_ext.errors import InputError
from audiocraft_ext.progress import Progress

TIMEOUT_S = 120.0
_CHUNK_BYTES = 1 << 16


def download_upload(source: Any, path: Path, progress: Progress, *, limits: ReadLimits = ReadLimits()) -> None:
    """Write all of the file-like ``source`` to ``path``, and close it.

    Raises ``InputError`` that names ``input_audio`` if it cannot be read, is too large or too slow; ``Cancelled`` at
    the next chunk after ``progress.stop()``.
    """
    deadline, n_bytes = time.monotonic() + TIMEOUT_S, 0
    try:
        with closing(source), path.open("wb") as file:
            while chunk := source.read1(_CHUNK_BYTES):
                progress.check()
                n_bytes += file.write(chunk)
                if n_bytes > limits.file_bytes:
                    problem = f"the file has more than {limits.file_bytes / 1e6:g} MB."
                    raise InputError(FIELD, problem, "Cut it, or send it as mp3.")
                if time.monotonic() > deadline:
                    problem = f"its URL took longer than {TIMEOUT_S:g} s."
                    raise InputError(FIELD, problem, "Put it where it can be fetched faster.")
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        response = getattr(error, "response", None)
        problem = "cannot be fetched" if response is None else f"answers {response.status_code} {response.reason}"
        raise InputError(FIELD, f"its URL {problem}.", "Check that it opens elsewhere.") from error
