"""The same requests in a new process, with one thread and with two: the same bytes. Knows nothing of neighbours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
# Makes each kind of request once, and prints the threads that torch computes with and what came out.
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


def made(riff: Path, n_threads: int) -> dict[str, list[int | str]]:
    """Size and hash of what a new process makes of each kind of request, with this many threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads), "MUSICGEN_SMOKE_TEST": "off"}
    command = [sys.executable, "-c", PROCESS, str(riff)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int | str]] = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("threads") == n_threads
    return found


@pytest.fixture(scope="module")
def riff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of four rising tones."""
    path = tmp_path_factory.mktemp("riff") / "riff.wav"
    t = np.arange(44100) / 44100
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * 2 ** ((t * 4).astype(int) / 4) * t), 44100)
    return path


def test_a_new_process_makes_the_same_files_with_one_thread_and_with_two(riff: Path) -> None:
    once = made(riff, 1)
    assert all(int(n_bytes) > 2 * 2 * 32000 for n_bytes, _ in once.values())
    assert len({digest for _, digest in once.values()}) == 3
    assert made(riff, 1) == once
    assert made(riff, 2) == once
