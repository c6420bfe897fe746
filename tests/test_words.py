"""script/check-words: finds the phrases of script/words.txt, also across lines and in names, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In pieces, so that this file passes the check itself.
FOUND = [
    '"""Wh' + 'at the engine makes."""',
    "# there is a lock, which is he" + "ld\n",
    "def _tidy" + "_up(self) -> None: ...",
    "def rot" + "ated(x: float) -> float: ...",
    "the URL that can be\n    # " + "had",
    "the file is" + " no URL",
]
ACCEPTED = [
    "the value is None and there is no file",
    "on held-out prompts, and held_out_losses",
    "def seed(self) -> int: ...",
    "def is_closed(self) -> bool: ...",
    "# What if it is empty?",
]


def check(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "file.py").write_text(text)
    command = [sys.executable, str(ROOT / "script" / "check-words"), str(folder / "file.py")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("text", FOUND)
def test_a_listed_phrase_is_found(tmp_path: Path, text: str) -> None:
    done = check(tmp_path, text)
    assert done.returncode == 1
    assert "better: " in done.stdout


def test_good_english_is_accepted(tmp_path: Path) -> None:
    done = check(tmp_path, "\n".join(ACCEPTED))
    assert (done.returncode, done.stdout) == (0, "")
