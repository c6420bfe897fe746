"""A weights string (file, folder, https URL, hub id) → a local path; without one, the default. Opens no weights.

Archives are unpacked, wherever they come from. Downloads and unpacked archives are cached in ``musicgen/`` below
``XDG_CACHE_HOME`` (``~/.cache``), hub snapshots in the hub's own cache; both can be deleted at any time.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from audiocraft_ext.checkpoint.locate import hub
from audiocraft_ext.checkpoint.locate.archive import is_archive, unpack
from audiocraft_ext.checkpoint.locate.download import download, redact_url
from audiocraft_ext.errors import CheckpointError

WEIGHTS_FOLDER = Path(__file__).parents[3] / "weights"
EMBEDDED = WEIGHTS_FOLDER / "demo"
EMBEDDED_NAME = "embedded"  # in an adapter's config, which other machines read
MANIFEST = "manifest.json"  # script/fetch-weights lists there what it copied into a folder
CODEC_TYPES = ("encodec", "dac")  # in transformers' config.json

_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


def default_weights(weights: str | None) -> str:
    """``weights`` if given, else the first of: ``MUSICGEN_WEIGHTS``, the files in ``weights/``, the only folder there
    with a checkpoint, the embedded checkpoint.

    Raises ``CheckpointError`` if there are several such folders, rather than guess.
    """
    if named := weights or os.environ.get("MUSICGEN_WEIGHTS"):
        return named
    if candidates(WEIGHTS_FOLDER):
        return str(WEIGHTS_FOLDER)
    folders = [folder for folder in sorted(WEIGHTS_FOLDER.iterdir()) if _may_be_checkpoint(folder)]
    if len(folders) > 1:
        names = ", ".join(f"{WEIGHTS_FOLDER.name}/{folder.name}" for folder in folders)
        raise CheckpointError(f"There are several checkpoints: {names}. Set MUSICGEN_WEIGHTS to one, or keep only one.")
    return str(folders[0] if folders else EMBEDDED)


def display_name(weights: str) -> str:
    """``weights`` as clients may see it: a file's name without its folder, a URL without its secrets."""
    return os.path.basename(os.path.abspath(weights)) if os.path.exists(weights) else redact_url(weights)


def locate(weights: str, is_base: bool = False) -> Path:
    """The local file or folder that ``weights`` names: downloaded if it is a URL or a hub id, unpacked if an archive.

    A folder whose only candidate is an archive is that archive; diffusion weights beside it are ignored then.
    ``is_base`` is for an adapter's base. Raises ``CheckpointError``.
    """
    cache = cache_folder()
    try:
        path = _find(weights, cache, is_base)
        files = candidates(path) if path.is_dir() else [path]
        return unpack(files[0], cache / "archives") if len(files) == 1 and is_archive(files[0]) else path
    except OSError as error:
        hub.raise_if_disk_full(error, f"for {redact_url(weights)}", f" with XDG_CACHE_HOME instead of {cache.parent}")
        problem = error.strerror or type(error).__name__
        raise CheckpointError(
            f"{redact_url(weights)} cannot be read, or cannot be cached in {cache}: {problem}"
            f"{f' ({error.filename})' if error.filename else ''}. XDG_CACHE_HOME sets another cache folder."
        ) from error


def cache_folder() -> Path:
    """Where everything is kept that can be made or downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "musicgen"


def _find(weights: str, cache: Path, is_base: bool) -> Path:
    if "://" in weights:
        return download(weights, cache / "downloads")
    local = EMBEDDED if weights == EMBEDDED_NAME else Path(os.path.expanduser(weights))
    if local.exists():
        return local
    if match := _HUB_ID.fullmatch(weights):
        return hub.fetch_checkpoint(match[1], match[2], is_base)
    raise CheckpointError(
        f"There is no checkpoint at {weights!r}: it is neither an existing file or folder, nor an https URL, "
        "nor a Hugging Face id like facebook/musicgen-small or owner/name@revision."
    )


def own_files(folder: Path) -> list[Path]:
    """The files in a folder that may be weights: not its README, .gitignore, LICENSE or manifest."""
    others = (path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return [path for path in others if path.suffix not in (".md", "")]


def candidates(folder: Path) -> list[Path]:
    """Those of a folder's own files that may be a checkpoint, which MultiBand Diffusion's only accompany."""
    return [path for path in own_files(folder) if path.name != hub.DIFFUSION_FILE]


def _may_be_checkpoint(folder: Path) -> bool:
    """Whether a folder in ``weights/`` has files that belong neither to the embedded checkpoint nor to a component."""
    if not folder.is_dir() or folder.name == EMBEDDED.name or folder.name.startswith("."):
        return False
    return bool(candidates(folder)) and model_type(folder) not in ("t5", *CODEC_TYPES)


def model_type(folder: Path) -> str | None:
    """The model type in a folder's Hugging Face ``config.json``; None without one."""
    config = folder / "config.json"
    return read_json(config).get("model_type") if config.is_file() else None


def shards(index: Path) -> list[str]:
    """The names of the files that an index of transformers' lists; raises ``CheckpointError``."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise CheckpointError(f"{index.name} is damaged: it has no weight_map. Download or copy it again.")
    return sorted(set(files.values()))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, {} for any other value; raises ``CheckpointError`` for text that is not JSON."""
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} is damaged: {error}. Download or copy it again.") from error
    return content if isinstance(content, dict) else {}
