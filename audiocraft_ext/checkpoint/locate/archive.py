"""A tar or zip archive → a folder with its content. Knows nothing of its content, except to leave torch's zips alone.

tarfile and zipfile write nothing outside that folder. It appears whole or not at all, within the limits below.
"""

import bz2
import gzip
import hashlib
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from audiocraft_ext.errors import DISK_FULL, CheckpointError

_MAX_READ_BYTES = 16 << 20  # tarfile reads files in smaller chunks, but headers whole
_MACOS = (".", "__MACOSX")  # what macOS adds to archives
_COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# The errors that the libraries raise for damaged, encrypted or malformed content, and for members outside the folder.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


class _Refused(Exception):
    """A problem of an archive, as a clause."""


@dataclass(frozen=True)
class Limits:
    """The size and the names that an archive may have, by default a checkpoint.

    A tar's links and parents are always refused. With ``strict``, so are a zip's, and absolute names, which are
    unpacked inside the folder otherwise.
    """

    max_bytes: int = 64 << 30  # the largest checkpoints, 3.3 B parameters with an optimizer, have 52 GB
    max_members: int = 10_000
    strict: bool = False

    def check_sizes(self, sizes: list[int]) -> None:
        if len(sizes) > self.max_members:
            raise _Refused(f"it contains more than {self.max_members} files")
        if sum(sizes) > self.max_bytes:
            raise _Refused(f"it unpacks to more than {self.max_bytes / 1e9:.3g} GB")

    def check_name(self, name: str, is_link: bool = False) -> None:
        leads_outside = re.match(r"[/\\]|\w:", name) or ".." in re.split(r"[/\\]", name)
        if self.strict and (is_link or leads_outside):
            raise _Refused(f"its member {name!r} is a link, or its name leads outside the archive")


def is_archive(path: Path) -> bool:
    """Whether a file's content is a tar (plain, gzip, bzip2, xz) or zip archive, and not what ``torch.save`` wrote.

    ``zipfile.is_zipfile`` looks at the last bytes, and takes a tar that ends in a torch file for a zip.
    """
    try:
        if _is_zip(path):
            with zipfile.ZipFile(path) as archive:  # torch.save writes one folder that contains a data.pkl
                return not any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in archive.namelist())
        with _open_tar(path, Limits()) as tar:
            return tar.next() is not None  # zeros are an empty tar
    except _Refused:
        return True
    except _DAMAGE:
        return False


def unpack(path: Path, cache: Path, limits: Limits = Limits()) -> Path:
    """The folder in ``cache`` with the archive's content, or the only folder in that one.

    Raises ``CheckpointError`` for an archive that is refused, ``OSError`` if the disk is full.

    The cache key is path, size, inode and ctime: hashing the content would cost a cold start seconds per gigabyte, and
    unlike mtime, ctime cannot be set by cp, rsync or tar.
    """
    status = path.stat()
    identity = f"{path.resolve()}\n{status.st_size}\n{status.st_ino}\n{status.st_ctime_ns}"
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _unpack_atomically(path, folder, limits)
    while len(inside := [path for path in folder.iterdir() if not path.name.startswith(_MACOS)]) == 1:
        if not inside[0].is_dir():
            break
        folder = inside[0]
    return folder


def _unpack_atomically(path: Path, folder: Path, limits: Limits) -> None:
    scratch = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
    scratch.mkdir()
    try:
        _extract(path, scratch, limits)
        scratch.rename(folder)
    except (*_DAMAGE, OSError, _Refused) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = getattr(error, "strerror", error)  # without the path of a name that is too long
        problem = error if isinstance(error, _Refused) else f"it is damaged or unsafe ({reason})"
        raise CheckpointError(
            f"The archive {path.name} is refused: {problem}. Create or download it again, or name a folder instead."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _extract(path: Path, folder: Path, limits: Limits) -> None:
    """Check the sizes that members declare, which the libraries never exceed, before each is written."""
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            limits.check_sizes([member.file_size for member in archive.infolist()])
            for entry in archive.infolist():
                limits.check_name(entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
            archive.extractall(folder)
        return
    sizes = []
    with _open_tar(path, limits) as tar:
        for member in tar:
            sizes.append(member.size)
            limits.check_sizes(sizes)
            limits.check_name(member.name)
            # Through links, the filter of Python before 3.11.13 can be made to write outside (CVE-2025-4517).
            if not (member.isfile() or member.isdir()):
                raise _Refused(f"its member {member.name!r} is a link or a device")
            tar.extract(member, folder, filter="data")


class _BoundedStream:
    """A decompressed tar as tarfile reads it, up to the limits: headers, which it reads whole, declare no size."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._stream, self.seek, self.tell, self._limits = stream, stream.seek, stream.tell, limits

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > _MAX_READ_BYTES:
            raise _Refused("one of its headers is too large")
        self._limits.check_sizes([self.tell() + n_bytes])
        try:
            return self._stream.read(n_bytes)
        except OSError as error:  # gzip's and bz2's for damage
            raise tarfile.ReadError(str(error)) from error


@contextmanager
def _open_tar(path: Path, limits: Limits) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in _COMPRESSIONS.items() if head.startswith(magic)), open)
    with opener(path, "rb") as stream:
        bounded: Any = _BoundedStream(stream, limits)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            yield tar


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
