"""The Hugging Face hub: a repository → its snapshot in the hub's own cache, or why there is none.

A repository is a checkpoint, or a model that checkpoints name, like a T5. Knows what their files are called, and opens
none of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, errors, snapshot_download
from huggingface_hub.utils import filter_repo_objects

from audiocraft_ext.checkpoint import disk

try:  # what the hub's client raises
    from httpx2 import HTTPError
except ImportError:  # its versions before 2
    from httpx import HTTPError  # type: ignore[assignment]

DEMUCS_BAG = "htdemucs.yaml"
DIFFUSION_FILE = "mbd_musicgen_32khz.th"


class Wrapping(NamedTuple):
    """A form that a repository may hold its model in: a pattern of a file to know it by, and patterns of its files."""

    known_by: str
    files: list[str]


# Many repositories hold one model in several wrappings. The first that there is, is taken.
CHECKPOINT_WRAPPINGS = (
    Wrapping("state_dict.bin", ["state_dict.bin", "compression_state_dict.bin", "mbd*.th"]),
    Wrapping("*.safetensors", ["*.safetensors", "mbd*.th"]),
    Wrapping("*", ["*.bin", "*.th", "*.pt", "*.pth", "*.ckpt", "*.tar", "*.tar.*", "*.tgz", "*.zip"]),
)
MODEL_WRAPPINGS = (
    Wrapping("model.safetensors", ["model.safetensors"]),
    Wrapping("model.safetensors.index.json", ["model-*.safetensors"]),
    Wrapping("pytorch_model.bin", ["pytorch_model.bin"]),
    Wrapping("pytorch_model.bin.index.json", ["pytorch_model-*.bin"]),
    Wrapping("compression_state_dict.bin", ["compression_state_dict.bin"]),
    Wrapping("state_dict.bin", ["state_dict.bin"]),
    Wrapping(DIFFUSION_FILE, [DIFFUSION_FILE]),
    Wrapping(DEMUCS_BAG, [DEMUCS_BAG, "*.safetensors"]),
)
# What is taken with any of them. A checkpoint may have a text encoder or a codec in a folder of its own.
MODEL_SMALL_FILES = ["*.json", "*.model"]
_CHECKPOINT_SMALL_FILES = [*MODEL_SMALL_FILES, "*.txt", "*.yaml", "*/*.safetensors", "*/*.bin"]
_TRAINERS_FILES = ["checkpoint-*/*", "*optimizer*", "*scheduler.*", "*rng_state*", "*training_args.bin"]


class Refused(Exception):
    """A repository cannot be had: ``sentence`` tells it of a checkpoint, ``clause`` of a model that one names."""

    def __init__(self, sentence: str, clause: str) -> None:
        super().__init__(sentence)
        self.sentence, self.clause = sentence, clause


def wrapping_in(folder: Path, wrappings: Sequence[Wrapping]) -> Wrapping | None:
    """The first of some wrappings that there is in a folder."""
    return next((wrapping for wrapping in wrappings if any(map(Path.exists, folder.glob(wrapping.known_by)))), None)


def fetch_checkpoint(name: str, revision: str | None) -> Path | None:
    """The snapshot of a checkpoint, from the cache where the hub cannot be reached or is not to be asked.

    None is one without weights. Raises ``Refused``, and ``OSError`` where the disk is full.
    """
    with _refusals_told(name, revision):
        for wrapping in CHECKPOINT_WRAPPINGS:
            # No look at the repository's list of files decides, since there is none offline.
            wanted = [*_CHECKPOINT_SMALL_FILES, *wrapping.files]
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=_TRAINERS_FILES)
            )
            if wrapping_in(folder, [wrapping]):
                return folder
    return None


def checkpoint_files(snapshot: Path) -> list[Path]:
    """The files of a checkpoint's snapshot that are fetched: others may have left more of them in the cache."""
    wrapping = wrapping_in(snapshot, CHECKPOINT_WRAPPINGS)
    assert wrapping is not None
    wanted = [*_CHECKPOINT_SMALL_FILES, *wrapping.files]
    names = [str(path.relative_to(snapshot)) for path in sorted(snapshot.rglob("*")) if path.is_file()]
    allowed = filter_repo_objects(names, allow_patterns=wanted, ignore_patterns=_TRAINERS_FILES)
    return [snapshot / name for name in allowed]


def fetch_model(name: str) -> Path:
    """The snapshot of a model, of its wrappings the first; raises as ``fetch_checkpoint`` does."""
    with _refusals_told(name):
        there = HfApi().list_repo_files(name)
        files = next((wrapping.files for wrapping in MODEL_WRAPPINGS if wrapping.known_by in there), [])
        return Path(snapshot_download(name, allow_patterns=[*MODEL_SMALL_FILES, *files]))


def cached(name: str) -> Path | None:
    """The snapshot of a model in the cache, be it whole or not; no network is asked."""
    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=[]))  # [], whole is not for it to say
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


@contextmanager
def _refusals_told(name: str, revision: str | None = None) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPError, errors.HFValidationError) as error:
        if disk.is_full(error):
            raise
        raise _refusal(name, revision, error) from error


def _refusal(name: str, revision: str | None, error: Exception) -> Refused:
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    clause = (
        f"the hub answers {status}" if status else "the hub cannot be reached, or is not to be asked (HF_HUB_OFFLINE)"
    )
    match error:
        case errors.GatedRepoError():
            sentence = (
                f"{name} is gated on the Hugging Face hub: accept its terms at https://huggingface.co/{name}, and set "
                "HF_TOKEN to a token of that account."
            )
            clause = f"the hub asks to accept its terms at https://huggingface.co/{name} first, and for HF_TOKEN"
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            sentence = (
                f"{name!r} is no local file or folder, and the Hugging Face hub has no such public model. "
                "For a private one set HF_TOKEN to a token that may read it."
            )
            clause = "the hub has no such public model"
        case errors.RevisionNotFoundError():
            sentence = (
                f"{name} on the Hugging Face hub has no revision {revision!r}: name a branch, a tag or a commit of it."
            )
        case errors.LocalEntryNotFoundError():
            sentence = (
                f"{name!r} is no local file or folder, nor all of it in the local Hugging Face cache, and the hub "
                "cannot be reached, or is not to be asked (HF_HUB_OFFLINE). Load it once with a network."
            )
        case errors.HfHubHTTPError() if status in (401, 403):
            sentence = f"The Hugging Face hub does not let the token in HF_TOKEN read {name}: set it to one that may."
        case errors.HfHubHTTPError():
            sentence = f"{name} could not be fetched: the Hugging Face hub answers {status}. Try later."
        case _:
            sentence = f"{name} could not be fetched from the Hugging Face hub: {type(error).__name__}. Try again."
    return Refused(sentence, clause)
