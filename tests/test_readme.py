"""The ``bash`` and ``python`` snippets of README.md and docs/, run as written, and the sound of README's examples.

``console`` snippets need Docker or a network and are not run. `git clone` is replaced by a folder of symbolic links.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch

from audiocraft_ext.conditioning import ChromaConditioner
from weights.demo.train import detectors, synth
from weights.demo.train.tokens import CHROMA

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 130


def snippets(language: str) -> list[str]:
    """The snippets of all pages in this language, in order."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [snippet for page in PAGES for snippet in pattern.findall(page.read_text())]


COMMANDS = [snippet for snippet in snippets("bash") if "curl" not in snippet]
[CURL] = [snippet for snippet in snippets("bash") if "curl" in snippet]
[CLIENT] = [snippet for snippet in snippets("python") if "replicate" not in snippet]  # that one: tests/web


def link_clone(folder: Path) -> Path:
    """Make ``folder`` look like the repository, so that the snippets' files stay out of it."""
    for entry in ROOT.iterdir():
        if entry.name not in ("demo.wav", "demo.png"):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return link_clone(tmp_path)


def run(snippet: str, folder: Path) -> str:
    snippet = re.sub(r"^git clone .*$", "", snippet, flags=re.MULTILINE)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", snippet], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


Runs = Callable[[str], tuple[Path, str]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Run a snippet once, in a clone of its own: the folder, and what it printed."""

    @cache
    def run_once(snippet: str) -> tuple[Path, str]:
        folder = link_clone(tmp_path_factory.mktemp("clone"))
        return folder, run(snippet, folder)

    return run_once


@pytest.mark.slow
@pytest.mark.parametrize("snippet", COMMANDS, ids=lambda snippet: snippet.strip()[:40])
def test_a_snippet_works_as_written(snippet: str, ran: Runs) -> None:
    folder, printed = ran(snippet)
    written = [path for path in folder.iterdir() if not path.is_symlink() and path.suffix == ".wav"]
    assert written
    for path in written:
        assert soundfile.info(path).duration >= 8
        assert path.name in printed
    for seed in re.findall(r"seed=(\d+)", snippet):
        assert f"Using seed {seed}\n" in printed


def run_over_http(snippet: str, server: httpx.Client, folder: Path) -> str:
    return run(snippet.replace("http://127.0.0.1:5000", str(server.base_url).rstrip("/")), folder)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_snippet_works_as_written(server: httpx.Client, clone: Path) -> None:
    printed = run_over_http(CURL, server, clone)
    assert printed.startswith("succeeded")
    assert soundfile.info(clone / "electro.wav").duration == 4


def test_the_python_client_works_as_written(server: httpx.Client, clone: Path) -> None:
    soundfile.write(clone / "techno.wav", [0.1, -0.1] * 32000, 32000)
    (clone / "client.py").write_text(CLIENT.replace("http://127.0.0.1:5000", str(server.base_url).rstrip("/")))
    run(f"{sys.executable} client.py", clone)
    assert soundfile.info(clone / "followed.wav").duration == 8


# The sound of README's examples. On another machine a seed gives other music: the bounds hold for most seeds.


@pytest.fixture(scope="module")
def detector_set() -> detectors.Detectors:
    rng = np.random.default_rng(0)
    songs = [synth.draw_song(rng) for _ in range(200)]
    return detectors.fit([synth.render(song, synth.draw_score(song, rng), 400) for song in songs], songs)


def samples(path: Path) -> synth.Samples:
    return np.asarray(soundfile.read(path, dtype="float32")[0])


def chroma(wav: synth.Samples) -> torch.Tensor:
    """The melody of samples [N] as the embedded checkpoint reads it [T, 12]."""
    reader = ChromaConditioner(output_dim=1, duration=8, **CHROMA)
    return reader.chroma(torch.from_numpy(wav)[None, None])[0]


@pytest.fixture(scope="module")
def first_sounds(ran: Runs) -> dict[str, synth.Samples]:
    """The files of README's commands under "First sound", by name."""
    [snippet] = [snippet for snippet in COMMANDS if "techno.wav" in snippet]
    folder, _ = ran(snippet)
    return {name: samples(folder / f"{name}.wav") for name in ("techno", "longer", "followed")}


@pytest.mark.slow
def test_the_techno_has_its_tempo_and_instruments(
    first_sounds: dict[str, synth.Samples], detector_set: detectors.Detectors
) -> None:
    assert detector_set.tempo_bpm(first_sounds["techno"]) == pytest.approx(140, rel=0.04)
    assert detector_set.present(first_sounds["techno"]) >= {"kick", "hats", "bass", "arp"}


@pytest.mark.slow
def test_the_continuation_is_its_source_and_goes_on_like_it(first_sounds: dict[str, synth.Samples]) -> None:
    techno, longer = first_sounds["techno"], first_sounds["longer"]
    given, new = np.split(longer, [len(techno)])
    assert len(new) == 4 * synth.SAMPLE_RATE
    assert detectors.likeness(techno, given) > 0.9
    assert detectors.likeness(techno, new) > 0.6  # another song's is 0.13 on average


@pytest.mark.slow
def test_the_followed_melody_is_nearer_to_its_source_than_in_another_key(
    first_sounds: dict[str, synth.Samples], detector_set: detectors.Detectors
) -> None:
    source, followed = chroma(first_sounds["techno"]), chroma(first_sounds["followed"])
    turned = [torch.cosine_similarity(source.roll(key, -1), followed, dim=-1).mean().item() for key in range(12)]
    assert turned[0] > max(turned[1:]) + 0.1
    assert "arp" in detector_set.present(first_sounds["followed"])  # a pad through the codec is too soft for these


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_snippet_s_electro_has_its_tempo_and_instruments(
    server: httpx.Client, clone: Path, detector_set: detectors.Detectors
) -> None:
    run_over_http(CURL, server, clone)
    electro = samples(clone / "electro.wav")
    assert detector_set.tempo_bpm(electro) == pytest.approx(120, rel=0.04)
    assert detector_set.present(electro) >= {"kick", "bass"}


def test_the_readme_is_short_and_no_link_to_a_file_is_broken() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= README_LINES
    for page in [*PAGES, ROOT / "weights" / "README.md", ROOT / "weights" / "demo" / "README.md"]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), (page.name, link)
