"""An https URL → a local file: resumed after a break, verified, cached. Knows nothing of what the bytes mean.

The cache key is the whole URL and the version of its content (the ETag), so that two files named ``trained_model.tar``
never collide: ``SHA-256 of the URL/SHA-256 of the version/name``, and ``content.part`` beside it while incomplete. Only
incomplete files are ever removed.

A signed URL is a secret: no message, log line or exception cause contains more of a URL than ``redact_url`` leaves.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock
from tqdm import tqdm

from audiocraft_ext.checkpoint.locate.hub import httpx
from audiocraft_ext.errors import CheckpointError

log = logging.getLogger(__name__)

_TIMEOUT = httpx.Timeout(60, connect=10)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_BACKOFF_S = (0.5, 1.0, 2.0)  # before each retry in a row that makes no progress


class _TransientError(Exception):
    """The server is unreachable or broke off, as a clause; a retry may succeed."""


def download(url: str, cache: Path) -> Path:
    """The file at ``url``, cached below ``cache``; ``URL#sha256=HEX`` pins its checksum.

    The server is asked for the current version each time, except for a pinned file. If it is unreachable, the newest
    copy is used, and the log says so. A lock per URL makes concurrent processes download it once.

    Raises ``CheckpointError`` if the server refuses, is unreachable, or the checksum differs, ``OSError`` if the disk
    is full.
    """
    url, sha256 = _split_checksum(url)
    folder = cache / _digest(url)
    if sha256 and (verified := _newest(folder, sha256)):
        return verified
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger(httpx.__name__).setLevel(logging.WARNING)  # below that it logs every URL in full
    hooks = {"request": [_check_transport]}  # called for every redirect, too
    with (
        FileLock(folder / "lock"),
        httpx.Client(timeout=_TIMEOUT, follow_redirects=True, event_hooks=hooks) as client,
    ):
        try:
            return _download_with_retries(client, url, sha256, folder)
        except _TransientError as error:
            newest = None if sha256 else _newest(folder)
            if newest is None:
                raise CheckpointError(
                    f"{redact_url(url)} could not be downloaded: {error}. Try again, which resumes the download, or "
                    "download the file by other means and name its path."
                ) from None
            log.warning("%s could not be downloaded (%s): using the newest cached copy.", redact_url(url), error)
            return newest


def redact_url(url: str) -> str:
    """``url`` without user, query and fragment, which may be secrets. A path or a hub id is returned as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _download_with_retries(client: httpx.Client, url: str, sha256: str | None, folder: Path) -> Path:
    """Retry as long as retries receive data; give up after ``len(_BACKOFF_S) + 1`` attempts in a row that do not."""
    most_bytes, n_failed = 0, 0
    while True:
        try:
            return _download_once(client, url, sha256, folder)
        except _TransientError:
            n_bytes = sum(part.stat().st_size for part in folder.glob("*.part"))
            n_failed = 0 if n_bytes > most_bytes else n_failed + 1
            most_bytes = max(most_bytes, n_bytes)
            if n_failed >= len(_BACKOFF_S):
                raise
            time.sleep(_BACKOFF_S[n_failed])


def _download_once(client: httpx.Client, url: str, sha256: str | None, folder: Path) -> Path:
    """Ask by GET, since a signed URL may not allow HEAD: for the rest of a partial file if its version is known.

    A server without ranges, or with new content, answers 200 and the whole file (RFC 9110, Range and If-Range).
    """
    part, part_version = folder / "content.part", folder / "content.version"
    begun = part_version.read_text() if part.exists() and part_version.exists() else ""
    n_bytes = part.stat().st_size if begun else 0
    ranges = {"Range": f"bytes={n_bytes}-", "If-Range": begun} if n_bytes else {}
    with _get(client, url, ranges) as response:
        # Without either header the file is downloaded again each time, and never resumed; a 206 may omit them.
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        version = version or (begun if response.status_code != 200 else "")
        final = folder / (sha256 or _digest(version)) / _file_name(url)
        if version and final.exists():
            os.utime(final.parent)  # now the newest
            return final
        if response.status_code == 200:
            part.unlink(missing_ok=True)
            part_version.write_text(version)
        elif version != begun or not re.match(rf"bytes ({n_bytes}-|\*/{n_bytes}$)", response.headers["Content-Range"]):
            part.unlink(missing_ok=True)
            raise _TransientError("its content changed during the download")
        if response.status_code != 416:  # which is what a complete part gets
            # As sent: a resumed download's offsets count those bytes, whatever Content-Encoding says.
            n_total = int(response.headers.get("Content-Length", 0)) or None
            progress = tqdm(desc=redact_url(str(response.url)), total=n_total, unit="B", unit_scale=True, disable=None)
            with part.open("ab") as file, progress as bar:
                for chunk in response.iter_raw():
                    bar.update(file.write(chunk))
    if sha256:
        _verify(part, sha256, url)
    final.parent.mkdir(exist_ok=True)
    return part.replace(final)


@contextmanager
def _get(client: httpx.Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The response to a GET, its body unread; errors while the body is read are translated, too."""
    try:
        with client.stream("GET", url, headers={"Accept-Encoding": "identity", **headers}) as response:
            _check_status(response)
            yield response
    except httpx.TransportError as error:
        raise _TransientError(str(error) or type(error).__name__) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CheckpointError(f"{redact_url(url)} cannot be downloaded: {type(error).__name__}.") from None


def _check_transport(request: httpx.Request) -> None:
    if request.url.scheme != "https" and not (request.url.scheme == "http" and request.url.host in _LOOPBACK):
        raise CheckpointError(
            f"{redact_url(str(request.url))} is refused: only https:// URLs are downloaded, since anything else can be "
            "tampered with in transit (http:// is allowed on localhost)."
        )


def _check_status(response: httpx.Response) -> None:
    place, status = redact_url(str(response.url)), response.status_code
    if status in (408, 429) or status >= 500:
        raise _TransientError(f"the server answers {status}")
    if status not in (200, 206, 416) or (status != 200 and "Content-Range" not in response.headers):
        hint = "the link may have expired" if status in (401, 403) else "check the address"
        raise CheckpointError(f"{place} cannot be downloaded: the server answers {status}; {hint}.")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise CheckpointError(
            f"{place} is a web page: give the URL of the file, or owner/name for the Hugging Face hub."
        )


def _verify(part: Path, sha256: str, url: str) -> None:
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        part.unlink()
        raise CheckpointError(
            f"{redact_url(url)} has the SHA-256 {actual}, not {sha256}; the download was deleted. If the file was "
            "changed on purpose, update the checksum."
        )


def _split_checksum(url: str) -> tuple[str, str | None]:
    """The URL, and the SHA-256 in its fragment."""
    url, _, fragment = url.partition("#")
    try:
        urlsplit(url)
    except ValueError:
        raise CheckpointError(f"The {url.partition('://')[0]}:// URL is not valid: check its host.") from None
    match = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment, re.IGNORECASE)
    if fragment and not match:
        raise CheckpointError(f"The fragment of {redact_url(url)} is not a checksum: use #sha256= and 64 hex digits.")
    return url, match[1].lower() if match else None


def _newest(folder: Path, version: str = "*") -> Path | None:
    """The file of the version that the server named last."""
    return max(folder.glob(f"{version}/*"), key=lambda file: file.parent.stat().st_mtime_ns, default=None)


def _file_name(url: str) -> str:
    """The last part of the URL, for messages; characters that are unsafe in a file name are replaced."""
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])
    return name[-100:].lstrip(".") or "checkpoint"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
