"""Adapters by request, on the embedded checkpoint: whose tokens they change, and which stay in memory."""

import shutil
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.adapters import Adapters
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.errors import InputError
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Cancelled, Progress
from audiocraft_ext.request import AdapterNames, Request
from audiocraft_ext.settings import EngineSettings
from tests.support.adapters import write_by_our_names
from tests.support.engines import needs_llvmlite

WARM: AdapterNames = (("warm", 1.0),)
COLD: AdapterNames = (("cold", 1.0),)
REQUEST = Request(prompt="drums", duration=1, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an operator's: an adapter, another one in an archive, a folder without one, and a misfit."""
    folder = tmp_path_factory.mktemp("adapters")
    write_by_our_names(folder / "warm", EMBEDDED, seed=1)
    write_by_our_names(folder / ".cold", EMBEDDED, seed=2)
    with tarfile.open(folder / "cold.tar", "w") as archive:
        for path in (folder / ".cold").iterdir():
            archive.add(path, path.name)
    (folder / "empty").mkdir()
    (folder / "misfit").mkdir()
    for path in (folder / "warm").iterdir():
        content = path.read_bytes().replace(b"layers.0.", b"layers.9.")
        (folder / "misfit" / path.name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def base() -> Iterator[Model]:
    model = Model(checkpoint.load(str(EMBEDDED), "cpu"), EngineSettings())
    yield model
    model.close()


@pytest.fixture
def adapters(base: Model, folder: Path) -> Iterator[Adapters]:
    made = Adapters(base, str(EMBEDDED), "cpu", folder, n_kept=1)
    yield made
    made.close()


def samples(adapters: Adapters, names: AdapterNames = ()) -> Tensor:
    with adapters.model(names, Progress()) as model:
        return model.generate(REQUEST, None, Progress())


def test_an_adapter_plays_as_when_it_is_loaded_alone(adapters: Adapters, base: Model, folder: Path) -> None:
    alone = Model(checkpoint.load(str(folder / "warm"), "cpu"), EngineSettings())
    expected = alone.generate(REQUEST, None, Progress())
    alone.close()
    assert torch.equal(samples(adapters, WARM), expected)
    assert not torch.equal(samples(adapters), expected)
    with adapters.model(WARM, Progress()) as model:
        assert model.checkpoint.codec is base.checkpoint.codec


def test_requests_of_the_base_are_unmoved_beside_others(base: Model, folder: Path) -> None:
    adapters = Adapters(base, str(EMBEDDED), "cpu", folder, n_kept=2)
    kinds: list[AdapterNames] = [(), WARM, COLD]
    expected = [samples(adapters, names) for names in kinds]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda names: samples(adapters, names), 2 * kinds))
    adapters.close()
    assert all(map(torch.equal, together, 2 * expected))
    assert not torch.equal(expected[1], expected[2])


def test_an_adapter_of_no_strength_is_the_base(adapters: Adapters) -> None:
    assert torch.equal(samples(adapters, (("warm", 0.0),)), samples(adapters))
    assert not torch.equal(samples(adapters, (("warm", 0.5),)), samples(adapters, WARM))


def test_the_least_recently_used_goes_and_one_in_use_stays(adapters: Adapters) -> None:
    entered, done = threading.Event(), threading.Event()

    def hold() -> None:
        with adapters.model(WARM, Progress()):
            entered.set()
            done.wait()

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        entered.wait()
        other = pool.submit(samples, adapters, COLD)
        assert len(samples(adapters, WARM)) == 1  # shared while the other one waits
        progress = Progress()
        progress.stop()
        with pytest.raises(Cancelled), adapters.model(COLD, progress):
            pass
        assert not other.done()
        done.set()
        holding.result()
        assert len(other.result()) == 1
    assert [names for ((names, _, _),) in adapters._merged] == [adapters._paths()["cold"]]


def test_a_file_that_changes_is_merged_again(base: Model, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "warm", tmp_path / "mine")
    adapters = Adapters(base, str(EMBEDDED), "cpu", tmp_path, n_kept=1)
    first = samples(adapters, (("mine", 1.0),))
    before = (tmp_path / "mine").stat().st_mtime_ns
    for path in (folder / ".cold").iterdir():
        shutil.copy2(path, tmp_path / "mine" / path.name)
    assert (tmp_path / "mine").stat().st_mtime_ns == before
    assert not torch.equal(samples(adapters, (("mine", 1.0),)), first)
    adapters.close()


def test_an_archive_s_name_loses_its_own_ending_alone(base: Model, tmp_path: Path) -> None:
    for name in ("my.v1.tar", "my.v2.tar.gz", "a.0.5.ZIP", "b.tgz", "c.bin"):
        (tmp_path / name).touch()
    (tmp_path / "my.v3.tar").mkdir()
    adapters = Adapters(base, str(EMBEDDED), "cpu", tmp_path, n_kept=1)
    assert sorted(adapters._paths()) == ["a.0.5", "b", "c.bin", "my.v1", "my.v2", "my.v3.tar"]


@needs_llvmlite
def test_where_the_engine_fails_a_simpler_one_plays_an_adapter(
    adapters: Adapters, base: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no memory for the kernels")

    assert base.engine is not None
    monkeypatch.setattr(type(base.engine.backend), "linear", fail)
    with adapters.model(WARM, Progress()) as model:
        assert model.engine_name == "torch, eager"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "there is no adapter 'other'. Known are: cold, empty, misfit, warm."),
        ("../warm", "there is no adapter '../warm'"),
        ("empty", "empty:1 cannot be used with this server's checkpoint: empty is not an adapter"),
        ("misfit", "misfit:1 cannot be used with this server's checkpoint: "),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(adapters: Adapters, name: str, message: str) -> None:
    with pytest.raises(InputError, match=r"^context\.adapter: ") as refusal:
        samples(adapters, ((name, 1.0),))
    assert message in str(refusal.value)


def test_a_server_without_adapters_says_so(base: Model) -> None:
    with pytest.raises(InputError, match="This server is without adapters"):
        samples(Adapters(base, str(EMBEDDED), "cpu", None, n_kept=1), WARM)
