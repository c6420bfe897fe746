"""The pretrained models that a checkpoint names, found in each of the four places, with the hub's real client."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from audiocraft_ext.checkpoint.locate import pretrained, source
from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS, DIFFUSION, find_local_model, locate_model
from audiocraft_ext.errors import CheckpointError
from tests.support import tiny_components
from tests.support.loopback import File, HubHandler, Server, published, serving
from tests.support.probe import run_code

NAMES = [tiny_components.TEXT_ENCODER, tiny_components.CODEC, DEMUCS, DIFFUSION]
FILES = {
    tiny_components.TEXT_ENCODER: {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"},
    tiny_components.CODEC: {"config.json", "model.safetensors"},
    DEMUCS: {"htdemucs.yaml", "955717e8.safetensors"},
    DIFFUSION: {"mbd_musicgen_32khz.th"},
}

OFFLINE = {"HF_HUB_OFFLINE": "1"}

# locate_model each name, a line each.
FOLDERS = """
from pathlib import Path
from audiocraft_ext.checkpoint.locate import pretrained, source
weights, beside, *names = sys.argv[2:]
source.WEIGHTS_FOLDER = Path(weights)
for name in names:
    try:
        print(pretrained.locate_model(name, Path(beside)))
    except CheckpointError as error:
        print("REFUSED", str(error).replace(chr(10), " "))
