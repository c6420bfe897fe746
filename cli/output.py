"""Where results are saved: names that can be read, and no file that is overwritten without ``--force``."""

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAME_LENGTH = 48


def is_folder(output: str | Path) -> bool:
    """Whether results get readable names in it: a folder, or a new one, whose name ends with a slash."""
    return str(output).endswith("/") or Path(output).is_dir()


def targets(output: str | Path | None, inputs: dict[str, Any], seeds: list[int], force: bool) -> list[Path]:
    """A path for each seed: ``output`` itself, or in it as a folder (None: the current one) a name of the inputs'.

    ``save`` creates a new folder.

    Raises ``ValueError`` for one that cannot be written, and for one that exists, unless its name is ours to choose.
    """
    ending = f".{inputs['output_format']}"
    folder = Path(output or "")
    if is_folder(output or ""):
        _check_folder(folder if folder.exists() else folder.absolute().parent, folder)
        return [folder / f"{readable_name(inputs)}-seed{seed}{ending}" for seed in seeds]
    _check_folder(folder.absolute().parent, folder)
    named = folder if folder.suffix else folder.with_name(folder.name + ending)
    paths = [named] if len(seeds) == 1 else [named.with_stem(f"{named.stem}-seed{seed}") for seed in seeds]
    for path in paths:
        if path.exists() and not (force and path.is_file()):
            hint = "--force replaces it" if path.is_file() else "It is a folder"
            raise ValueError(f"-o {path}: it is there already. {hint}; or choose another name, or a folder.")
    return paths


def _check_folder(folder: Path, output: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"-o {output}: there is no folder {output.parent}. Name a file in a folder that exists.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"-o {output}: files cannot be written into this folder. Choose another one.")


def readable_name(inputs: dict[str, Any]) -> str:
    """The prompt's first words, or the input audio's name, as a file name."""
    audio = inputs["input_audio"]
    text = inputs["prompt"] or (audio.stem if isinstance(audio, Path) else "") or "music"
    name = re.sub(r"[\W_]+", "-", text.lower()).strip("-")
    if len(name) > _NAME_LENGTH:
        name = name[: _NAME_LENGTH + 1].rpartition("-")[0] or name[:_NAME_LENGTH]
    # A letter may have four bytes, and a file's name 255.
    return name.encode()[: 4 * _NAME_LENGTH].decode(errors="ignore") or "music"


def _free_names(target: Path) -> Iterator[Path]:
    yield target
    for number in itertools.count(2):
        yield target.with_stem(f"{target.stem}-{number}")


def save(result: Path, target: Path, force: bool) -> Path:
    """Move ``result`` to ``target``; returns its name, which has a number if another was written there meanwhile."""
    target.parent.mkdir(exist_ok=True)
    part = target.with_name(f".{target.name[-40:]}.{os.getpid()}.part")
    try:
        shutil.move(result, part)
        for path in [target] if force else _free_names(target):
            try:
                path.touch(exist_ok=force)  # reserved: another process gets the next name
            except FileExistsError:
                continue
            return part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("numbers do not end")
