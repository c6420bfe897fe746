"""A data set's path → its audio files with their captions, and the faults of both. Decodes no audio.

An archive, a folder or one audio file, recognised by content; folders within are searched. A caption is the whole text
of ``NAME.txt`` beside ``NAME.wav``, not its first line alone: no word is lost. Or it is the ``text`` of a row of
``captions.csv``, ``metadata.csv`` or ``metadata.jsonl``, whose ``file_name`` is relative to the table's folder.
"""

import csv
import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from audiocraft_ext.checkpoint.locate.archive import Limits, is_archive, unpack
from audiocraft_ext.errors import CheckpointError, InputError

FIELD = "dataset_path"
MAX_CAPTION_CHARACTERS = 2000  # some 500 tokens of T5, which was trained on 512
_MAX_BYTES, _MAX_RATIO, _RATIO_FROM_BYTES = 20_000_000_000, 100, 100_000_000
_MAX_TEXT_BYTES = 10_000_000
_TABLES = ("captions.csv", "metadata.csv", "metadata.jsonl")
_ABOUT = ("readme", "license", "licence")  # texts that sample packs have, and that are no caption


@dataclass
class Files:
    """Audio files by their names within the data set, sorted; captions of those names; faults by file; notes."""

    audio: dict[str, Path] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def caption(self, name: str, text: str, origin: str) -> None:
        """Set a file's caption, its white space collapsed, or note a fault of ``origin``."""
        text = " ".join(text.split())
        if not text:
            self.faults.append(f"{origin}: the caption of {name} is empty.")
        elif len(text) > MAX_CAPTION_CHARACTERS:
            problem = f"has {len(text)} characters; the limit is {MAX_CAPTION_CHARACTERS}"
            self.faults.append(f"{origin}: the caption of {name} {problem}.")
        elif self.captions.setdefault(name, text) != text:
            self.faults.append(f"{origin}: {name} already has another caption.")


def find_files(path: Path, workdir: Path) -> Files:
    """The files of an archive, which is unpacked below ``workdir``, of a folder, or the one audio file itself.

    Raises ``InputError`` for a path that does not exist, and an archive that is damaged, too large or unsafe.
    """
    if not path.exists():
        raise InputError(FIELD, "there is no such file.", "Send it again.")
    if not (path.is_dir() or _is_compressed(path) or is_archive(path)):
        files = Files({normal_name(path.name): path})
        # An upload has a name of its own in the temporary folder, and no neighbour of that name.
        for file in {path.with_suffix(".txt"), path.with_name(f"{path.name}.txt")} - {path}:
            if file.is_file():
                _read_caption(files, normal_name(file.name), file, [*files.audio])
        return files
    root = path if path.is_dir() else _unpack(path, workdir / "archives")
    found = {normal_name(file.relative_to(root).as_posix()): file for file in sorted(root.rglob("*")) if file.is_file()}
    # macOS adds __MACOSX, .DS_Store and ._song.wav to archives, in any folder.
    found = {name: file for name, file in found.items() if not re.search(r"(^|/)(\.|__MACOSX/)", name)}
    tables = {name: file for name, file in found.items() if file.name.lower() in _TABLES}
    texts = {name: file for name, file in found.items() if file.suffix.lower() == ".txt"}
    files = Files({name: file for name, file in found.items() if name not in tables.keys() | texts.keys()})
    owners = defaultdict(list)
    for name in files.audio:
        for stem in {name, str(PurePosixPath(name).with_suffix(""))}:  # song.wav has song.txt, or song.wav.txt
            owners[stem].append(name)
    for name, file in texts.items():
        _read_caption(files, name, file, owners[name[: -len(".txt")]])
    for name, file in tables.items():
        _read_table(files, name, file)
    return files


def normal_name(name: str) -> str:
    """A path as it is compared and shown: macOS splits accents off their letters; a tar's need not be UTF-8."""
    return unicodedata.normalize("NFC", name.encode(errors="backslashreplace").decode())


def _is_compressed(path: Path) -> bool:
    """Whether the file was an archive, even if it is cut now."""
    with path.open("rb") as file:
        return file.read(5).startswith((b"PK\3\4", b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


def _unpack(path: Path, cache: Path) -> Path:
    # A few seconds of silence also shrink a hundredfold: the ratio counts for large archives.
    max_bytes = min(_MAX_BYTES, max(_RATIO_FROM_BYTES, _MAX_RATIO * path.stat().st_size))
    try:
        return unpack(path, cache, Limits(max_bytes, strict=True))
    except CheckpointError as error:
        raise InputError(FIELD, str(error), "It may be a zip, tar or tar.gz of audio files.") from error


def _read_caption(files: Files, name: str, file: Path, owners: list[str]) -> None:
    if not owners and file.stem.lower() in _ABOUT:
        files.notes.append(f"{name} is not a caption: left out.")
    elif not owners:
        files.faults.append(f"{name}: there is no audio file of that name beside it.")
    elif (text := _read_text(files, name, file)) is not None:
        for owner in owners:
            files.caption(owner, text, name)


def _read_text(files: Files, name: str, file: Path) -> str | None:
    """A file's text, or None after its fault was added."""
    if file.stat().st_size > _MAX_TEXT_BYTES:
        files.faults.append(f"{name}: it is larger than {_MAX_TEXT_BYTES / 1e6:g} MB.")
        return None
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        files.faults.append(f"{name}: its text is not UTF-8.")
        return None


def _read_table(files: Files, name: str, file: Path) -> None:
    text = _read_text(files, name, file)
    folder = name.rpartition("/")[0]
    try:
        for audio, caption, is_cut in _rows(text, file.suffix.lower()) if text is not None else ():
            within = f"{folder}/{audio}".strip("/")
            if is_cut:
                files.faults.append(f'{name}: too many commas in the row of {audio}: put its text in "quotes".')
            elif within in files.audio:
                files.caption(within, caption, name)
            else:
                files.faults.append(f"{name}: it names {audio}, which is not beside it.")
    except (csv.Error, ValueError, KeyError, TypeError, RecursionError):
        files.faults.append(f"{name}: it is not a table with the columns file_name and text.")


def _rows(text: str, suffix: str) -> Iterator[tuple[str, str, bool]]:
    """File name and caption of each row, and whether it has fields of no column: a caption's commas without quotes."""
    lines = io.StringIO(text)  # unlike splitlines, it ends no line at the separators of Unicode
    rows: Iterable[Any] = csv.DictReader(lines) if suffix == ".csv" else map(json.loads, filter(str.strip, lines))
    if isinstance(rows, csv.DictReader) and not {"file_name", "text"} <= set(rows.fieldnames or ()):
        raise ValueError("no such columns")
    for row in rows:
        audio, caption = row["file_name"], row["text"]
        if not (isinstance(audio, str) and isinstance(caption, str)):
            raise ValueError("not text")
        caption.encode()  # JSON can escape half of a character: a ValueError
        yield normal_name(audio.replace("\\", "/").removeprefix("./")), caption, None in row
