"""Archives that are unpacked, torch files that are left alone, and archives that are refused."""

import gzip
import io
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from audiocraft_ext.checkpoint.locate.archive import Limits, is_archive, unpack
from audiocraft_ext.errors import CheckpointError

KINDS = ["tar", "gztar", "bztar", "xztar", "zip"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a torch file under the name that the fine-tuner gives it, and one in a folder within."""
    folder = tmp_path / "their model"
    (folder / "text_encoder").mkdir(parents=True)
    torch.save({"model": torch.arange(5000)}, folder / "trained_model.tar")
    (folder / "text_encoder" / "config.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(cache: Path) -> list[Path]:
    """The files that an archive has left in the cache, except locks."""
    return [path for path in cache.rglob("*") if path.suffix != ".lock"]


@pytest.mark.parametrize("inside", [".", "their model"], ids=["bare", "in a folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_archives_are_recognised_by_content_and_unwrapped(model: Path, cache: Path, kind: str, inside: str) -> None:
    root = model if inside == "." else model.parent
    path = Path(shutil.make_archive(str(model.parent / "made"), kind, root, inside)).rename(model.parent / "weights")
    assert is_archive(path)
    assert contents(unpack(path, cache)) == contents(model)


def test_a_plain_tar_that_ends_in_a_torch_file_is_a_tar(model: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(model / "trained_model.tar", "trained_model.tar")
    assert zipfile.is_zipfile(path)  # the trap
    assert is_archive(path)
    assert (unpack(path, cache) / "trained_model.tar").read_bytes() == (model / "trained_model.tar").read_bytes()


@pytest.mark.parametrize("as_zip", [True, False])
def test_torch_files_are_left_alone(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "trained_model.tar"
    torch.save({"model": torch.zeros(3)}, path, _use_new_zipfile_serialization=as_zip)
    assert not is_archive(path)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x1f\x8bno gzip", b"PK\x03\x04cut", gzip.compress(b"one file", mtime=0), bytes(10240)]
)
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    assert not is_archive(path)


def test_macos_metadata_does_not_hide_the_single_folder(model: Path, cache: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as made:
        made.write(model / "trained_model.tar", "model/trained_model.tar")
        made.writestr("__MACOSX/model/._trained_model.tar", b"")
        made.writestr(".DS_Store", b"")
    assert unpack(tmp_path / "model.zip", cache).name == "model"


def test_an_archive_is_unpacked_again_only_after_a_change(model: Path, cache: Path, tmp_path: Path) -> None:
    def write(content: bytes) -> None:
        with zipfile.ZipFile(path, "w") as made:
            made.writestr(zipfile.ZipInfo("lm.bin"), content)
        os.utime(path, (1e9, 1e9))

    path = tmp_path / "model.zip"
    write(b"old")
    first = unpack(path, cache)
    assert unpack(path, cache) == first
    write(b"new")  # of the same path, size and time of modification
    assert (unpack(path, cache) / "lm.bin").read_bytes() == b"new"


def test_a_killed_process_s_partial_folder_is_replaced(model: Path, cache: Path) -> None:
    path = Path(shutil.make_archive(str(model.parent / "made"), "zip", model))
    whole = unpack(path, cache)
    (whole / "text_encoder" / "config.json").unlink()
    whole.rename(f"{whole}.part")
    assert contents(unpack(path, cache)) == contents(model)
    assert kept(cache) == [whole, *kept(whole)]


def tar_of(*members: tuple[str, bytes, dict[str, Any]]) -> bytes:
    """A gzipped tar of (name, type, other fields); files hold their size in zeros."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, kind, fields in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return made.getvalue()


def zip_of(*members: tuple[str, int], size: int = 1) -> bytes:
    """A zip of (name, Unix mode); files hold ``size`` zeros."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, bytes(size), zipfile.ZIP_DEFLATED)
    return made.getvalue()


REG, SYM, LNK, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
REFUSED = {
    "tar, a parent": tar_of(("../escaped", REG, {"size": 1})),
    "tar, a parent within": tar_of(("a/../../escaped", REG, {"size": 1})),
    "tar, a folder outside": tar_of(("../escaped", DIR, {})),
    "tar, a symlink": tar_of(("link", SYM, {"linkname": "lm.bin"})),
    "tar, a symlink outside, then through it": tar_of(
        ("link", SYM, {"linkname": ".."}), ("link/escaped", REG, {"size": 1})
    ),
    "tar, a hard link": tar_of(("link", LNK, {"linkname": "/etc/passwd"})),
    "tar, a device": tar_of(("null", tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3})),
    "tar, a pipe": tar_of(("pipe", tarfile.FIFOTYPE, {})),
}
SANITISED = {
    "tar, absolute": tar_of(("/tmp/musicgen-escaped", REG, {"size": 1})),
    "zip, a parent": zip_of(("../escaped", 0o100644)),
    "zip, absolute": zip_of(("/tmp/musicgen-escaped", 0o100644)),
    "zip, a symlink": zip_of(("link", 0o120777)),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_a_tar_that_reaches_outside_is_refused_whole(cache: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    assert is_archive(path)
    with pytest.raises(CheckpointError, match=r"outside the destination|a link or a device"):
        unpack(path, cache)
    assert not kept(cache)
    assert {file.name for file in tmp_path.iterdir()} == {"model", "cache"}


@pytest.mark.parametrize("names", [["a" * 256], ["a", "a/b.wav"]])
def test_names_that_no_disk_can_have_are_refused(cache: Path, tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "model.zip").write_bytes(zip_of(*((name, 0o100644) for name in names)))
    with pytest.raises(
        CheckpointError, match=r"^The archive model\.zip is refused: it is damaged or unsafe \("
    ) as raised:
        unpack(tmp_path / "model.zip", cache)
    assert str(tmp_path) not in str(raised.value)
    assert not kept(cache)


@pytest.mark.parametrize("content", SANITISED.values(), ids=SANITISED.keys())
def test_other_names_that_lead_outside_are_unpacked_inside(cache: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    (file,) = (file for file in unpack(path, cache).parent.rglob("*") if not file.is_dir() and file.suffix != ".lock")
    assert file.is_file()
    assert not file.is_symlink()
    assert {file.name for file in tmp_path.iterdir()} == {"model", "cache"}
    assert not Path("/tmp/musicgen-escaped").exists()


@pytest.mark.parametrize("content", SANITISED.values(), ids=SANITISED.keys())
def test_a_strict_reader_refuses_what_others_unpack_inside(cache: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "songs"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="a link, or its name leads outside"):
        unpack(path, cache, Limits(strict=True))
    assert not kept(cache)


def _lying_zip() -> bytes:
    """A megabyte that claims, in both of its headers, to be one byte."""
    whole = bytearray(zip_of(("lm.bin", 0o100644), size=1 << 20))
    directory = whole.index(b"PK\x01\x02")
    struct.pack_into("<I", whole, 22, 1)
    struct.pack_into("<I", whole, directory + 24, 1)
    return bytes(whole)


def _sparse_tar() -> bytes:
    """A terabyte of nothing in a few bytes, as GNU tar writes holes."""
    return tar_of(("lm.bin", REG, {"pax_headers": {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}}))


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "tar, a large file": (lambda: tar_of(("lm.bin", REG, {"size": 2_000_000})), "more than 0.001 GB"),
    "tar, large together": (lambda: tar_of(*[("lm.bin", REG, {"size": 300_000})] * 4), "more than 0.001 GB"),
    "tar, holes": (_sparse_tar, "more than 0.001 GB"),
    "tar, a large header": (
        lambda: tar_of(("lm.bin", REG, {"pax_headers": {"comment": " " * (20 << 20)}})),
        "headers is too large",
    ),
    "tar, headers large together": (
        lambda: tar_of(*[("lm.bin", REG, {"pax_headers": {"comment": " " * 400_000}})] * 4),
        "more than 0.001 GB",
    ),
    "tar, many": (lambda: tar_of(*[("lm.bin", REG, {})] * 101), "more than 100 files"),
    "zip, a large file": (lambda: zip_of(("lm.bin", 0), size=2_000_000), "more than 0.001 GB"),
    "zip, many": (lambda: zip_of(*[(f"{i}", 0) for i in range(101)]), "more than 100 files"),
    "zip, larger than it claims": (_lying_zip, "damaged"),
}


@pytest.mark.parametrize(("make", "problem"), BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused_by_declared_and_by_actual_size(
    cache: Path, tmp_path: Path, make: Callable[[], bytes], problem: str
) -> None:
    path = tmp_path / "model"
    path.write_bytes(make())
    assert is_archive(path)
    with pytest.raises(CheckpointError, match=problem):
        unpack(path, cache, Limits(max_bytes=1_000_000, max_members=100))
    assert not kept(cache)


@pytest.mark.parametrize("n_bytes", [-512, -1024, -(10**6)])
def test_a_tar_member_of_negative_size_is_refused(cache: Path, tmp_path: Path, n_bytes: int) -> None:
    """A reader that looks for the next member behind it finds the former one again, in an endless loop."""
    header = bytearray(tarfile.TarInfo("lm.bin").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + (256**11 + n_bytes).to_bytes(11, "big")  # how a size below zero is written
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "model"
    path.write_bytes(gzip.decompress(tar_of(("codec.bin", REG, {"size": 5})))[:1024] + header + bytes(10240))
    with pytest.raises(CheckpointError, match="damaged"):
        unpack(path, cache)
    assert not kept(cache)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_truncated_archive_is_refused(
    model: Path, cache: Path, tmp_path: Path, kind: Literal["gztar", "bztar", "xztar", "zip"]
) -> None:
    whole = Path(shutil.make_archive(str(tmp_path / "made"), kind, model))
    whole.write_bytes(whole.read_bytes()[:-60])
    with pytest.raises(CheckpointError, match="damaged"):
        unpack(whole, cache)
    assert not kept(cache)


def test_an_encrypted_zip_is_refused(cache: Path, tmp_path: Path) -> None:
    content = bytearray(zip_of(("lm.bin", 0)))
    for header in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[header] |= 1
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        unpack(tmp_path / "model.zip", cache)
