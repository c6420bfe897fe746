"""An https URL → a local file: continued where it broke off, checked, kept. Knows nothing of what the bytes mean.

A file is kept under the whole URL and the version that the server gives its content (the ETag), so that neither two
people's ``trained_model.tar`` nor two of one person meet: as ``SHA-256 of the URL/SHA-256 of the version/name``, and
while it is not whole as ``SHA-256 of the URL/SHA-256 of the version.part``. Nothing is ever removed but parts.

A signed URL is a secret: no message, and no exception's cause, holds more of a URL than ``shown`` does.
"""

import hashlib
import ipaddress
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from audiocraft_ext.errors import CheckpointError

log = logging.getLogger(__name__)

_TIMEOUT_S = (10, 60)  # to connect, and between two pieces
_PAUSES_S = (0.5, 1.0, 2.0)  # before another try, as long as nothing more arrives
_CHUNK_BYTES = 1 << 16  # what may be lost, and fetched again, where a server stands still
# Failures of the network, which another try may mend, and how they are told; the first that fits.
_BREAKS: dict[type[Exception], str] = {
    urllib3.exceptions.NameResolutionError: "its host name is not known here",
    urllib3.exceptions.NewConnectionError: "there is no connection to it",
    urllib3.exceptions.SSLError: "there is no secure connection to it (TLS)",
    requests.exceptions.SSLError: "there is no secure connection to it (TLS)",
    urllib3.exceptions.TimeoutError: "it does not answer in time",
    requests.exceptions.Timeout: "it does not answer in time",
    requests.exceptions.ConnectionError: "the connection broke off",
    urllib3.exceptions.HTTPError: "the connection broke off",
}


class _Broken(Exception):
    """The server cannot be reached or broke off, as a clause; another try may succeed."""


class _Session(requests.Session):
    def get_adapter(self, url: str | bytes) -> requests.adapters.BaseAdapter:
        """Called for each request, the redirected ones too: what arrives over plain http may be anyone's."""
        parts = urlsplit(url if isinstance(url, str) else url.decode())
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_this_machine(parts.hostname or "")):
            raise CheckpointError(
                f"{shown(parts.geturl())} is not fetched: only https:// is, since what arrives otherwise may have been "
                "exchanged on its way (http:// is for this machine alone)."
            )
        return super().get_adapter(parts.geturl())


def download(url: str, cache: Path) -> Path:
    """The file behind ``url``, kept below ``cache``; ``URL#sha256=HEX`` has its checksum checked.

    The server is asked each time for the content's version, except with a checksum, which names one. Where it cannot be
    reached the newest copy is used, and the log says so. One process downloads a URL at a time, others wait for it.

    Raises ``CheckpointError`` for what the server refuses, a wrong checksum, or no way to reach it, ``OSError`` where
    the disk does not take it.
    """
    url, sha256 = _split(url)
    folder = cache / _digest(url)
    if sha256 and (checked := _newest(folder, sha256)):
        return checked
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"), _Session() as session:
        try:
            return _persist(session, url, sha256, folder)
        except _Broken as broken:
            newest = None if sha256 else _newest(folder)
            if newest is None:
                raise CheckpointError(
                    f"{shown(url)} could not be downloaded: {broken}. Try again, and it goes on where it stopped, or "
                    "fetch the file by other means and name it instead."
                ) from None
            log.warning("%s could not be downloaded (%s): the newest copy of it is used.", shown(url), broken)
            return newest


