"""The pretrained models that a checkpoint names → the folder where each lies. Knows nothing of what loads them.

A codec, a text encoder, Demucs and MultiBand Diffusion are looked for, in this order: in the checkpoint's folder, in
``weights/``, in the Hugging Face cache without asking the network, on the hub. In a local folder the model
``owner/name`` lies in ``owner/name/``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub import errors as hub
from omegaconf import OmegaConf

from audiocraft_ext.checkpoint import source
from audiocraft_ext.errors import CheckpointError

DEMUCS = "adefossez/HTDemucs"
DEMUCS_BAG = "htdemucs.yaml"
DIFFUSION = "facebook/multiband-diffusion"
DIFFUSION_FILE = "mbd_musicgen_32khz.th"
DIFFUSION_CODEC = "facebook/encodec_32khz"

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Many repositories hold one model in several wrappings. The first that there is, by a file to know it by, is taken.
_WRAPPINGS = {
    "model.safetensors": ["model.safetensors"],
    "model.safetensors.index.json": ["model-*.safetensors"],
    "pytorch_model.bin": ["pytorch_model.bin"],
    "pytorch_model.bin.index.json": ["pytorch_model-*.bin"],
    "compression_state_dict.bin": ["compression_state_dict.bin"],
    "state_dict.bin": ["state_dict.bin"],
    DIFFUSION_FILE: [DIFFUSION_FILE],
    DEMUCS_BAG: [DEMUCS_BAG, "*.safetensors"],
}
_SMALL_FILES = ["*.json", "*.model"]
_OWNERS = {"t5-": "google-t5", "dac_": "descript"}
_TOKENIZERS = ("tokenizer.json", "spiece.model")


def folder_of(name: str, beside: Path) -> Path:
    """The folder of the model ``name``, ``t5-base`` or ``owner/name``; ``beside`` is the checkpoint's own folder.

    Raises ``CheckpointError`` where it is in none of the four places, or not whole in a local folder.
    """
    if found := local_folder_of(name, beside):
        return found
    hub_id = _hub_id(name)
    if hub_id is None:
        raise CheckpointError(
            f"The checkpoint names the model {name!r}, which lies neither in its folder nor in weights/ and is none on "
            f"the Hugging Face hub: put its files into {name}/ beside the checkpoint."
        )
    # What audiocraft and transformers fetched by its old name is cached under that.
    return _cached(name) or _cached(hub_id) or _fetched(name, hub_id)


def local_folder_of(name: str, beside: Path) -> Path | None:
    """The model's folder below the checkpoint's own or below ``weights/``, where there is one; raises as above."""
    if not NAME.fullmatch(name):
        raise CheckpointError(f"The checkpoint names the model {name!r}, which is no name: owner/name is one.")
    for folder in (beside / name, source.WEIGHTS_FOLDER / name):
        if folder.is_dir():
            if missing := ", ".join(_missing(folder)):
                place = "the checkpoint's folder" if folder == beside / name else f"{source.WEIGHTS_FOLDER.name}/"
                raise CheckpointError(
                    f"The model {name} is not whole in {place}: add {missing}, or remove the folder {name}/ there."
                )
            return folder
    return None


def local_diffusion(*folders: Path) -> Path | None:
    """The diffusion weights that lie in the first of some folders, alone or in a folder of their name."""
    names = (DIFFUSION_FILE, f"{DIFFUSION}/{DIFFUSION_FILE}")
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def files_in(folder: Path) -> list[Path]:
    """The files of a model that lies whole in a folder, in the one wrapping that is loaded."""
    wrapping = next(files for known_by, files in _WRAPPINGS.items() if (folder / known_by).is_file())
    patterns = [*_SMALL_FILES, *wrapping]
    return sorted(file for file in folder.iterdir() if any(file.match(pattern) for pattern in patterns))


def _hub_id(name: str) -> str | None:
    """The hub's own name; T5 and DAC alone go by one without their owner, in all of Meta's configs."""
    if "/" in name:
        return name
    return next((f"{owner}/{name}" for prefix, owner in _OWNERS.items() if name.startswith(prefix)), None)


def _missing(folder: Path) -> Iterator[str]:
    """The files that a model's folder lacks, nothing where it is whole: what is in a cache may be partial."""
    known_by = next((file for file in _WRAPPINGS if (folder / file).is_file()), None)
    if known_by is None:
        yield "the weights"
        return
    needed: list[str] = []
    if known_by.endswith(".index.json"):
        needed += sorted(set(json.loads((folder / known_by).read_text())["weight_map"].values()))
    if known_by == DEMUCS_BAG:
        needed += demucs_files(folder)
    if known_by.startswith(("model.", "pytorch_model.")):
        needed.append("config.json")
    yield from (file for file in needed if not (folder / file).is_file())
    config = folder / "config.json"
    is_text_encoder = config.is_file() and json.loads(config.read_text()).get("model_type") == "t5"
    if is_text_encoder and not any((folder / file).is_file() for file in _TOKENIZERS):
        yield _TOKENIZERS[0]


def demucs_files(folder: Path) -> list[str]:
    """The files of the models whose mean Demucs is."""
    return [f"{model}.safetensors" for model in OmegaConf.select(OmegaConf.load(folder / DEMUCS_BAG), "models")]


def _cached(name: str) -> Path | None:
    """The whole snapshot in the Hugging Face cache; no network is asked."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=[]))  # [], since we look ourselves
    except (hub.LocalEntryNotFoundError, hub.HFValidationError):
        return None
    return None if any(_missing(folder)) else folder


def _fetched(name: str, hub_id: str) -> Path:
    """The model from the hub: of its wrappings the first."""
    try:
        there = HfApi().list_repo_files(hub_id)
        wrapping = next((files for known_by, files in _WRAPPINGS.items() if known_by in there), [])
        folder = Path(snapshot_download(hub_id, allow_patterns=[*_SMALL_FILES, *wrapping]))
    except (OSError, source.HTTPError, hub.HFValidationError) as error:
        if isinstance(error, OSError) and error.errno in source.DISK_FULL:
            raise CheckpointError(
                f"The disk is full: there is no room for {name}, which the checkpoint names. Free some, or name a "
                "folder on a larger disk in HF_HOME."
            ) from error
        raise CheckpointError(
            f"The checkpoint names the model {name}, which lies neither in its folder nor in weights/ nor whole in the "
            f"Hugging Face cache, and {_why_not(error, hub_id)}. Where there is a network, script/fetch-weights "
            "gathers all that a checkpoint needs."
        ) from error
    if missing := ", ".join(_missing(folder)):
        raise CheckpointError(f"The checkpoint names the model {name}, which lacks {missing} on the Hugging Face hub.")
    return folder


def _why_not(error: Exception, hub_id: str) -> str:
    match error:
        case hub.GatedRepoError():
            return f"the hub asks to accept its terms at https://huggingface.co/{hub_id} first, and for HF_TOKEN"
        case hub.RepositoryNotFoundError() | hub.HFValidationError():
            return "the hub has no such public model"
        case hub.HfHubHTTPError():
            return f"the hub answers {error.response.status_code}"
        case _:
            return "the hub cannot be reached, or is not to be asked (HF_HUB_OFFLINE)"
