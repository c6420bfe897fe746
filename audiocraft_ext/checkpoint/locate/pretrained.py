"""The name of a pretrained model that a checkpoint names → its folder. Knows nothing of what loads it.

A codec, a text encoder, Demucs or MultiBand Diffusion is searched for in this order: the checkpoint's folder,
``weights/``, the Hugging Face cache without network access, the hub. In a local folder, ``owner/name`` is a subfolder.
"""

import re
from pathlib import Path

from omegaconf import OmegaConf

from audiocraft_ext.checkpoint.locate import hub, source
from audiocraft_ext.checkpoint.locate.hub import DEMUCS_BAG, DIFFUSION_FILE
from audiocraft_ext.errors import CheckpointError

DEMUCS = "adefossez/HTDemucs"
DIFFUSION = "facebook/multiband-diffusion"
DIFFUSION_CODEC = "facebook/encodec_32khz"

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Meta's configs name T5 and DAC without their owner.
_OWNERS = {"t5-": "google-t5", "dac_": "descript"}


def locate_model(name: str, beside: Path) -> Path:
    """The folder of the model ``name``, ``t5-base`` or ``owner/name``; ``beside`` is the checkpoint's own folder.

    Raises ``CheckpointError`` if it is in none of the four places, or incomplete in a local folder.
    """
    if found := find_local_model(name, beside):
        return found
    hub_ids = (f"{owner}/{name}" for prefix, owner in _OWNERS.items() if name.startswith(prefix))
    hub_id = name if "/" in name else next(hub_ids, None)
    if hub_id is None:
        raise CheckpointError(
            f"The checkpoint names the model {name!r}, which is neither in its folder nor in weights/, and not a name "
            f"on the Hugging Face hub: put its files into {name}/ beside the checkpoint."
        )
    # audiocraft and transformers used to cache it under its name without an owner.
    for folder in filter(None, map(hub.cached_snapshot, (name, hub_id))):
        if not _missing(folder):
            return folder
    folder = hub.fetch_model(hub_id, name)
    if missing := _missing(folder):
        raise CheckpointError(
            f"The checkpoint names the model {name}, which lacks {', '.join(missing)} on the Hugging Face hub."
        )
    return folder


def find_local_model(name: str, beside: Path) -> Path | None:
    """The model's folder below the checkpoint's own or ``weights/``, if there is one; raises as ``locate_model``."""
    if not NAME.fullmatch(name):
        raise CheckpointError(f"The checkpoint names the model {name!r}, which is not of the form owner/name.")
    folder = next(filter(Path.is_dir, (beside / name, source.WEIGHTS_FOLDER / name)), None)
    if folder and (missing := ", ".join(_missing(folder))):
        raise CheckpointError(f"The model {name} is incomplete in {folder}: add {missing}, or remove that folder.")
    return folder


def find_diffusion(*folders: Path) -> Path | None:
    """The diffusion weights in the first of some folders that has any, directly or in a subfolder of their name."""
    names = (DIFFUSION_FILE, f"{DIFFUSION}/{DIFFUSION_FILE}")
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def model_files(folder: Path) -> list[Path]:
    """The files of the one layout that is loaded from a complete model's folder."""
    marker = hub.detect_layout(folder, hub.MODEL_LAYOUTS)
    assert marker is not None
    patterns = [*hub.MODEL_SMALL_FILES, *hub.MODEL_LAYOUTS[marker]]
    return sorted(file for file in folder.iterdir() if any(file.match(pattern) for pattern in patterns))


def demucs_files(folder: Path) -> list[str]:
    """The files of the models that a bag of Demucs models averages."""
    return [f"{model}.safetensors" for model in OmegaConf.select(OmegaConf.load(folder / DEMUCS_BAG), "models")]


def _missing(folder: Path) -> list[str]:
    """The files that a model's folder lacks; a cached snapshot may be partial."""
    marker = hub.detect_layout(folder, hub.MODEL_LAYOUTS)
    if marker is None:
        return ["the weights"]
    needed: list[str] = []
    if marker.endswith(".index.json"):
        needed += source.shards(folder / marker)
    if marker == DEMUCS_BAG:
        needed += demucs_files(folder)
    if marker.startswith(("model.", "pytorch_model.")):
        needed.append("config.json")
    if source.model_type(folder) == "t5" and not (folder / "spiece.model").is_file():
        needed.append("tokenizer.json")
    return [file for file in needed if not (folder / file).is_file()]
