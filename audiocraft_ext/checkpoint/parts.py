"""The pretrained models that a checkpoint names → the folder where each lies. Knows nothing of what loads them.

A codec, a text encoder, Demucs and MultiBand Diffusion are looked for, in this order: in the checkpoint's folder, in
``weights/``, in the Hugging Face cache without asking the network, on the hub. In a local folder the model
``owner/name`` lies in ``owner/name/``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from audiocraft_ext.checkpoint import disk, hub, source
from audiocraft_ext.checkpoint.hub import DEMUCS_BAG, DIFFUSION_FILE
from audiocraft_ext.errors import CheckpointError

DEMUCS = "adefossez/HTDemucs"
DIFFUSION = "facebook/multiband-diffusion"
DIFFUSION_CODEC = "facebook/encodec_32khz"

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
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
    wrapping = hub.wrapping_in(folder, hub.MODEL_WRAPPINGS)
    assert wrapping is not None
    patterns = [*hub.MODEL_SMALL_FILES, *wrapping.files]
    return sorted(file for file in folder.iterdir() if any(file.match(pattern) for pattern in patterns))


def _hub_id(name: str) -> str | None:
    """The hub's own name; T5 and DAC alone go by one without their owner, in all of Meta's configs."""
    if "/" in name:
        return name
    return next((f"{owner}/{name}" for prefix, owner in _OWNERS.items() if name.startswith(prefix)), None)


def _missing(folder: Path) -> Iterator[str]:
    """The files that a model's folder lacks, nothing where it is whole: what is in a cache may be partial."""
    wrapping = hub.wrapping_in(folder, hub.MODEL_WRAPPINGS)
    if wrapping is None:
        yield "the weights"
        return
    known_by = wrapping.known_by
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
    """The snapshot in the Hugging Face cache, if it is whole."""
    folder = hub.cached(name)
    return None if folder is None or any(_missing(folder)) else folder


def _fetched(name: str, hub_id: str) -> Path:
    try:
        folder = hub.fetch_model(hub_id)
    except OSError as error:
        disk.refuse_full(error, f"for {name}, which the checkpoint names", " in HF_HOME")
        raise
    except hub.Refused as refused:
        raise CheckpointError(
            f"The checkpoint names the model {name}, which lies neither in its folder nor in weights/ nor whole in the "
            f"Hugging Face cache, and {refused.clause}. Where there is a network, script/fetch-weights gathers all "
            "that a checkpoint needs."
        ) from refused
    if missing := ", ".join(_missing(folder)):
        raise CheckpointError(f"The checkpoint names the model {name}, which lacks {missing} on the Hugging Face hub.")
    return folder
