"""A tar or zip archive → a folder with what is in it. Knows nothing of checkpoints, but that torch's zips are none.

Nothing is written outside that folder: a link, a device, or a name that is no plain relative path refuses the whole
archive, and so does more than ``Limits`` allows. The folder appears whole or not at all.
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
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock

from audiocraft_ext.errors import CheckpointError

_COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_LARGEST_READ_BYTES = 16 << 20  # tarfile reads a file in smaller pieces; only a header may ask for more
# What tarfile, zipfile and the decompressors raise at damaged, encrypted or nonsensical content.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Limits:
    """What one archive may unpack to; the largest checkpoints, 3.3 B parameters with an optimizer, have 52 GB."""

    total_bytes: int = 64 << 30
    n_members: int = 10_000


class _Refused(Exception):
    """What is wrong with an archive, as a clause."""


def is_archive(path: Path) -> bool:
    """Whether a file is a tar (plain, gzip, bzip2, xz) or zip archive, by its content; what torch.save wrote is none.

    A zip is known by its first bytes: ``zipfile.is_zipfile`` looks at the last ones, where a tar that ends in a torch
    file looks like a zip.
    """
    try:
        if _is_zip(path):
            return not _is_torch_file(path)
        with _tar(path, Limits()) as tar:
            return tar.next() is not None  # zeros are an empty tar
    except _Refused:
        return True
    except _DAMAGE:
        return False
    except OSError as error:
        if error.errno is None:  # a decompressor's, of its input
            return False
        raise


def unpack(path: Path, cache: Path, limits: Limits = Limits()) -> Path:
    """The folder in ``cache`` with the archive's content; where that is one folder, that one.

    Raises ``CheckpointError`` for an archive that is refused, ``OSError`` where the disk does not take it.

    An archive is known by its path, size, inode and time of change. Hashing the content instead would cost a cold start
    seconds a gigabyte; the time of change, unlike that of modification, is none that cp, rsync or tar can set.
    """
    status = path.stat()
    identity = f"{path.resolve()}\n{status.st_size}\n{status.st_ino}\n{status.st_ctime_ns}"
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _unpack_whole(path, folder, limits)
    while len(inside := _visible(folder)) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


def _unpack_whole(path: Path, folder: Path, limits: Limits) -> None:
    scratch = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # a killed process left it
    scratch.mkdir()
    try:
        _extract(path, scratch, limits)
        scratch.rename(folder)
    except (*_DAMAGE, _Refused) as error:
        raise _refusal(path, error) from error
    except OSError as error:
        if error.errno is None:
            raise _refusal(path, error) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refusal(path: Path, error: Exception) -> CheckpointError:
    why = str(error) if isinstance(error, _Refused) else f"it is damaged ({error})"
    return CheckpointError(f"The archive {path.name} is refused: {why}. Make or fetch it anew, or name a folder.")


def _extract(path: Path, folder: Path, limits: Limits) -> None:
    budget = _Budget(limits)
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 in a zip that was not made on Unix
                budget.admit(info.filename, info.file_size, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            archive.extractall(folder)  # never more of a member than its claimed size, which was admitted
        return
    with _tar(path, limits) as tar:
        for member in tar:
            budget.admit(member.name, member.size, member.isfile() or member.isdir())
            tar.extract(member, folder, filter="data")


class _Budget:
    """What is left of an archive's limits, going by what its members claim."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._n_bytes = self._n_members = 0

    def admit(self, name: str, n_bytes: int, is_plain: bool) -> None:
        """Raises ``_Refused`` for a member that is no plain file or folder, would lie outside, or is too much."""
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise _Refused(f"{name!r} in it would lie outside of its folder")
        if not is_plain:
            raise _Refused(f"{name!r} in it is a link or a device")
        self._n_bytes += n_bytes
        self._n_members += 1
        if self._n_bytes > self._limits.total_bytes:
            raise _too_large(self._limits.total_bytes)
        if self._n_members > self._limits.n_members:
            raise _Refused(f"it holds more than {self._limits.n_members} files")


class _Bounded:
    """A tar's bytes, decompressed, as tarfile reads them: so many at most, whatever the members claim.

    Headers, whose size no member claims, tarfile reads into memory whole: a large one is refused.
    """

    def __init__(self, stream: IO[bytes], most_bytes: int) -> None:
        self._stream = stream
        self._most_bytes = most_bytes

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > _LARGEST_READ_BYTES:
            raise _Refused("a header in it is too large")
        data = self._stream.read(n_bytes)
        self._check(self._stream.tell())
        return data

    def seek(self, position: int) -> int:
        self._check(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._most_bytes:
            raise _too_large(self._most_bytes)


def _too_large(most_bytes: int) -> _Refused:
    return _Refused(f"it unpacks to more than {most_bytes / 1e9:.3g} GB")


@contextmanager
def _tar(path: Path, limits: Limits) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in _COMPRESSIONS.items() if head.startswith(magic)), open)
    with opener(path, "rb") as stream:
        bounded: Any = _Bounded(stream, limits.total_bytes)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            yield tar


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_torch_file(path: Path) -> bool:
    """torch.save writes a zip with one folder, in which a ``data.pkl`` lies."""
    with zipfile.ZipFile(path) as archive:
        return any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in archive.namelist())


def _visible(folder: Path) -> list[Path]:
    """What lies in the folder, without what macOS adds to archives."""
    return [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
