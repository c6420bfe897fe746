"""The Hugging Face hub: a repository → its snapshot in the hub's own cache, or the reason without one.

A repository is a checkpoint, or a model that checkpoints name, like a T5. Knows file names, and opens no file.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, errors, snapshot_download
from huggingface_hub.utils import filter_repo_objects

from audiocraft_ext.errors import DISK_FULL, CheckpointError

try:
    import httpx2 as httpx
except ImportError:  # the hub's client before version 2, as on many CUDA machines, brings httpx
    import httpx  # type: ignore[no-redef]

DEMUCS_BAG = "htdemucs.yaml"
DIFFUSION_FILE = "mbd_musicgen_32khz.th"
EXPORT = "state_dict.bin"


# The layouts in which a repository may hold its model, several at once: the pattern that identifies one → its files'.
# The first is used.
_CHECKPOINT_LAYOUTS = {
    EXPORT: [EXPORT, "compression_state_dict.bin", "mbd*.th"],
    "*.safetensors": ["*.safetensors", "mbd*.th"],
    "*": ["*.bin", "*.th", "*.pt", "*.pth", "*.ckpt", "*.tar", "*.tar.*", "*.tgz", "*.zip"],
}
# In transformers' own order.
TRANSFORMERS_LAYOUTS = {
    "model.safetensors": ["model.safetensors"],
    "model.safetensors.index.json": ["model-*.safetensors"],
    "pytorch_model.bin": ["pytorch_model.bin"],
    "pytorch_model.bin.index.json": ["pytorch_model-*.bin"],
}
MODEL_LAYOUTS = {
    **TRANSFORMERS_LAYOUTS,
    "compression_state_dict.bin": ["compression_state_dict.bin"],
    EXPORT: [EXPORT],
    DIFFUSION_FILE: [DIFFUSION_FILE],
    DEMUCS_BAG: [DEMUCS_BAG, "*.safetensors"],
}
# Fetched with any layout. A checkpoint may have a text encoder or a codec in a folder of its own.
MODEL_SMALL_FILES = ["*.json", "*.model"]
_CHECKPOINT_SMALL_FILES = [*MODEL_SMALL_FILES, "*.txt", "*.yaml", "*/*.safetensors", "*/*.bin"]
_TRAINER_FILES = ["checkpoint-*/*", "*optimizer*", "*scheduler.*", "*rng_state*", "*training_args.bin"]


def detect_layout(folder: Path, layouts: Iterable[str]) -> str | None:
    """The first of some layouts' patterns that is in a folder."""
    return next((marker for marker in layouts if any(map(Path.exists, folder.glob(marker)))), None)


def fetch_checkpoint(name: str, revision: str | None, is_base: bool = False) -> Path:
    """The snapshot of a checkpoint, from the cache if the hub is unreachable or disabled; or ``CheckpointError``.

    Of an adapter's base, Hugging Face's form is preferred to an export: only there do the adapter's names exist.
    """
    layouts = TRANSFORMERS_LAYOUTS | _CHECKPOINT_LAYOUTS if is_base else _CHECKPOINT_LAYOUTS
    for marker, files in layouts.items():  # without listing the repository, which is impossible offline
        with _hub_errors(name, f"{name!r} is not a local file or folder, and cannot be fetched", revision):
            wanted = [*_CHECKPOINT_SMALL_FILES, *files]
            snapshot = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=_TRAINER_FILES)
        if detect_layout(Path(snapshot), [marker]):
            return Path(snapshot)
    raise CheckpointError(f"{name} on the Hugging Face hub has no weights in a supported format.")


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is in the hub's cache, ``models--owner--name/snapshots/commit``, which other programs fill."""
    return folder.parent.name == "snapshots"


def checkpoint_files(snapshot: Path) -> list[Path]:
    """The files of a checkpoint's snapshot that ``fetch_checkpoint`` asks for; other programs may have cached more."""
    marker = detect_layout(snapshot, _CHECKPOINT_LAYOUTS)
    assert marker is not None
    wanted = [*_CHECKPOINT_SMALL_FILES, *_CHECKPOINT_LAYOUTS[marker]]
    names = [str(path.relative_to(snapshot)) for path in sorted(snapshot.rglob("*")) if path.is_file()]
    allowed = filter_repo_objects(names, allow_patterns=wanted, ignore_patterns=_TRAINER_FILES)
    return [snapshot / name for name in allowed]


def fetch_model(repository: str, name: str) -> Path:
    """The snapshot of a model that a checkpoint calls ``name``, in its first layout; raises ``CheckpointError``."""
    problem = (
        f"The checkpoint names the model {name}, which is neither in its folder, nor in weights/, nor complete in the "
        "Hugging Face cache, and cannot be fetched"
    )
    hint = " With network access, script/fetch-weights collects everything that a checkpoint needs."
    with _hub_errors(repository, problem, hint=hint):
        present = HfApi().list_repo_files(repository)
        files = next((files for marker, files in MODEL_LAYOUTS.items() if marker in present), [])
        return Path(snapshot_download(repository, allow_patterns=[*MODEL_SMALL_FILES, *files]))


def cached_snapshot(name: str) -> Path | None:
    """The cached snapshot of a model, complete or not, without network access."""
    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=[]))  # []: skip completeness check
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


@contextmanager
def _hub_errors(name: str, problem: str, revision: str | None = None, hint: str = "") -> Iterator[None]:
    """Turn the hub client's errors into ``CheckpointError``: the ``problem``, the reason, and a ``hint``."""
    try:
        yield
    except (OSError, httpx.HTTPError, errors.HFValidationError) as error:
        if isinstance(error, OSError):
            raise_if_disk_full(error, f"for {name}", " with HF_HOME")
        reason = _reason(name, revision, error)
        raise CheckpointError(f"{problem} from the Hugging Face hub: {reason}.{hint}") from error


def _reason(name: str, revision: str | None, error: Exception) -> str:
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    match error:
        case errors.GatedRepoError():
            return f"it is gated; accept its terms at https://huggingface.co/{name}, and set HF_TOKEN to your token"
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return "the hub has no such public model; for a private one, set HF_TOKEN to a token that may read it"
        case errors.RevisionNotFoundError():
            return f"it has no revision {revision!r}; name a branch, a tag or a commit"
        case errors.HfHubHTTPError() if status in (401, 403):
            return "the token in HF_TOKEN may not read it; set HF_TOKEN to one that may"
        case errors.LocalEntryNotFoundError() | ConnectionError() | httpx.HTTPError():
            return "the hub is unreachable or disabled (HF_HUB_OFFLINE), and its cache has no complete copy"
        case _:
            return f"the hub's answer is {status or type(error).__name__}; try again later"


def raise_if_disk_full(error: OSError, purpose: str, hint: str = "") -> None:
    """Raise ``CheckpointError`` if the disk is full: no space ``purpose``, with a ``hint`` at another folder."""
    if error.errno in DISK_FULL:
        raise CheckpointError(
            f"The disk is full: there is no space {purpose}. Free some, or choose a folder on a larger disk{hint}."
        ) from error
