"""Set-up on a device that fails: the faulty part is not used, the log says so, and there is music anyway."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint, musicgen
from audiocraft_ext.engine import backends, self_check
from audiocraft_ext.engine.backends.torch import CaptureError, Linear, TorchBackend
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.engine.step import Step
from audiocraft_ext.engine.transformer import WeightBias
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from tests.support import tiny
from tests.support.engines import HostBackend, InterpretedBackend

REQUEST = Request(prompt="bass", duration=1, temperature=0.0)


class Recorded(HostBackend):
    """Its captures are right."""

    def capture(self, step: Step) -> Callable[[], None]:
        return step.run_eagerly


class Uncapturable(HostBackend):
    """Its captures raise."""

    def capture(self, step: Step) -> Callable[[], None]:
        def fail() -> None:
            raise CaptureError("operation not permitted")

        return fail if self.captures else step.run_eagerly


class CapturesOtherLogits(HostBackend):
    """Its captures compute something else."""

    def capture(self, step: Step) -> Callable[[], None]:
        def run() -> None:
            step.run_eagerly()
            step.logits *= 1.1

        return run if self.captures else step.run_eagerly


class CapturesOtherTokens(HostBackend):
    """Its captures draw something else."""

    def capture(self, step: Step) -> Callable[[], None]:
        def run() -> None:
            step.run_eagerly()
            slots = torch.arange(len(step.table.step))
            step.table.sequence[slots, :, step.table.step - 1] += 1

        return run if self.captures else step.run_eagerly


class Uncompilable(Recorded):
    """Its kernel does not compile."""

    def linear(self, matrix: WeightBias, norm: WeightBias | None = None, gelu: bool = False) -> Linear:
        raise RuntimeError("ptxas fatal")


class Inexact(Recorded):
    """Its kernel adds up too much."""

    def linear(self, matrix: WeightBias, norm: WeightBias | None = None, gelu: bool = False) -> Linear:
        return super().linear(WeightBias(1.05 * matrix.weight, matrix.bias), norm, gelu)


class NotANumber(Recorded):
    """Its kernel gives NaN."""

    def linear(self, matrix: WeightBias, norm: WeightBias | None = None, gelu: bool = False) -> Linear:
        return super().linear(WeightBias(matrix.weight * torch.nan, matrix.bias), norm, gelu)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny"), "text")


def load(monkeypatch: pytest.MonkeyPatch, folder: Path, backend: type[TorchBackend], **settings: Any) -> Any:
    """The model on a backend that stands in for the fastest, its engine's name, and a second of greedy music."""
    monkeypatch.setattr(backends, "TritonBackend", backend)
    model = musicgen.load(str(folder), "cpu", EngineSettings(backend="triton", n_slots=2), **settings)
    samples = model.generate(REQUEST, None, SilentProgress())
    model.close()
    return model, model.engine_name, samples


@pytest.fixture(scope="module")
def music(folder: Path) -> Tensor:
    model = musicgen.load(str(folder), "cpu", EngineSettings(engine="upstream"), smoke_test=False)
    return model.generate(REQUEST, None, SilentProgress())


@pytest.mark.parametrize(
    ("backend", "engine", "reason"),
    [
        (Uncapturable, "uncapturable, eager", "operation not permitted"),
        (CapturesOtherLogits, "capturesotherlogits, eager", "differs from plain torch by 0.1"),
        (CapturesOtherTokens, "capturesothertokens, eager", "differs from plain torch by inf"),
        (Uncompilable, "torch, eager", "(uncompilable, captured) fails here: RuntimeError: ptxas fatal"),
        (Inexact, "torch, eager", "differs from plain torch by 0.0"),
        (NotANumber, "torch, eager", "differs from plain torch by nan"),
    ],
)
def test_what_fails_is_replaced_by_the_next_simpler_and_logged_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    folder: Path,
    music: Tensor,
    backend: type[TorchBackend],
    engine: str,
    reason: str,
) -> None:
    _, name, samples = load(monkeypatch, folder, backend)
    assert name == engine
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert torch.equal(samples, music)


def test_where_plain_torch_fails_too_audiocraft_makes_the_tokens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: Path, music: Tensor
) -> None:
    monkeypatch.setattr(backends, "TorchBackend", Uncompilable)
    _, name, samples = load(monkeypatch, folder, Inexact)
    assert name == "audiocraft"
    assert len(caplog.records) == 2
    assert torch.equal(samples, music)


def test_set_up_says_in_one_line_how_tokens_are_made_and_how_exactly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    model, name, _ = load(monkeypatch, folder, Recorded)
    assert not caplog.records
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Engine: ")]
    assert line == f"Engine: {model.engine.description}"
    assert line.startswith(f"Engine: {name}, on cpu in float32; 1 slots, 0.0")
    assert f"GB of keys and values; self-check: {model.engine.self_check:.1e} from plain torch" in line


@pytest.mark.parametrize(("kind", "quantize"), [("text", "int8"), ("melody", "none")])
def test_interpreted_kernels_pass_the_self_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: tiny.Kind, quantize: Quantize
) -> None:
    monkeypatch.setattr(self_check, "_N_PROMPT", 9)  # the interpreter is slow
    monkeypatch.setattr(backends, "TritonBackend", InterpretedBackend)
    settings = EngineSettings(backend="triton", n_slots=1, quantize=quantize)
    model = Model(checkpoint.load(str(tiny.write(tmp_path, kind)), "cpu"), settings, self_check=True)
    assert model.engine is not None
    assert model.engine.self_check is not None
    # 1e-6 measured; with an int8 cache 2e-5, since rounding to 255 steps enlarges the last bit's differences.
    assert 0 < model.engine.self_check < (1e-4 if quantize == "int8" else 1e-5)


def test_without_the_smoke_test_there_is_no_self_check(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    model, name, _ = load(monkeypatch, folder, Inexact, smoke_test=False)
    assert name == "inexact, captured"
    assert model.engine.description.endswith("self-check: off")


def test_weights_that_overflow_are_no_fault_of_the_backend(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tiny.write(tmp_path, "text") / "state_dict.bin"
    package = torch.load(path)
    tiny.overflow(package)
    torch.save(package, path)
    model, name, _ = load(monkeypatch, tmp_path, Recorded, dtypes=[torch.float16, torch.bfloat16])
    assert name == "recorded, captured"
    assert model.engine.backend.dtype == torch.bfloat16
    assert not caplog.records
    with pytest.raises(CheckpointError, match="every dtype that was tried"):
        load(monkeypatch, tmp_path, Recorded, dtypes=[torch.float16])
