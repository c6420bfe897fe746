"""A checkpoint and its parts gathered by script/fetch-weights, and loaded with no network."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import bundle as module
from audiocraft_ext.checkpoint.bundle import bundle
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS, DEMUCS_BAG, DIFFUSION, DIFFUSION_FILE
from audiocraft_ext.checkpoint.read import formats
from audiocraft_ext.errors import CheckpointError
from tests.support import tiny, tiny_components
from tests.support.loopback import File, HubHandler, Server, published, serving

ROOT = Path(__file__).parents[3]
PARTS = {
    "facebook/encodec_32khz/config.json",
    "facebook/encodec_32khz/model.safetensors",
    "t5-base/config.json",
    "t5-base/model.safetensors",
    "t5-base/tokenizer.json",
    "t5-base/tokenizer_config.json",
    f"{DEMUCS}/955717e8.safetensors",
    f"{DEMUCS}/{DEMUCS_BAG}",
}
MELODY = {"state_dict.bin", "compression_state_dict.bin"} | PARTS
TEXT = {"state_dict.bin", "compression_state_dict.bin"} | {
    f"text_encoder/{file}" for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
}
WITH_DIFFUSION = MELODY | {f"{DIFFUSION}/{DIFFUSION_FILE}"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and parts: ``melody`` names all four parts, ``whole`` has them beside it, ``text`` needs none."""
    folder = tmp_path_factory.mktemp("written")
    tiny_components.write_parts(folder / "parts")
    tiny_components.write_melody(folder / "melody", folder / "parts")
    shutil.copytree(folder / "parts", folder / "whole")
    shutil.copytree(folder / "melody", folder / "whole", dirs_exist_ok=True)
    tiny.write(folder / "text", "text")
    return folder


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``weights/`` as in a clone of the repository."""
    folder = tmp_path / "weights"
    (folder / "demo").mkdir(parents=True)
    (folder / "README.md").write_text("ours")
    (folder / "demo" / "state_dict.bin").write_text("embedded")
    monkeypatch.setattr(source, "WEIGHTS_FOLDER", folder)
    monkeypatch.setattr(source, "EMBEDDED", folder / "demo")
    return folder


def files_in(folder: Path) -> set[str]:
    """The files in a folder but for the clone's own."""
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert (folder / "demo" / "state_dict.bin").read_text() == "embedded"
    return paths - {"README.md", "demo/state_dict.bin", source.MANIFEST}


def read_manifest(folder: Path) -> dict[str, dict[str, str]]:
    return {entry["path"]: entry for entry in json.loads((folder / source.MANIFEST).read_text())["files"]}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------- from the hub


@pytest.fixture
def hub(written: Path) -> Iterator[Server]:
    with serving(HubHandler) as server:
        for name in (tiny_components.CODEC, DEMUCS, DIFFUSION):
            server.files |= published(written / "parts" / name, name)
        server.files |= published(written / "parts" / "t5-base", "google-t5/t5-base")
        server.files |= published(written / "melody", "someone/melody")
        server.files["someone/melody/README.md"] = File(b"---\nlicense: mit\n---\n")
        # Meta's own repositories hold Hugging Face's form too, which is not fetched with an export.
        server.files["someone/melody/config.json"] = File(b'{"model_type": "musicgen_melody"}')
        yield server


