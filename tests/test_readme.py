"""The README's ``bash`` snippets, run as written (``console`` ones need Docker, a network or files of your own)."""

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


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
