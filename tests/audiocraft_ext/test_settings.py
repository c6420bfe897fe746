"""Settings from the environment: set, unset and wrong."""

from pathlib import Path

import pytest
import torch

from audiocraft_ext.settings import EngineSettings, Settings

VARIABLES = (
    "MUSICGEN_DEVICE",
    "MUSICGEN_ENGINE",
    "MUSICGEN_QUANTIZE",
    "MUSICGEN_KERNELS",
    "MUSICGEN_CAPTURE",
    "MUSICGEN_SMOKE_TEST",
    "MUSICGEN_MAX_DURATION",
    "COG_MAX_CONCURRENCY",
)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("is_set", [False, True], ids=["unset", "empty"])
def test_an_unset_or_empty_variable_has_its_default(monkeypatch: pytest.MonkeyPatch, is_set: bool) -> None:
    for variable in VARIABLES if is_set else ():
        monkeypatch.setenv(variable, "")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert Settings.from_environment(16) == Settings(
        device, EngineSettings("fast", n_slots=16, quantize="none"), True, 300
    )


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in zip(VARIABLES, ("cpu", "upstream", "int8", "off", "off", "off", "20", "2"), strict=True):
        monkeypatch.setenv(variable, value)
    assert Settings.from_environment(16) == Settings(
        "cpu", EngineSettings("upstream", n_slots=2, quantize="int8", backend="torch", capture=False), False, 20
    )


def test_adapters_are_in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSICGEN_ADAPTERS", str(tmp_path))
    monkeypatch.setenv("MUSICGEN_MAX_ADAPTERS", "5")
    settings = Settings.from_environment(16)
    assert (settings.adapters, settings.max_adapters) == (tmp_path, 5)


def test_without_kernels_a_gpu_runs_its_own_backend_of_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("MUSICGEN_KERNELS", "off")
    assert Settings.from_environment(16) == Settings("cuda", EngineSettings(backend="cuda"))


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("MUSICGEN_DEVICE", "gpu", "use one of cpu, cuda"),
        ("MUSICGEN_DEVICE", "cuda", "Set it to cpu"),
        ("MUSICGEN_ENGINE", "warp", "use one of fast, upstream"),
        ("MUSICGEN_QUANTIZE", "int3", "use one of none, int8"),
        ("MUSICGEN_KERNELS", "triton", "use one of on, off"),
        ("MUSICGEN_CAPTURE", "graph", "use one of on, off"),
        ("MUSICGEN_SMOKE_TEST", "yes", "use one of on, off"),
        ("MUSICGEN_MAX_DURATION", "5m", "at least 1"),
        ("MUSICGEN_MAX_DURATION", "0", "at least 1"),
        ("MUSICGEN_ADAPTERS", "/no/such/folder", "it is not a folder"),
        ("MUSICGEN_MAX_ADAPTERS", "none", "at least 1"),
        ("COG_MAX_CONCURRENCY", "-1", "from 1 to 16"),
        ("COG_MAX_CONCURRENCY", "²", "from 1 to 16"),
        ("COG_MAX_CONCURRENCY", "17", "from 1 to 16"),
    ],
)
def test_an_invalid_value_is_named_with_its_variable_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hint: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^{variable}={value}: .*{hint}"):
        Settings.from_environment(16)
