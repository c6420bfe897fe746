"""A checkpoint and everything it needs → one folder, which then loads without network access.

Its ``manifest.json`` lists each file with size, SHA-256, origin and licence: the next checkpoint replaces those alone.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download, metadata_load

from audiocraft_ext.checkpoint.build import build_codec
from audiocraft_ext.checkpoint.compatibility import public_name
from audiocraft_ext.checkpoint.locate import hub, pretrained, source
from audiocraft_ext.checkpoint.locate.download import redact_url
from audiocraft_ext.checkpoint.read import formats
from audiocraft_ext.errors import CheckpointError

# For repositories whose card has no licence: Meta's models are not for commercial use.
_LICENCES = {"facebook": "cc-by-nc-4.0"}


@dataclass(frozen=True)
class Entry:
    """A file in a manifest: ``path`` is relative to its folder, ``origin`` is ``owner/name@commit`` for the hub's, a
    URL, or a local checkpoint's name; ``licence`` is the model card's, None if unknown."""

    path: str
    bytes: int
    sha256: str
    origin: str
    licence: str | None


def bundle(weights: str, folder: Path, with_diffusion: bool = True) -> list[Entry]:
    """Copy the checkpoint that ``weights`` names, and its components, into ``folder``; returns the new manifest.

    Files of a previous bundle are removed unless they are part of this one, too. ``with_diffusion`` adds MultiBand
    Diffusion if there is one for the codec. Raises ``CheckpointError`` if something cannot be found, or would overwrite
    or be mixed with another's files; the folder is unchanged then.
    """
    wanted = _collect(weights, with_diffusion)
    manifest = _read_manifest(folder)
    previous = manifest or {}
    in_place = {name for name, file in wanted.items() if (folder / name).exists() and file.samefile(folder / name)}
    ours = previous.keys() | in_place | ({source.MANIFEST} if manifest is not None else set())
    _check_conflicts(folder, set(wanted), ours)
    scratch = folder / ".fetching"
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        local = os.path.expanduser(weights)
        origin = Path(local).resolve().name if os.path.exists(local) else redact_url(weights)
        new = {name: _copy(wanted[name], scratch, name, origin) for name in wanted.keys() - in_place}
        # Before any file is moved, so that whatever a killed process leaves is known to be ours.
        _write_manifest(folder, previous | new)
        for name in previous.keys() - wanted.keys():
            _remove(folder, name)
        for name in new:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).replace(folder / name)
        return _write_manifest(folder, {name: previous[name] for name in previous.keys() & in_place} | new)
    except OSError as error:
        hub.raise_if_disk_full(error, f"in {folder} for all of {redact_url(weights)}")
        raise CheckpointError(f"{folder} cannot be written: {error.strerror} ({error.filename}).") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _collect(weights: str, with_diffusion: bool) -> dict[str, Path]:
    """The files of the checkpoint and its components, by their names in the new folder."""
    path = source.locate(weights)
    if formats.is_adapter(formats.root_of(path)):
        raise CheckpointError(
            f"{redact_url(weights)} is an adapter, which needs its base: merge them with script/convert-weights, and "
            "bundle the folder that it writes."
        )
    checkpoint = formats.read(path)
    beside = checkpoint.folder
    files = {file.relative_to(beside).as_posix(): file for file in _own_files(checkpoint)}
    models = dict(checkpoint.model_folders)
    if with_diffusion and hub.DIFFUSION_FILE not in files:
        codec = build_codec(checkpoint.codec, checkpoint.model_folders, "cpu")
        if public_name(checkpoint.codec_name, codec) == pretrained.DIFFUSION_CODEC:
            models[pretrained.DIFFUSION] = pretrained.locate_model(pretrained.DIFFUSION, beside)
    for name, folder in models.items():
        files |= {f"{name}/{file.name}": file for file in pretrained.model_files(folder)}
    files.pop(source.MANIFEST, None)
    return files


def _own_files(files: formats.CheckpointFiles) -> Iterable[Path]:
    """The checkpoint's own files: all that may be weights, and the folder of a codec that it includes."""
    if files.path.is_file():
        return [files.path]
    if hub.is_snapshot(files.path):
        return hub.checkpoint_files(files.path)
    own = source.own_files(files.path)
    if isinstance(files.codec, formats.TransformersModel) and files.codec.folder != files.path:
        own += files.codec.folder.iterdir()
    return own


def _check_conflicts(folder: Path, wanted: set[str], ours: set[str]) -> None:
    """Another's files are neither overwritten, nor left where they would be loaded as part of the checkpoint."""
    present = {name for name in wanted | {source.MANIFEST} if (folder / name).exists()}
    present |= {file.name for file in source.own_files(folder)} if folder.is_dir() else set()
    if others := sorted(present - ours):
        raise CheckpointError(
            f"{folder / others[0]} is in the way, and not from script/fetch-weights: move it, or choose another folder."
        )
    if any(Path(name).parts[0] == source.EMBEDDED.name for name in wanted):
        raise CheckpointError(
            f"The checkpoint has a folder {source.EMBEDDED.name}/, like the embedded checkpoint: rename it."
        )


def _copy(file: Path, scratch: Path, name: str, default_origin: str) -> Entry:
    copy = scratch / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)
    with copy.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return Entry(name, copy.stat().st_size, sha256, *_provenance(file, default_origin))


def _remove(folder: Path, name: str) -> None:
    """Remove a file, and the folders that are then empty."""
    (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # one is not empty
        os.removedirs((folder / name).parent)


def _provenance(file: Path, default_origin: str) -> tuple[str, str | None]:
    """A file's origin and licence, from an earlier manifest or the hub's cache; else ``default_origin``."""
    for folder in file.parents:
        if entry := (_read_manifest(folder) or {}).get(file.relative_to(folder).as_posix()):
            return entry.origin, entry.licence
        if hub.is_snapshot(folder):
            repository = folder.parents[1].name.removeprefix("models--").replace("--", "/")
            return f"{repository}@{folder.name}", _licence(repository, folder.name)
    return default_origin, None


@cache
def _licence(repository: str, commit: str) -> str | None:
    unknown = _LICENCES.get(repository.split("/")[0])
    try:
        card = metadata_load(hf_hub_download(repository, "README.md", revision=commit))
    except (OSError, ValueError, hub.httpx.HTTPError):
        return unknown
    return (card or {}).get("license", unknown)


def _read_manifest(folder: Path) -> dict[str, Entry] | None:
    """The entries by path; None without a manifest, or with a file of that name from elsewhere."""
    try:
        entries = [Entry(**entry) for entry in json.loads((folder / source.MANIFEST).read_text())["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return {entry.path: entry for entry in entries}


def _without_folders(entry: Entry) -> Entry:
    """Earlier versions wrote a local checkpoint's whole path, which is the business of its machine alone."""
    return replace(entry, origin=Path(entry.origin).name) if Path(entry.origin).is_absolute() else entry


def _write_manifest(folder: Path, entries: dict[str, Entry]) -> list[Entry]:
    listed = [_without_folders(entries[name]) for name in sorted(entries)]
    text = json.dumps({"files": [asdict(entry) for entry in listed]}, indent=2)
    part = (folder / source.MANIFEST).with_suffix(".part")
    part.write_text(text + "\n")
    part.replace(folder / source.MANIFEST)
    return listed
