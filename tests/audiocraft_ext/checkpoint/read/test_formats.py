"""Every format, every kind of model and every source: they are independent, and tested one by one."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.settings import EngineSettings
from tests.support import checkpoint_formats, tiny
from tests.support.checkpoint_formats import ALL_FORMATS, ONE_FILE, LanguageModel
from tests.support.loopback import File, HubHandler, Server, serving
from tests.support.music import greedy, greedy_of
from tests.support.tiny import KINDS

SOURCES = ("file", "folder", "tar", "zip", "URL", "hub id")
# A format of one file, and one of several folders.
CELLS = [("dora checkpoint", place) for place in SOURCES] + [("PEFT LoRA", place) for place in SOURCES[1:]]


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In the place of ``weights/``: the codec and the text encoder that a language model alone names."""
    with pytest.MonkeyPatch.context() as patch:
        folder = checkpoint_formats.write_parts(tmp_path_factory.mktemp("parts"))
        patch.setattr(source, "WEIGHTS_FOLDER", folder)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield folder


@pytest.fixture(scope="module")
def language_model(parts: Path) -> Callable[[tiny.Kind], LanguageModel]:
    return cache(lambda kind: checkpoint_formats.language_model(kind, parts))


@pytest.fixture(scope="module")
def write_format(
    language_model: Callable[[tiny.Kind], LanguageModel], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, tiny.Kind], Path]:
    """A function from a format and a kind to the folder of that model in that format."""

    @cache
    def write(name: str, kind: tiny.Kind) -> Path:
        folder = tmp_path_factory.mktemp("write_format")
        ALL_FORMATS[name](language_model(kind), folder)
        return folder

    return write


@pytest.fixture(scope="module")
def music(write_format: Callable[[str, tiny.Kind], Path]) -> Callable[[tiny.Kind], Tensor]:
    """The music of a kind's export."""
    return cache(lambda kind: greedy(write_format("audiocraft export", kind)))


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_one_model_makes_the_same_music_in_every_format(
    name: str, write_format: Callable[[str, tiny.Kind], Path], music: Callable[[tiny.Kind], Tensor]
) -> None:
    assert torch.equal(greedy(write_format(name, "text")), music("text"))


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_of_every_kind_makes_the_same_music(
    kind: tiny.Kind, write_format: Callable[[str, tiny.Kind], Path], music: Callable[[tiny.Kind], Tensor]
) -> None:
    """Hugging Face's format shares neither names nor config with audiocraft's."""
    made = greedy(write_format("Hugging Face", kind))
    assert made.shape == (2 if kind == "stereo" else 1, 32000)
    assert torch.equal(made, music(kind))


def test_every_single_weight_changes_the_music(
    write_format: Callable[[str, tiny.Kind], Path], music: Callable[[tiny.Kind], Tensor]
) -> None:
    loaded = checkpoint.load(str(write_format("audiocraft export", "text")), "cpu")
    for name, parameter in loaded.lm.named_parameters():
        kept = parameter.data
        parameter.data = kept.flip(0) if kept.dim() == 1 else torch.zeros_like(kept)
        assert not torch.equal(greedy_of(loaded, EngineSettings(consume=False)), music("text")), name
        parameter.data = kept


@pytest.fixture(scope="module")
def files() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A hub on this machine, which the hub's client asks instead of the real one."""
    with serving(HubHandler) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url())
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url("/{repo_id}/resolve/{revision}/{filename}"))
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        yield server


def name_of(name: str, folder: Path, place: str, scratch: Path, files: Server, hub: Server) -> str:
    """The weights string of the model in ``folder`` when it is at ``place``."""
    match place:
        case "file":
            return str(checkpoint_formats.one_file(folder))
        case "folder":
            return str(folder)
        case "tar" | "zip":
            return shutil.make_archive(str(scratch / "model"), place, folder)
        case "URL":
            if name in ONE_FILE:
                path = checkpoint_formats.one_file(folder)
            else:
                path = Path(shutil.make_archive(str(scratch / "model"), "gztar", folder))
            files.files[f"/{folder.name}/{path.name}"] = File(path.read_bytes())
            return files.url(f"/{folder.name}/{path.name}")
        case _:
            return _on_hub(folder, hub)


def _on_hub(folder: Path, hub: Server) -> str:
    repository = f"someone/{folder.name}"
    for path in folder.iterdir():
        content = path.read_bytes()
        if path.name == "adapter_config.json":
            settings = json.loads(content)
            base = _on_hub(Path(settings["base_model_name_or_path"]), hub)
            content = json.dumps({**settings, "base_model_name_or_path": base}).encode()
        hub.files[f"{repository}/{path.name}"] = File(content)
    return repository


@pytest.mark.parametrize(("name", "place"), CELLS)
def test_a_checkpoint_loads_from_every_source(
    name: str,
    place: str,
    write_format: Callable[[str, tiny.Kind], Path],
    language_model: Callable[[tiny.Kind], LanguageModel],
    files: Server,
    hub: Server,
    tmp_path: Path,
) -> None:
    weights = name_of(name, write_format(name, "text"), place, tmp_path, files, hub)
    loaded = checkpoint.load(weights, "cpu").lm.state_dict()
    expected = language_model("text").state
    assert loaded.keys() == expected.keys()
    error = 1e-5 if name == "PEFT LoRA" else 0  # 2e-6 measured: what was taken away is added again
    for key, value in loaded.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=error)


def test_an_adapter_s_base_is_fetched_in_the_form_that_it_names(
    write_format: Callable[[str, tiny.Kind], Path], language_model: Callable[[tiny.Kind], LanguageModel], hub: Server
) -> None:
    """Meta's repositories have an export beside it, which is fetched of a checkpoint."""
    adapter = write_format("PEFT LoRA", "text")
    base = _on_hub(adapter.with_name(f"{adapter.name}-base"), hub)
    for path in write_format("audiocraft export", "text").iterdir():
        hub.files[f"{base}/{path.name}"] = File(path.read_bytes())
    loaded = checkpoint.load(_on_hub(adapter, hub), "cpu").lm.state_dict()
    for key, value in loaded.items():
        torch.testing.assert_close(value, language_model("text").state[key], rtol=0, atol=1e-5)