def shown(url: str) -> str:
    """``url`` without what may be secret in it: user, query and fragment. A path or a hub id as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _persist(session: requests.Session, url: str, sha256: str | None, folder: Path) -> Path:
    """Tries until the file is there, or nothing more has arrived in as many tries as there are pauses, and one."""
    most_bytes, n_vain = 0, 0
    while True:
        try:
            return _attempt(session, url, sha256, folder)
        except _Broken:
            n_bytes = sum(part.stat().st_size for part in folder.glob("*.part"))
            n_vain = 0 if n_bytes > most_bytes else n_vain + 1
            most_bytes = max(most_bytes, n_bytes)
            if n_vain >= len(_PAUSES_S):
                raise
            time.sleep(_PAUSES_S[n_vain])


def _attempt(session: requests.Session, url: str, sha256: str | None, folder: Path) -> Path:
    """Asks for the whole file, since a signed URL may not allow HEAD, and reads none of it if it is there or begun."""
    with _answer(session, url) as response:
        version = _version(response)
        final = folder / (sha256 or _digest(version)) / _file_name(url)
        if version and final.exists():
            os.utime(final.parent)  # now the newest
            return final
        part = folder / f"{_digest(version)}.part"
        n_bytes = part.stat().st_size if version and part.exists() else 0
        is_whole = str(n_bytes) == response.headers.get("Content-Length")
        if not n_bytes:
            _receive(response, part, "wb")
    if n_bytes and not is_whole:
        _resume(session, url, version, part, n_bytes)
    _check(part, sha256, url)
    final.parent.mkdir(exist_ok=True)
    part.replace(final)
    for outdated in folder.glob("*.part"):
        outdated.unlink()
    return final


def _resume(session: requests.Session, url: str, version: str, part: Path, n_bytes: int) -> None:
    """The rest of a part, or all of it from a server that only knows whole files (RFC 9110, Range and If-Range)."""
    with _answer(session, url, {"Range": f"bytes={n_bytes}-", "If-Range": version}) as response:
        is_rest = response.headers.get("Content-Range", "").startswith(f"bytes {n_bytes}-")
        if response.status_code == 206 and is_rest and _version(response) in (version, ""):
            _receive(response, part, "ab")
        elif response.status_code == 200 and _version(response) == version:
            _receive(response, part, "wb")
        else:
            part.unlink()
            raise _Broken("its content changes while it is downloaded")


@contextmanager
def _answer(
    session: requests.Session, url: str, headers: Mapping[str, str] = MappingProxyType({})
) -> Iterator[requests.Response]:
    """The open response to a GET. Every failure in the block that reads it, too, is told in our words."""
    try:
        with session.get(
            url, headers={"Accept-Encoding": "identity", **headers}, stream=True, timeout=_TIMEOUT_S
        ) as response:
            _refuse_unless_found(response)
            yield response
    except tuple(_BREAKS) as error:
        cause = getattr(error.args[0] if error.args else None, "reason", None) or error
        raise _Broken(next(clause for kind, clause in _BREAKS.items() if isinstance(cause, kind))) from None
    except requests.RequestException as error:
        raise CheckpointError(f"{shown(url)} cannot be downloaded: {type(error).__name__}.") from None


def _refuse_unless_found(response: requests.Response) -> None:
    place, status = shown(response.url), response.status_code
    if status in (404, 410):
        raise CheckpointError(f"There is nothing at {place} ({status}): check the address.")
    if status in (401, 403):
        raise CheckpointError(f"{place} refuses access ({status}): its link may have expired; ask for a new one.")
    if status in (408, 429) or status >= 500:
        raise _Broken(f"the server answers {status}")
    if status not in ((200, 206, 416) if "Range" in response.request.headers else (200,)):
        raise CheckpointError(f"{place} cannot be downloaded: the server answers {status}.")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise CheckpointError(
            f"{place} is a web page, not a checkpoint: give the link of the download itself, or of a page on the "
            "Hugging Face hub its owner/name."
        )


def _receive(response: requests.Response, part: Path, mode: str) -> None:
    """Keeps the bytes as they are sent: offsets count those, whatever encoding the server claims for them."""
    n_bytes = int(response.headers.get("Content-Length", 0)) or None
    with (
        part.open(mode) as file,
        tqdm(desc=shown(response.url), total=n_bytes, unit="B", unit_scale=True, disable=None) as bar,
    ):
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            bar.update(file.write(chunk))


def _check(part: Path, sha256: str | None, url: str) -> None:
    if sha256 is None:
        return
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        part.unlink()
        raise CheckpointError(
            f"What {shown(url)} sends has the SHA-256 {actual}, not {sha256}; it is deleted. "
            "Correct the checksum if the file was changed on purpose."
        )


def _version(response: requests.Response) -> str:
    """What changes with the content: the ETag, or else the date. "" where there is neither: such a file is not kept as
    current, and not continued."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _split(url: str) -> tuple[str, str | None]:
    """The URL, and the checksum in its fragment."""
    url, _, fragment = url.partition("#")
    try:
        urlsplit(url)
    except ValueError:
        raise CheckpointError(f"What begins with {url.partition('://')[0]}:// is no URL: check its host.") from None
    match = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment, re.IGNORECASE)
    if fragment and not match:
        raise CheckpointError(f"What follows the # of {shown(url)} is no checksum: write #sha256= and 64 hex digits.")
    return url, match[1].lower() if match else None


def _newest(folder: Path, version: str = "*") -> Path | None:
    """The file of the version that the server named last."""
    return max(folder.glob(f"{version}/*"), key=lambda file: file.parent.stat().st_mtime_ns, default=None)


def _file_name(url: str) -> str:
    """The URL's last part, for messages to name the file by; what could be more than a file's name is replaced."""
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])
    return name[-100:].lstrip(".") or "checkpoint"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
