"""The same requests in a new process, with one thread and with two: the same bytes. Knows no concurrent requests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
# Runs each kind of request once, and prints torch's number of threads and the files' sizes and hashes.
PROCESS = """
import asyncio, hashlib, json, sys
from pathlib import Path
import torch
from predict import Predictor

schema = json.loads(Path("openapi.json").read_text())["components"]["schemas"]["Input"]["properties"]
defaults = {name: field["default"] for name, field in schema.items()}
riff = Path(sys.argv[1])
requests = {
    "text": {"prompt": "dark electro at 120 BPM", "duration": 2, "seed": 3},
    "melody": {"prompt": "pad", "input_audio": riff, "duration": 2, "seed": 4},
    "continuation": {"input_audio": riff, "continuation": True, "duration": 2, "seed": 5},
}
predictor = Predictor()
predictor.setup("weights/demo")
made = {"threads": torch.get_num_threads()}
for name, inputs in requests.items():
    path = asyncio.run(predictor.predict(**{**defaults, **inputs}))
    made[name] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
print(json.dumps(made))
"""


def files_of(riff: Path, n_threads: int) -> dict[str, list[int | str]]:
    """Size and hash of each kind of request's file from a new process with this many threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads), "MUSICGEN_SMOKE_TEST": "off"}
    command = [sys.executable, "-c", PROCESS, str(riff)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int | str]] = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("threads") == n_threads
    return found


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def riff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of four rising tones."""
    path = tmp_path_factory.mktemp("riff") / "riff.wav"
    t = np.arange(44100) / 44100
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * 2 ** ((t * 4).astype(int) / 4) * t), 44100)
    return path


def test_a_new_process_gives_the_same_files_with_one_and_two_threads(riff: Path) -> None:
    once = files_of(riff, 1)
    assert all(int(n_bytes) > 2 * 2 * 32000 for n_bytes, _ in once.values())
    assert len({digest for _, digest in once.values()}) == 3
    assert files_of(riff, 1) == once
    assert files_of(riff, 2) == once
