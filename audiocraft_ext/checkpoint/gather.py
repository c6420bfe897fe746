"""A checkpoint and all that it names → one folder, which then loads without a network.

The folder's ``manifest.json`` lists each file that was put there: its size, its SHA-256, where it came from, and its
licence. By it the next checkpoint takes the place of the former, and nothing that someone else put there is touched.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download, metadata_load

from audiocraft_ext.checkpoint import disk, fit, formats, hub, parts, source
from audiocraft_ext.checkpoint.build import build_codec, named_parts
from audiocraft_ext.checkpoint.download import shown
from audiocraft_ext.checkpoint.formats import Contents, TransformersFile
from audiocraft_ext.errors import CheckpointError

# Where a card says nothing: Meta's models are not for commercial use.
_LICENCES = {"facebook": "cc-by-nc-4.0"}


@dataclass(frozen=True)
class Entry:
    """A file in a manifest: ``path`` is below the manifest's folder, ``origin`` is ``owner/name@commit`` for what is
    from the hub, ``licence`` what its card there says, None where nothing is said."""

    path: str
    bytes: int
    sha256: str
    origin: str
    licence: str | None


def gather(weights: str, folder: Path, with_diffusion: bool = True) -> list[Entry]:
    """Puts the checkpoint that ``weights`` names, and its parts, into ``folder``; returns its new manifest.

    What a former call put there and this one has no use for is removed; what is in its place already stays.
    ``with_diffusion`` adds MultiBand Diffusion, where there is one for the codec. Raises ``CheckpointError`` where
    something cannot be had, or a file is in the way that no former call put there; all is then as it was.
    """
    wanted = _wanted(weights, with_diffusion)
    manifest = _read_manifest(folder)
    former = manifest or {}
    in_place = {name for name, file in wanted.items() if (folder / name).exists() and file.samefile(folder / name)}
    ours = former.keys() | in_place | ({source.MANIFEST} if manifest is not None else set())
    _refuse_what_is_in_the_way(folder, set(wanted), ours)
    scratch = folder / ".fetching"
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # a killed process left it
        new = {name: _copy(wanted[name], scratch, name, shown(weights)) for name in wanted if name not in in_place}
        # Before anything is moved, so that whatever a process leaves that is killed now is known to be ours.
        _write_manifest(folder, former | new)
        for name in former.keys() - wanted.keys():
            _remove(folder, name)
        for name in new:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).replace(folder / name)
        return _write_manifest(folder, {name: former[name] for name in former.keys() & in_place} | new)
    except OSError as error:
        disk.refuse_full(error, f"in {folder} for all of {shown(weights)}")
        raise CheckpointError(f"{folder} cannot be written: {error.strerror} ({error.filename}).") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _wanted(weights: str, with_diffusion: bool) -> dict[str, Path]:
    """The files of the checkpoint and of its parts, by their names in the folder that is to hold them."""
    path = formats.root_of(source.fetch(weights))
    beside = path if path.is_dir() else path.parent
    if formats.is_adapter(path):
        raise CheckpointError(
            f"{shown(weights)} is an adapter, and nothing without its base: merge them with script/convert-weights, "
            "and name what that makes."
        )
    contents = formats.read(path)
    files = {file.relative_to(beside).as_posix(): file for file in _own_files(path, contents)}
    names = named_parts(contents)
    if with_diffusion and parts.DIFFUSION_FILE not in files and _has_metas_codec(contents, beside):
        names.append(parts.DIFFUSION)
    for name in names:
        files |= {f"{name}/{file.name}": file for file in parts.files_in(parts.folder_of(name, beside))}
    files.pop(source.MANIFEST, None)
    return files


def _has_metas_codec(contents: Contents, folder: Path) -> bool:
    """Whether MultiBand Diffusion is made for the codec."""
    codec = build_codec(contents.codec, folder, "cpu")
    return fit.public_name(contents.codec.pretrained, codec) == parts.DIFFUSION_CODEC


def _own_files(path: Path, contents: Contents) -> Iterable[Path]:
    """The checkpoint's own: all that may be weights, and the folder of a codec that it brings."""
    if path.is_file():
        return [path]
    if path.parent.name == "snapshots":
        return hub.checkpoint_files(path)
    files = source.own_files(path)
    if isinstance(contents.codec, TransformersFile) and contents.codec.folder != path:
        files += contents.codec.folder.iterdir()
    return files


def _refuse_what_is_in_the_way(folder: Path, wanted: set[str], ours: set[str]) -> None:
    """Others' files are neither overwritten, nor left where they would be taken for a part of the checkpoint."""
    there = {name for name in wanted | {source.MANIFEST} if (folder / name).exists()}
    there |= {file.name for file in source.own_files(folder)} if folder.is_dir() else set()
    if others := sorted(there - ours):
        raise CheckpointError(
            f"{folder / others[0]} is in the way, and was not put there by script/fetch-weights: move it elsewhere, or "
            "name another folder."
        )
    if any(Path(name).parts[0] == source.EMBEDDED.name for name in wanted):
        raise CheckpointError(f"The checkpoint has a {source.EMBEDDED.name}/, where the embedded one lies: rename it.")


def _copy(file: Path, scratch: Path, name: str, weights: str) -> Entry:
    copy = scratch / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)
    with copy.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return Entry(name, copy.stat().st_size, sha256, *_provenance(file, weights))


def _remove(folder: Path, name: str) -> None:
    """The file, and the folders that are empty without it."""
    (folder / name).unlink(missing_ok=True)
    for parent in Path(name).parents[:-1]:
        if (folder / parent).is_dir() and not any((folder / parent).iterdir()):
            (folder / parent).rmdir()


def _provenance(file: Path, weights: str) -> tuple[str, str | None]:
    """A file's origin and licence: a former manifest's, the hub's, or the checkpoint's own."""
    for folder in file.parents:
        if entry := (_read_manifest(folder) or {}).get(file.relative_to(folder).as_posix()):
            return entry.origin, entry.licence
        if folder.parent.name == "snapshots":  # the Hugging Face cache: models--owner--name/snapshots/commit
            repository = folder.parents[1].name.removeprefix("models--").replace("--", "/")
            return f"{repository}@{folder.name}", _licence(repository, folder.name)
    return weights, None


@cache
def _licence(repository: str, commit: str) -> str | None:
    unknown = _LICENCES.get(repository.split("/")[0])
    try:
        card = metadata_load(hf_hub_download(repository, "README.md", revision=commit))
    except (OSError, ValueError, hub.HTTPError):
        return unknown
    return (card or {}).get("license", unknown)


def _read_manifest(folder: Path) -> dict[str, Entry] | None:
    """The entries by path; None where there is no manifest, or one of another's making."""
    try:
        entries = [Entry(**entry) for entry in json.loads((folder / source.MANIFEST).read_text())["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return {entry.path: entry for entry in entries}


def _write_manifest(folder: Path, entries: dict[str, Entry]) -> list[Entry]:
    listed = [entries[name] for name in sorted(entries)]
    text = json.dumps({"files": [asdict(entry) for entry in listed]}, indent=2)
    path = folder / source.MANIFEST
    path.with_suffix(".part").write_text(text + "\n")
    path.with_suffix(".part").replace(path)
    return listed
