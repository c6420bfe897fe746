"""The README's ``bash`` and ``python`` snippets, run as written (``console`` ones need Docker or a network)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS, PYTHON = (
    re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE) for language in ("bash", "python")
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that looks like the repository, so that what the snippets write stays out of it."""
    for entry in ROOT.iterdir():
        if entry.name not in ("demo.wav", "demo.png"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def run(snippet: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", snippet], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("snippet", [snippet for snippet in SNIPPETS if "curl" not in snippet], ids=lambda s: s[:40])
def test_a_snippet_works_as_written(snippet: str, clone: Path) -> None:
    run(snippet, clone)
    written = [path for path in clone.iterdir() if not path.is_symlink()]
    assert written
    for path in written:
        if path.suffix == ".wav":
            assert soundfile.info(path).duration >= 8


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_server_s_snippet_works_as_written(server: httpx.Client, clone: Path) -> None:
    (snippet,) = (snippet for snippet in SNIPPETS if "curl" in snippet)
    printed = run(snippet.replace("http://127.0.0.1:5000", str(server.base_url).rstrip("/")), clone)
    assert printed.startswith("succeeded")
    assert soundfile.info(clone / "electro.wav").duration == 4


def test_the_python_client_works_as_written(server: httpx.Client, clone: Path) -> None:
    (snippet,) = PYTHON
    soundfile.write(clone / "techno.wav", [0.1, -0.1] * 32000, 32000)
    (clone / "client.py").write_text(snippet.replace("http://127.0.0.1:5000", str(server.base_url).rstrip("/")))
    run(f"{sys.executable} client.py", clone)
    assert soundfile.info(clone / "followed.wav").duration == 8
