"""Where a checkpoint's bytes are: a local file or folder, an https URL, or a Hugging Face hub id → a local path.

Downloads are cached by their full identity: two people's ``trained_model.tar`` never meet. What the bytes mean is
``formats.py``'s affair.
"""

import hashlib
import os
import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from audiocraft_ext.errors import CheckpointError

WEIGHTS_FOLDER = Path(__file__).parents[2] / "weights"
EMBEDDED = WEIGHTS_FOLDER / "demo"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.bin", "*.safetensors", "*.json", "*.th", "*.pt", "*.tar", "*.model"]


def chosen_weights(weights: str | None) -> str:
    """The first of: the one asked for, ``MUSICGEN_WEIGHTS``, what lies in ``weights/``, the embedded checkpoint."""
    if chosen := weights or os.environ.get("MUSICGEN_WEIGHTS"):
        return chosen
    own = [path for path in WEIGHTS_FOLDER.iterdir() if path.is_file() and path.suffix not in (".md", "")]
    return str(WEIGHTS_FOLDER if own else EMBEDDED)


def fetch(weights: str) -> Path:
    """The local file or folder that ``weights`` names, downloaded if it is a URL or a hub id."""
    local = Path(weights).expanduser()
    if local.exists():
        return local
    if weights.startswith("https://"):
        return _download(weights)
    if _HUB_ID.fullmatch(weights):
        return _from_hub(weights)
    raise CheckpointError(
        f"There is no checkpoint at {weights!r}: it is neither an existing file or folder, nor an https URL, "
        "nor a Hugging Face id like facebook/musicgen-small."
    )


def _download(url: str) -> Path:
    """The file behind ``url``, kept under the hash of the whole URL; a broken download leaves nothing behind."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "musicgen"
    path = cache / hashlib.sha256(url.encode()).hexdigest()
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise CheckpointError(f"The checkpoint at {url} could not be downloaded: {error}.") from error
    return path


def _from_hub(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name!r} is no local file or folder, and the Hugging Face hub has no such public model. "
            "For a private one set HF_TOKEN."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name!r} is not in the local Hugging Face cache and the hub cannot be reached: {type(error).__name__}."
        ) from error
