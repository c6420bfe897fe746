"""Where a checkpoint's bytes are: a local file or folder, an https URL, or a Hugging Face hub id → a local path.

A tar or zip archive, wherever it comes from, is unpacked. What is fetched or unpacked lies in ``musicgen/`` below
``XDG_CACHE_HOME`` (``~/.cache``), what comes from the hub in the hub's own cache; all of it can be deleted at any time.
What the bytes mean is ``formats.py``'s affair.
"""

import errno
import os
import re
from pathlib import Path

from huggingface_hub import errors as hub
from huggingface_hub import snapshot_download
from huggingface_hub.utils import filter_repo_objects

from audiocraft_ext.checkpoint.archive import is_archive, unpack
from audiocraft_ext.checkpoint.download import download, shown
from audiocraft_ext.errors import CheckpointError

try:  # what the hub's client raises
    from httpx2 import HTTPError
except ImportError:  # its versions before 2
    from httpx import HTTPError  # type: ignore[assignment]

WEIGHTS_FOLDER = Path(__file__).parents[2] / "weights"
EMBEDDED = WEIGHTS_FOLDER / "demo"
MANIFEST = "manifest.json"  # what script/fetch-weights says of the files that it put into a folder

_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
_SMALL_FILES = ["*.json", "*.model", "*.txt", "*.yaml", "*/*.safetensors", "*/*.bin"]
# Many repositories hold one model in several wrappings. The first that there is, by a file to know it by, is fetched;
# no look at the repository's list of files decides, since there is none offline.
_HUB_WRAPPINGS = (
    ("state_dict.bin", [*_SMALL_FILES, "state_dict.bin", "compression_state_dict.bin", "mbd*.th"]),
    ("*.safetensors", [*_SMALL_FILES, "*.safetensors", "mbd*.th"]),
    ("*", [*_SMALL_FILES, "*.bin", "*.th", "*.pt", "*.pth", "*.ckpt", "*.tar", "*.tar.*", "*.tgz", "*.zip"]),
)
_TRAINERS_FILES = ["checkpoint-*/*", "*optimizer*", "*scheduler.*", "*rng_state*", "*training_args.bin"]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def name_of(weights: str) -> str:
    """What whoever asks may know of ``weights``: a file's name and not where it lies, a URL without what is secret."""
    return os.path.basename(os.path.abspath(weights)) if os.path.exists(weights) else shown(weights)


def fetch(weights: str) -> Path:
    """The local file or folder that ``weights`` names: downloaded if it is a URL or a hub id, unpacked if an archive.

    A folder with an archive and nothing else to load is that archive. Raises ``CheckpointError`` with what was tried,
    what is wrong, and the way out.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "musicgen"
    try:
        path = _locate(weights, cache)
        files = own_files(path) if path.is_dir() else [path]
        return unpack(files[0], cache / "archives") if len(files) == 1 and is_archive(files[0]) else path
    except OSError as error:
        if error.errno in DISK_FULL:
            raise CheckpointError(
                f"The disk is full: there is no room for {shown(weights)}. Free some, or name a folder on a larger "
                f"disk in XDG_CACHE_HOME instead of {cache.parent} (in HF_HOME for hub ids)."
            ) from error
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


def wrapping(snapshot: Path) -> list[Path]:
    """The files of a hub repository's snapshot that are fetched: others may have left more of them in the cache."""
    patterns = next(patterns for known_by, patterns in _HUB_WRAPPINGS if any(snapshot.glob(known_by)))
    names = [str(path.relative_to(snapshot)) for path in sorted(snapshot.rglob("*")) if path.is_file()]
    wanted = filter_repo_objects(names, allow_patterns=patterns, ignore_patterns=_TRAINERS_FILES)
    return [snapshot / name for name in wanted]


def _from_hub(name: str, revision: str | None) -> Path:
    """The snapshot of a hub repository, from the hub's cache where the hub cannot be reached or is not to be asked."""
    try:
        for known_by, patterns in _HUB_WRAPPINGS:
            folder = snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=_TRAINERS_FILES
            )
            if any(Path(folder).glob(known_by)):
                return Path(folder)
    except (OSError, HTTPError, hub.HFValidationError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise CheckpointError(_hub_problem(name, revision, error)) from None
    raise CheckpointError(f"{name} on the Hugging Face hub holds no weights, but for formats that are not read.")


def _hub_problem(name: str, revision: str | None, error: Exception) -> str:
    match error:
        case hub.GatedRepoError():
            return (
                f"{name} is gated on the Hugging Face hub: accept its terms at https://huggingface.co/{name}, and set "
                "HF_TOKEN to a token of that account."
            )
        case hub.RepositoryNotFoundError() | hub.HFValidationError():
            return (
                f"{name!r} is no local file or folder, and the Hugging Face hub has no such public model. "
                "For a private one set HF_TOKEN to a token that may read it."
            )
        case hub.RevisionNotFoundError():
            return (
                f"{name} on the Hugging Face hub has no revision {revision!r}: name a branch, a tag or a commit of it."
            )
        case hub.LocalEntryNotFoundError():
            return (
                f"{name!r} is no local file or folder, nor all of it in the local Hugging Face cache, and the hub "
                "cannot be reached, or is not to be asked (HF_HUB_OFFLINE). Load it once with a network."
            )
        case hub.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"The Hugging Face hub does not let the token in HF_TOKEN read {name}: set it to one that may."
        case hub.HfHubHTTPError():
            return f"{name} could not be fetched: the Hugging Face hub answers {error.response.status_code}. Try later."
        case _:
            return f"{name} could not be fetched from the Hugging Face hub: {type(error).__name__}. Try again."
