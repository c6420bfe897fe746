"""A sample of the broken audio; all of it is ``python -m benchmarks.hardening.broken_audio``."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import httpx
import pytest

from audiocraft_ext.audio.ffmpeg import ffmpeg_path
from benchmarks.hardening.broken_audio import decode_all, requests_with
from tests.support.access_monitor import Witness
from tests.support.broken_files import KINDS, damaged
from tests.support.client import send_all
from tests.support.malicious_files import traps

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the witness watches by inotify")


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with Witness(tmp_path) as witness:
        yield witness


def test_a_broken_file_is_read_as_far_as_it_goes_or_refused(tmp_path: Path) -> None:
    decoded = decode_all(damaged(150, seed=1), tmp_path)
    assert decoded.offences == []
    assert sum(counter.total() for counter in decoded.outcomes.values()) == 150
    assert decoded.slowest_s < 10


def test_a_file_that_names_another_file_or_a_url_opens_neither(tmp_path: Path, witness: Witness) -> None:
    (tmp_path / "files").mkdir()
    decoded = decode_all(islice(traps(witness.bait), 0, None, 7), tmp_path / "files")
    assert decoded.offences == []
    assert witness.look() == (0, 0)


def test_broken_audio_over_http_is_served_or_refused_and_opens_nothing(server: httpx.Client, witness: Witness) -> None:
    files = chain(damaged(30, seed=2), islice(traps(witness.bait), 0, None, 31))
    tally = send_all(str(server.base_url), requests_with((file for file in files if len(file.data) < 10**6), seed=2))
    assert tally.offences == []
    assert witness.look() == (0, 0)
    assert server.get("/health-check").json()["status"] == "READY"


def test_the_witness_sees_an_ffmpeg_that_is_left_to_itself(tmp_path: Path, witness: Witness) -> None:
    scripts = {file.name: file.data for file in traps(witness.bait) if file.kind == "trap alone"}
    (tmp_path / "song").write_bytes(scripts["concat list.mp3"])
    command = [
        ffmpeg_path(),
        "-v",
        "quiet",
        "-safe",
        "0",
        "-f",
        "concat",
        "-i",
        str(tmp_path / "song"),
        "-f",
        "null",
        "-",
    ]
    subprocess.run(command, check=True)
    n_opened, n_connected = witness.look()
    assert n_opened > 0
    assert n_connected == 0
    subprocess.run([ffmpeg_path(), "-v", "quiet", "-i", witness.bait.url, "-f", "null", "-"])
    assert witness.look()[1] > 0


def test_the_same_seed_makes_the_same_files_of_every_kind() -> None:
    first, again, other = (list(damaged(200, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert {file.kind for file in first} == {kind.__name__.replace("_", " ") for kind in KINDS}
