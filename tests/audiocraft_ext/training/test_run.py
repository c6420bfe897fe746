"""The whole training on a tiny base: the archive's content, and that our loader plays it."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from audiocraft_ext import musicgen
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.errors import Cancelled, CheckpointError, InputError, TrainingError
from audiocraft_ext.progress import Progress, SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.training import report, run
from audiocraft_ext.training.loop import StepReport
from audiocraft_ext.training.request import TrainingRequest
from audiocraft_ext.training.run import TrainingSettings
from tests.support.disk import files_of_at_most
from tests.support.training_data import WINDOW_S, write_base, write_songs

Train = Callable[..., Path]
SETTINGS: dict[str, Any] = {"steps": 3, "batch_size": 2, "auto_labeling": False, "lora_rank": 2, "held_out": 0.25}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_base(tmp_path / "base")
    monkeypatch.setenv("MUSICGEN_WEIGHTS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def train(tmp_path: Path, base: Path) -> Train:
    """``run.train`` on four songs."""
    songs = write_songs(tmp_path / "songs")
    settings = TrainingSettings("cpu", tmp_path / "cache", EngineSettings())

    def start(on_step: Callable[[StepReport], None] = lambda step: None, **inputs: Any) -> Path:
        archive = run.train(TrainingRequest(songs, **{**SETTINGS, **inputs}), settings, Progress(), on_step)
        assert archive is not None
        return archive

    return start


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def play(weights: Path) -> torch.Tensor:
    model = musicgen.load(str(weights), "cpu", EngineSettings(), smoke_test=False)
    samples = model.generate(Request(prompt="a tone", duration=1, seed=3), None, SilentProgress())
    model.close()
    return samples


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_archive_is_loaded_and_plays_something_else_than_the_base(
    train: Train, base: Path, tmp_path: Path, method: str
) -> None:
    archive = train(method=method, lr=0.01, trigger_word="zonk")
    played = play(archive)
    assert played.isfinite().all()
    assert not torch.equal(played, play(base))
    folder = unpack(archive, tmp_path / "unpacked")
    card = (folder / "README.md").read_text()
    assert "Prompts call the sound by **zonk**." in card
    assert "3 songs in 3 pieces of 0.2 minutes; held out: 1 songs in 1 pieces of 0.1 minutes." in card
    assert f"method {method}" in card
    assert str(tmp_path) not in card
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    data = json.loads((folder / "dataset.json").read_text())
    assert [len(data[name]) for name in ("train", "held_out")] == [3, 1]
    assert all(piece["caption"].startswith("zonk, a tone") for piece in data["train"])
    assert (folder / "loss.png").stat().st_size > 10_000
    pairs = sorted(path.name for path in (folder / "samples").iterdir())
    assert len(pairs) == 2 * 3  # a held-out caption, the trigger word and a plain prompt
    assert {soundfile.info(folder / "samples" / name).duration for name in pairs} == {float(WINDOW_S)}


def test_the_samples_are_those_that_the_server_plays(train: Train, tmp_path: Path) -> None:
    archive = train(sample_prompts="a tone\nanother")
    folder = unpack(archive, tmp_path / "unpacked")
    [path] = (folder / "samples").glob("1-step-*.wav")
    model = musicgen.load(str(archive), "cpu", EngineSettings(), smoke_test=False)
    expected = model.generate(Request(prompt="another", duration=WINDOW_S, seed=1), None, SilentProgress())
    model.close()
    written = torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0].T.copy())
    assert torch.allclose(written, expected.clamp(-1, 1), atol=1 / 32768)


def test_a_cancelled_training_goes_on_where_it_ended(train: Train, tmp_path: Path) -> None:
    seen: list[int] = []

    def cancel(step: StepReport) -> None:
        seen.append(step.step)
        if step.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(cancel)
    first = train(lambda step: seen.append(step.step))
    assert seen == [0, 1, 2, 3]
    again = train()  # nothing is left to go on from
    weights = [(unpack(a, tmp_path / str(a.parent.name)) / "adapter_model.safetensors") for a in (first, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_other_sample_prompts_and_a_corrected_caption_end_no_training(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cancel(step: StepReport) -> None:
        if step.step == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(cancel, sample_prompts="a tone")
    with pytest.raises(Cancelled):
        train(lambda step: cancel(replace(step, step=step.step - 1)), sample_prompts="a tone\nanother")
    train(sample_prompts="another\na tone\na third")
    assert "Resumed after step 2." in capsys.readouterr().out
    with pytest.raises(Cancelled):
        train(cancel)
    (tmp_path / "songs" / "0.txt").write_text("a corrected caption")
    train()
    assert "Starting again: clips, captions or base differ from those of step 1." in capsys.readouterr().out


@pytest.mark.parametrize("n_bytes", [100, 20_000])
def test_a_full_disk_ends_it_in_a_sentence_and_it_goes_on(train: Train, tmp_path: Path, n_bytes: int) -> None:
    """Full for the tokens, and for the archive."""
    with files_of_at_most(n_bytes), pytest.raises(TrainingError) as raised:
        train()
    assert str(tmp_path / "cache") in str(raised.value)
    assert "ree some space" in str(raised.value)
    assert play(train()).isfinite().all()


def test_a_cache_that_cannot_be_written_is_named(train: Train, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TrainingError, match=r"cannot be written to .*cache: Not a directory\. .* set XDG_CACHE_HOME"):
        train()


def test_the_same_training_twice_at_once_is_refused(train: Train) -> None:
    def start_another(step: StepReport) -> None:
        train()

    with pytest.raises(TrainingError, match="already running"):
        train(start_another)


def test_a_bad_data_set_is_refused_before_anything_is_encoded(train: Train, tmp_path: Path) -> None:
    (tmp_path / "songs" / "stray.txt").write_text("a caption of nothing")
    with pytest.raises(InputError, match=r"dataset_path: .*\n- stray\.txt: there is no audio file"):
        train()
    assert not (tmp_path / "cache" / "tokens").exists()


def test_a_base_is_named_so_that_another_machine_can_find_it(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    request = TrainingRequest(Path("x"))
    assert run.name_base(request) == str(base.resolve())
    monkeypatch.setenv("MUSICGEN_WEIGHTS", "weights/demo")
    assert run.name_base(request) == source.EMBEDDED_NAME
    monkeypatch.setenv("MUSICGEN_WEIGHTS", "owner/name@main")
    assert run.name_base(request) == "owner/name@main"
    assert run.name_base(TrainingRequest(Path("x"), model_version="melody")) == "facebook/musicgen-melody"


def test_a_base_that_is_nowhere_is_refused_in_a_sentence(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_WEIGHTS", "/nowhere")
    with pytest.raises(CheckpointError, match="There is no checkpoint at '/nowhere'"):
        train()


def test_a_line_has_the_numbers_that_a_user_waits_for() -> None:
    step = StepReport(120, 1000, 3.2142, 3.3011, None, 1.8e-4, 9.13, 4.21, 100.2)
    assert report.line(step) == "12% step 120/1000 loss 3.214 held-out 3.301 lr 1.8e-04 9.1 it/s 4.2 GB 1m40s left"
