"""Every way to name a checkpoint, fetched; the hub's client is the real one, against a hub on this machine."""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_FILE
from audiocraft_ext.errors import CheckpointError
from tests.support.disk import files_of_at_most
from tests.support.loopback import File, HubHandler, Server, serving
from tests.support.probe import run_code

# fetch of each argument, a line each.
FETCH = """
from audiocraft_ext.checkpoint.locate import source
for weights in sys.argv[2:]:
    try:
        print(source.locate(weights))
    except CheckpointError as error:
        print("REFUSED", str(error).replace(chr(10), " "))
"""


def fetch(environment: dict[str, str], *weights: str, largest_file_bytes: int = -1) -> list[str]:
    """The path of each of ``weights`` in a fresh process, or "REFUSED" and why."""
    return run_code(FETCH, *weights, environment=environment, largest_file_bytes=largest_file_bytes)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "musicgen"


@pytest.fixture
def hub() -> Iterator[Server]:
    with serving(HubHandler) as server:
        exported = ["state_dict.bin", "compression_state_dict.bin", "model.safetensors", "pytorch_model.bin"]
        transformers = ["config.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors", "pytorch_model.bin"]
        repositories = {
            "someone/exported": [*exported, "config.json", "text_encoder/model.safetensors", "sample.wav"],
            "someone/transformers": [*transformers, "checkpoint-500/model.safetensors", "optimizer.pt"],
            "someone/tuned": ["trained_model.tar", "README.md"],
            "someone/gated": ["state_dict.bin"],
            "someone/sounds": ["README.md", "sample.wav"],
        }
        for name, paths in repositories.items():
            server.files |= {f"{name}/{path}": File(f"{name}/{path}".encode()) for path in paths}
        yield server


def files_in(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("weights", ["no/such/folder", "nowhere", "../no/where", "/nowhere", "~/nowhere", "~nobody/x"])
def test_a_missing_path_is_refused(weights: str) -> None:
    with pytest.raises(CheckpointError, match="neither an existing file"):
        source.locate(weights)


def test_local_files_and_folders_are_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = tmp_path / "my model" / "trained_model.tar"
    model.parent.mkdir()
    torch.save({"model": torch.zeros(3)}, model)
    assert source.locate(str(model)) == model
    assert source.locate(str(model.parent)) == model.parent
    assert source.locate("~/my model") == model.parent


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The output of hosted trainers: a real tar with the fine-tuner's file in it."""
    (tmp_path / "trained_model.tar").write_bytes(os.urandom(100_000))
    path = tmp_path / "weights" / "trained_model.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "trained_model.tar", "trained_model.tar")
    return path


def test_an_archive_is_unpacked_from_a_file_a_folder_and_a_url(archive: Path, cache: Path) -> None:
    (archive.parent / "README.md").touch()
    (archive.parent / DIFFUSION_FILE).touch()
    with serving() as server:
        server.files["/model"] = File(archive.read_bytes())
        for weights in (str(archive), str(archive.parent), server.url("/model")):
            folder = source.locate(weights)
            assert folder.is_relative_to(cache / "archives")
            assert (folder / "trained_model.tar").stat().st_size == 100_000


def test_a_signed_url_may_be_longer_than_a_file_s_name() -> None:
    with serving() as server:
        server.files["/model.tar"] = File(b"weights")
        assert source.locate(server.url("/model.tar?signature=" + "x" * 5000)).read_bytes() == b"weights"


def test_a_full_disk_is_reported_and_the_download_resumed() -> None:
    with serving() as server:
        url = server.url("/model.tar")
        server.files["/model.tar"] = File(bytes(200_000))
        with files_of_at_most(100_000), pytest.raises(CheckpointError, match=r"disk is full.*XDG_CACHE_HOME") as caught:
            source.locate(url)
        assert isinstance(caught.value.__cause__, OSError)
        assert source.locate(url).read_bytes() == bytes(200_000)
        assert server.ranges() == [None, "bytes=100000-"]


@pytest.mark.slow
def test_a_full_disk_is_reported_for_archives_and_the_hub(archive: Path, hub: Server, tmp_path: Path) -> None:
    hub.files["someone/tuned/trained_model.tar"].content = bytes(200_000)
    places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url()}
    messages = fetch(places, str(archive), "someone/tuned", largest_file_bytes=50_000)
    for line, variable in zip(messages, ("XDG_CACHE_HOME", "HF_HOME"), strict=True):
        assert re.match(f"REFUSED The disk is full.*{variable}", line)
    assert not list((tmp_path / "cache" / "musicgen" / "archives").glob("*/"))


def test_a_cache_path_that_is_a_file_is_reported(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"Not a directory.*XDG_CACHE_HOME"):
        source.locate(str(archive))


@pytest.mark.slow
def test_one_layout_of_a_repository_is_fetched_and_works_offline(hub: Server, tmp_path: Path) -> None:
    place = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url()}
    names = ["someone/exported", "someone/exported@v1", "someone/transformers", "someone/tuned"]
    first = fetch(place, *names)
    assert [files_in(folder) for folder in first] == [
        {"state_dict.bin", "compression_state_dict.bin", "config.json", "text_encoder/model.safetensors"},
        {"state_dict.bin", "compression_state_dict.bin", "config.json", "text_encoder/model.safetensors"},
        {"config.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"},
        {"trained_model.tar"},
    ]
    assert Path(first[0], "state_dict.bin").read_bytes() == b"someone/exported/state_dict.bin"
    hub.asked.clear()
    assert fetch({**place, "HF_HUB_OFFLINE": "1"}, *names) == first
    assert not hub.asked
    assert fetch({**place, "HF_ENDPOINT": "http://127.0.0.1:1"}, *names) == first


@pytest.mark.slow
def test_every_refusal_of_the_hub_is_one_sentence(hub: Server, tmp_path: Path) -> None:
    place = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url()}
    asked = ["someone/unknown", "someone/tuned@v2", "someone/gated", "some--one/x..y", "someone/sounds"]
    unknown, revision, gated, invalid, weightless = fetch(place, *asked)
    assert re.match("REFUSED 'someone/unknown' is not a local .* no such public model.* HF_TOKEN", unknown)
    assert re.match("REFUSED 'someone/tuned' .* has no revision 'v2'", revision)
    assert re.match("REFUSED 'someone/gated' .* is gated; accept its terms .* HF_TOKEN", gated)
    assert re.match("REFUSED 'some--one/x..y' is not a local .* no such public model", invalid)
    assert re.match("REFUSED someone/sounds .* has no weights", weightless)
    (opened,) = fetch({**place, "HF_TOKEN": "good"}, "someone/gated")
    assert files_in(opened) == {"state_dict.bin"}
    (refused,) = fetch({**place, "HF_TOKEN": "bad"}, "someone/exported")
    assert re.match("REFUSED .* token in HF_TOKEN", refused)


@pytest.mark.slow
def test_an_unreachable_hub_without_a_cached_copy_is_reported(tmp_path: Path) -> None:
    place = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:1"}
    for offline in ("0", "1"):
        (message,) = fetch({**place, "HF_HUB_OFFLINE": offline}, "someone/exported")
        assert re.match("REFUSED 'someone/exported' is not a local .* unreachable.*HF_HUB_OFFLINE", message)