"""


class Places:
    """The four of them, empty but for the hub; a question to them is a fresh process."""

    def __init__(self, folder: Path, hub: Server) -> None:
        self.beside, self.weights, self.cache = folder / "checkpoint", folder / "weights", folder / "cache"
        self.hub = hub

    def find(
        self, *names: str, largest_file_bytes: int = -1, environment: Mapping[str, str] = MappingProxyType({})
    ) -> list[str]:
        """The folder of each, or "REFUSED" and why; the requests to the hub meanwhile are in ``hub.asked``."""
        self.hub.asked.clear()
        places = {"HF_HOME": str(self.cache), "HF_ENDPOINT": self.hub.url(), **environment}
        folders = (self.weights, self.beside)
        return run_code(FOLDERS, *folders, *names, environment=places, largest_file_bytes=largest_file_bytes)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_components.write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def places(written: Path, tmp_path: Path) -> Iterator[Places]:
    with serving(HubHandler) as hub:
        for name in NAMES:
            hub.files |= published(written / name, name if "/" in name else f"google-t5/{name}")
        yield Places(tmp_path, hub)


def files_in(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


@pytest.mark.slow
def test_search_order_is_checkpoint_weights_cache_hub(places: Places, written: Path) -> None:
    fetched = places.find(*NAMES)
    assert all(Path(folder).is_relative_to(places.cache) for folder in fetched), fetched
    assert places.hub.asked
    assert places.find(*NAMES) == fetched
    assert not places.hub.asked, "the hub is asked for cached files"
    assert places.find(*NAMES, environment=OFFLINE) == fetched
    shutil.copytree(written, places.weights)
    assert places.find(*NAMES) == [str(places.weights / name) for name in NAMES]
    shutil.copytree(written, places.beside)
    assert places.find(*NAMES) == [str(places.beside / name) for name in NAMES]
    assert not places.hub.asked


@pytest.mark.slow
def test_only_the_layout_that_is_loaded_is_fetched(places: Places) -> None:
    for name, folder in zip(NAMES, places.find(*NAMES), strict=True):
        assert files_in(folder) == FILES[name]
        assert {file.name for file in pretrained.model_files(Path(folder))} == FILES[name]


@pytest.mark.slow
def test_a_repository_without_safetensors_falls_back_to_pickle(places: Places) -> None:
    del places.hub.files["google-t5/t5-base/model.safetensors"]
    (folder,) = places.find("t5-base")
    assert files_in(folder) == FILES["t5-base"] - {"model.safetensors"} | {"pytorch_model.bin"}


@pytest.mark.slow
def test_a_sharded_model_is_fetched_completely(places: Places) -> None:
    files = places.hub.files
    whole = files.pop("google-t5/t5-base/model.safetensors")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files |= {f"google-t5/t5-base/{shard}": whole for shard in shards}
    index = File(json.dumps({"weight_map": {"one": shards[0], "two": shards[1]}}).encode())
    files["google-t5/t5-base/model.safetensors.index.json"] = index
    (folder,) = places.find("t5-base")
    assert files_in(folder) >= set(shards)
    (Path(folder) / shards[1]).unlink()
    assert places.find("t5-base", environment=OFFLINE)[0].startswith("REFUSED")
    assert places.find("t5-base") == [folder]
    assert files_in(folder) >= set(shards)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_partial_snapshot_is_completed(places: Places, name: str) -> None:
    (folder,) = places.find(name)
    lost = max(FILES[name] - {"tokenizer_config.json"})
    (Path(folder) / lost).unlink()
    (message,) = places.find(name, environment=OFFLINE)
    assert re.match(f"REFUSED .*{name}.* nor complete in the .*HF_HUB_OFFLINE", message)
    assert places.find(name) == [folder]
    assert files_in(folder) == FILES[name]


@pytest.mark.slow
def test_a_snapshot_cached_under_an_old_name_is_found(places: Places) -> None:
    (folder,) = places.find("t5-base")
    (places.cache / "hub" / "models--google-t5--t5-base").rename(places.cache / "hub" / "models--t5-base")
    (found,) = places.find("t5-base", environment=OFFLINE)
    assert Path(found).parts[-3] == "models--t5-base"
    assert Path(found).name == Path(folder).name


@pytest.mark.slow
def test_hub_failures_are_one_sentence(places: Places) -> None:
    places.hub.files["someone/else/README.md"] = File(b"no model")
    places.hub.files["someone/gated/model.safetensors"] = File(b"not for all")
    unknown, another, gated = places.find("someone/unknown", "someone/else", "someone/gated")
    assert re.match("REFUSED The checkpoint names the model someone/unknown.* hub has no such public model", unknown)
    assert re.match("REFUSED The checkpoint names the model someone/else, which lacks the weights on", another)
    assert re.match("REFUSED .* someone/gated, which is neither .*accept its terms at .*/someone/gated,", gated)
    for environment in (OFFLINE, {"HF_ENDPOINT": "http://127.0.0.1:1"}):
        (unreached,) = places.find("t5-base", environment=environment)
        assert re.match("REFUSED .* t5-base, which is neither .* unreachable.* script/fetch-weights", unreached)


@pytest.mark.slow
def test_a_full_disk_leaves_no_snapshot_that_looks_complete(places: Places) -> None:
    (full,) = places.find("t5-base", largest_file_bytes=20_000)
    assert re.match("REFUSED The disk is full: there is no space for google-t5/t5-base.* HF_HOME", full)
    (folder,) = places.find("t5-base")
    assert files_in(folder) == FILES["t5-base"]


def test_an_incomplete_local_folder_is_refused_not_skipped(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "WEIGHTS_FOLDER", tmp_path / "weights")
    for name in NAMES:
        for lost in FILES[name] - {"tokenizer_config.json"}:
            shutil.rmtree(tmp_path, ignore_errors=True)
            shutil.copytree(written / name, tmp_path / name, ignore=shutil.ignore_patterns(lost, "pytorch_model.bin"))
            with pytest.raises(CheckpointError, match=f"{name} is incomplete in .*: add "):
                locate_model(name, tmp_path)


@pytest.mark.parametrize("name", ["../weights", "/etc/passwd", "a/b/c", "", "facebook/", "../../x"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="not of the form owner/name"):
        find_local_model(name, tmp_path)


def test_a_name_without_owner_is_not_looked_up_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'text_encoder', which is neither .* text_encoder/ beside"):
        locate_model("text_encoder", tmp_path)