def run(script: str, *arguments: str | Path, kilobytes: str = "unlimited", **environment: str) -> tuple[int, str]:
    """The script's exit status, and what it says; no file may be larger than ``kilobytes``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MUSICGEN_"))}
    command = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "-", ROOT / "script" / script, *arguments]
    environment = {**inherited, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_bundle_follows_a_melody_without_network_access(hub: Server, weights: Path, tmp_path: Path) -> None:
    place = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url()}
    status, message = run("fetch-weights", "someone/melody", "--to", weights, **place)
    assert status == 0, message
    assert files_in(weights) == WITH_DIFFUSION | {"config.json"}
    assert f"someone/melody@{HubHandler.COMMIT}, mit" in message
    soundfile.write(tmp_path / "riff.wav", [0.1, -0.1, 0.05] * 16000, 32000)
    inputs = {"input_audio": f"@{tmp_path / 'riff.wav'}", "duration": "1", "multi_band_diffusion": "true", "seed": "1"}
    flags = [flag for name, value in inputs.items() for flag in ("-i", f"{name}={value}")]
    offline = {"HF_HOME": str(tmp_path / "none"), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:1"}
    status, message = run(
        "predict", *flags, "-o", tmp_path / "made.wav", MUSICGEN_WEIGHTS=str(weights), MUSICGEN_DEVICE="cpu", **offline
    )
    assert status == 0, message
    assert soundfile.info(tmp_path / "made.wav").duration == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_manifest_lists_size_checksum_origin_and_licence(hub: Server, weights: Path, tmp_path: Path) -> None:
    place = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url()}
    assert run("fetch-weights", "someone/melody", "--to", weights, **place)[0] == 0
    entries = read_manifest(weights)
    assert entries.keys() == files_in(weights)
    for name, entry in entries.items():
        content = (weights / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    commit = HubHandler.COMMIT
    assert {(entry["origin"], entry["licence"]) for entry in entries.values()} == {
        (f"someone/melody@{commit}", "mit"),
        (f"google-t5/t5-base@{commit}", "apache-2.0"),
        (f"facebook/encodec_32khz@{commit}", "cc-by-nc-4.0"),
        (f"facebook/multiband-diffusion@{commit}", "cc-by-nc-4.0"),
        (f"adefossez/HTDemucs@{commit}", None),
    }


@pytest.mark.slow
def test_a_failed_fetch_leaves_the_previous_bundle_unchanged(
    hub: Server, weights: Path, written: Path, tmp_path: Path
) -> None:
    bundle(str(written / "text"), weights)
    former = contents(weights)
    place = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url()}
    lost = hub.files.pop(f"{DEMUCS}/955717e8.safetensors")
    status, message = run("fetch-weights", "someone/melody", "--to", weights, **place)
    assert status == 1
    assert re.search(f"The checkpoint names the model {DEMUCS}, which lacks 955717e8.safetensors on the", message), (
        message
    )
    assert contents(weights) == former
    hub.files[f"{DEMUCS}/955717e8.safetensors"] = lost
    shutil.rmtree(tmp_path / "hub")
    assert run("fetch-weights", "someone/melody", "--to", tmp_path / "elsewhere", **place)[0] == 0
    largest_kilobytes = max(path.stat().st_size for path in (tmp_path / "elsewhere").rglob("*")) // 1024
    status, message = run(
        "fetch-weights", "someone/melody", "--to", weights, kilobytes=str(largest_kilobytes - 1), **place
    )
    assert status == 1
    assert re.search("The disk is full: there is no space in .* for all of someone/melody", message), message
    assert contents(weights) == former


@pytest.fixture
def both_forms(written: Path, tmp_path: Path) -> Path:
    """A hub's snapshot of one of Meta's repositories after any use of transformers, with the parts that it names."""
    snapshot = tmp_path / "models--someone--melody" / "snapshots" / HubHandler.COMMIT
    shutil.copytree(written / "parts", snapshot)
    shutil.copytree(written / "melody", snapshot, dirs_exist_ok=True)
    return tiny_components.write_huggingface(snapshot, tiny_components.huggingface("melody"))


def test_a_snapshot_with_both_forms_is_its_export(both_forms: Path, written: Path, weights: Path) -> None:
    bundle(str(both_forms), weights)
    assert files_in(weights) >= WITH_DIFFUSION
    assert not (weights / "model.safetensors").exists()
    shutil.rmtree(both_forms)
    state = torch.load(written / "melody" / "state_dict.bin")["best_state"]
    loaded = checkpoint.load(str(weights), "cpu").lm.state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in state.items())


def test_an_adapter_s_base_is_compared_in_its_own_form(both_forms: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = both_forms.with_name("adapter")
    adapter.mkdir()
    hashes = formats.hashes_of_base(str(both_forms))
    config = {"base_model_name_or_path": str(both_forms), "auto_mapping": {formats.BASE_HASH: hashes}}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert formats.base_and_adapters(adapter) == (both_forms, [adapter])
    # Another machine has one form alone: transformers', or the export, with the adapter merged at a request.
    assert hashes.split() == [formats.hash_of(both_forms, is_base) for is_base in (True, False)]
    state = (both_forms / "state_dict.bin").rename(both_forms.parent / "state_dict.bin")
    assert formats.base_and_adapters(adapter) == (both_forms, [adapter])
    state.rename(both_forms / "state_dict.bin")
    (both_forms / "model.safetensors").unlink()
    assert formats.hash_of(both_forms, is_base=False) in hashes.split()
    assert "another base" not in caplog.text
    (both_forms / "state_dict.bin").write_bytes(b"another")
    formats.base_and_adapters(adapter)
    assert "trained on another base" in caplog.text


# --------------------------------------------------------------------------------------------- from local folders


def test_a_second_bundle_replaces_the_first(written: Path, weights: Path) -> None:
    bundle(str(written / "whole"), weights)
    assert files_in(weights) == WITH_DIFFUSION
    bundle(str(written / "text"), weights)
    assert files_in(weights) == TEXT == read_manifest(weights).keys()
    assert not (weights / "facebook").exists()
    assert (weights / "state_dict.bin").read_bytes() == (written / "text" / "state_dict.bin").read_bytes()
    assert checkpoint.load(str(weights), "cpu").follows_melody is False


def test_shared_components_stay_in_place_with_their_origin(written: Path, weights: Path) -> None:
    bundle(str(written / "whole"), weights)
    former = read_manifest(weights)
    stamps = {name: (weights / name).stat().st_mtime_ns for name in PARTS}
    bundle(str(written / "melody"), weights)
    assert files_in(weights) == WITH_DIFFUSION
    assert stamps == {name: (weights / name).stat().st_mtime_ns for name in PARTS}
    now = read_manifest(weights)
    assert {name: now[name] for name in PARTS} == {name: former[name] for name in PARTS}
    assert now["state_dict.bin"]["origin"] == "melody"


def test_a_manifest_contains_no_path_of_its_machine(
    written: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written / "text")
    bundle(".", weights)
    assert {entry["origin"] for entry in read_manifest(weights).values()} == {"text"}
    # As an earlier version wrote it.
    manifest = weights / source.MANIFEST
    manifest.write_text(manifest.read_text().replace('"origin": "text"', f'"origin": "{written / "text"}"'))
    bundle(str(weights), weights)
    assert str(written) not in manifest.read_text()
    assert read_manifest(weights).keys() == TEXT


def test_bundling_a_folder_into_itself_leaves_its_files_alone(written: Path, weights: Path) -> None:
    shutil.copytree(written / "melody", weights, dirs_exist_ok=True)
    shutil.copytree(written / "parts", weights, dirs_exist_ok=True)
    former = contents(weights)
    for _ in range(2):
        assert bundle(str(weights), weights) == [], "what others put there is not this script's to remove"
        (weights / source.MANIFEST).replace(weights.parent / source.MANIFEST)
        assert contents(weights) == former
        (weights.parent / source.MANIFEST).replace(weights / source.MANIFEST)
    assert checkpoint.load(str(weights), "cpu").follows_melody


def test_diffusion_is_optional_and_only_for_its_codec(written: Path, weights: Path) -> None:
    bundle(str(written / "whole"), weights, with_diffusion=False)
    assert files_in(weights) == MELODY
    bundle(str(written / "text"), weights, with_diffusion=True)
    assert files_in(weights) == TEXT


def test_a_single_file_s_neighbours_are_not_bundled(written: Path, weights: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "whole", tmp_path / "mine")
    (tmp_path / "mine" / "trained_model.tar").write_text("not asked for")
    bundle(str(tmp_path / "mine" / "state_dict.bin"), weights)
    assert files_in(weights) == WITH_DIFFUSION - {"compression_state_dict.bin"}
    assert checkpoint.load(str(weights), "cpu").codec_name == tiny_components.CODEC


@pytest.mark.parametrize("other", ["state_dict.bin", "trained_model.tar", "t5-base/config.json", "manifest.json"])
def test_files_from_elsewhere_are_a_conflict(written: Path, weights: Path, other: str) -> None:
    (weights / other).parent.mkdir(exist_ok=True)
    (weights / other).write_text("precious")
    before = contents(weights)
    with pytest.raises(CheckpointError, match=rf"{other} is in the way|t5-base is incomplete"):
        bundle(str(written / "whole"), weights)
    assert contents(weights) == before


def test_the_embedded_checkpoint_s_folder_is_reserved(written: Path, weights: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(written / "text", mine)
    (mine / "text_encoder").rename(mine / "demo")
    package = torch.load(mine / "state_dict.bin")
    package["xp.cfg"] = package["xp.cfg"].replace("name: text_encoder", "name: demo")
    torch.save(package, mine / "state_dict.bin")
    with pytest.raises(CheckpointError, match="like the embedded checkpoint"):
        bundle(str(mine), weights)
    assert files_in(weights) == set()


def test_a_killed_fetch_is_cleaned_up_by_the_next(
    written: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(str(written / "whole"), weights)
    removed: list[str] = []

    def kill(folder: Path, name: str) -> None:
        if len(removed) == 3:
            raise KeyboardInterrupt
        removed.append(name)
        (folder / name).unlink()

    with monkeypatch.context() as patched:
        patched.setattr(module, "_remove", kill)
        with pytest.raises(KeyboardInterrupt):
            bundle(str(written / "text"), weights)
    bundle(str(written / "text"), weights)
    assert files_in(weights) == TEXT == read_manifest(weights).keys()


def test_an_adapter_must_be_merged_first(written: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge them with script/convert-weights"):
        bundle(str(tmp_path / "adapter"), weights)


def test_components_and_a_manifest_are_not_a_checkpoint(
    written: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSICGEN_WEIGHTS", raising=False)
    bundle(str(written / "whole"), weights)
    assert checkpoint.default_weights(None) == str(weights)
    for own in ("state_dict.bin", "compression_state_dict.bin"):
        (weights / own).unlink()
    assert checkpoint.default_weights(None) == str(weights / "demo")
