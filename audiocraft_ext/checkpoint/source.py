"""Where a checkpoint's bytes are: a local file or folder, an https URL, or a Hugging Face hub id → a local path.

A tar or zip archive, wherever it comes from, is unpacked. What is fetched or unpacked lies in ``musicgen/`` below
``XDG_CACHE_HOME`` (``~/.cache``), what comes from the hub in the hub's own cache; all of it can be deleted at any time.
What the bytes mean is ``formats.py``'s affair.
"""

import os
import re
from pathlib import Path

from audiocraft_ext.checkpoint import disk, hub
from audiocraft_ext.checkpoint.archive import is_archive, unpack
from audiocraft_ext.checkpoint.download import download, shown
from audiocraft_ext.errors import CheckpointError

WEIGHTS_FOLDER = Path(__file__).parents[2] / "weights"
EMBEDDED = WEIGHTS_FOLDER / "demo"
MANIFEST = "manifest.json"  # what script/fetch-weights says of the files that it put into a folder

_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


def name_of(weights: str) -> str:
    """What whoever asks may know of ``weights``: a file's name and not where it lies, a URL without what is secret."""
    return os.path.basename(os.path.abspath(weights)) if os.path.exists(weights) else shown(weights)


def fetch(weights: str) -> Path:
    """The local file or folder that ``weights`` names: downloaded if it is a URL or a hub id, unpacked if an archive.

    A folder with an archive and nothing else that may be a checkpoint is that archive; diffusion weights beside one are
    left behind, and found in ``weights/`` alone. Raises ``CheckpointError`` with what was tried, what is wrong, and the
    way out.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "musicgen"
    try:
        path = _locate(weights, cache)
        files = candidates(path) if path.is_dir() else [path]
        return unpack(files[0], cache / "archives") if len(files) == 1 and is_archive(files[0]) else path
    except OSError as error:
        way_out = f" in XDG_CACHE_HOME instead of {cache.parent} (in HF_HOME for hub ids)"
        disk.refuse_full(error, f"for {shown(weights)}", way_out)
        problem = error.strerror or type(error).__name__
        raise CheckpointError(
            f"{shown(weights)} cannot be read, or not be kept in {cache}: {problem}"
            f"{f' ({error.filename})' if error.filename else ''}. XDG_CACHE_HOME names another folder for it."
        ) from error


def _locate(weights: str, cache: Path) -> Path:
    if "://" in weights:
        return download(weights, cache / "downloads")
    local = Path(os.path.expanduser(weights))
    if local.exists():
        return local
    if match := _HUB_ID.fullmatch(weights):
        return _from_hub(match[1], match[2])
    raise CheckpointError(
        f"There is no checkpoint at {weights!r}: it is neither an existing file or folder, nor an https URL, "
        "nor a Hugging Face id like facebook/musicgen-small or owner/name@revision."
    )


def own_files(folder: Path) -> list[Path]:
    """The files in a folder that may be weights: not its README, .gitignore, LICENSE or manifest."""
    others = (path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return [path for path in others if path.suffix not in (".md", "")]


def candidates(folder: Path) -> list[Path]:
    """Those of a folder's own files that may be a checkpoint: MultiBand Diffusion's only lie beside one."""
    return [path for path in own_files(folder) if path.name != hub.DIFFUSION_FILE]


def _from_hub(name: str, revision: str | None) -> Path:
    try:
        folder = hub.fetch_checkpoint(name, revision)
    except hub.Refused as refused:
        raise CheckpointError(refused.sentence) from None
    if folder is None:
        raise CheckpointError(f"{name} on the Hugging Face hub holds no weights, but for formats that are not read.")
    return folder
