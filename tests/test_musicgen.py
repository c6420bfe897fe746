"""The program ``musicgen``: help, suggestions, names of files, and requests to a running server.

tests/test_script.py has what it refuses, and its former names; the README its ordinary use.
"""

import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import get_args

import httpx
import pytest
import soundfile

from audiocraft_ext.checkpoint.convert import Dtype
from audiocraft_ext.errors import InputError
from audiocraft_ext.request import Request
from cli import convert, inputs, output
from cli.__main__ import COMMANDS, main
from cli.predict import parser
from tests.support.server import ROOT, free_port

PROGRAM = ROOT / "script" / "musicgen"
DEFAULTS = {name: schema["default"] for name, schema in inputs.schemas().items()}


def run(*arguments: str | Path, cwd: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, *arguments]
    return subprocess.run(command, cwd=cwd, input=text, capture_output=True, text=True)


# ------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_comes_without_the_imports_of_the_model(command: str) -> None:
    start = time.monotonic()
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert "usage: " in done.stdout
    assert time.monotonic() - start < 5, "a second on a quiet machine"


def test_the_help_lists_each_input_with_the_bounds_that_hold() -> None:
    shown = run("predict", "--help").stdout
    for name, values in inputs.bounds().items():
        assert re.search(rf"^  {name} +{re.escape(values)} ", shown, re.MULTILINE)
        if numbers := re.fullmatch(r"(-?\d+)(?: to (-?\d+)| or more)", values):
            low, high = int(numbers[1]), int(numbers[2] or 10**9)
            for value in (low, high):
                inputs.check({**DEFAULTS, "prompt": "x", name: value}, inputs.max_duration_s())
            for value in (low - 1, *([high + 1] if numbers[2] else [])):
                with pytest.raises(InputError, match=name):
                    inputs.check({**DEFAULTS, "prompt": "x", name: value}, inputs.max_duration_s())
    assert inputs.bounds().keys() == DEFAULTS.keys() == Request().__dict__.keys() - {"adapters"}


def test_convert_s_number_formats_are_the_model_s() -> None:
    assert get_args(Dtype) == convert.DTYPES


def test_the_package_s_entry_point_is_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert EntryPoint("musicgen", project["project"]["scripts"]["musicgen"], "").load() is main
    assert {"cli", "audiocraft_ext"} == set(project["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pedict", "x"], "musicgen pedict: no such command; did you mean predict?"),
        (["dark techno"], 'musicgen dark techno: no such command; did you mean musicgen predict "dark techno"?'),
        (["predict", "x", "--forse"], "musicgen predict: --forse: no such option; did you mean --force?"),
        (
            ["predict", "x", "--duraton", "3"],
            "musicgen predict: --duraton: no such option; did you mean -i duration=…?",
        ),
        (["serve", "--prot", "3"], "musicgen serve: --prot: no such option; did you mean --port?"),
        (["convert", "a", "b", "--dtipe", "int8"], "musicgen convert: --dtipe: no such option; did you mean --dtype?"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(arguments: list[str], sentence: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


def test_words_are_bare_in_a_file_or_on_standard_input(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("dark techno\n")
    for words in (["dark techno"], ["dark", "techno"], [f"@{tmp_path / 'words.txt'}"]):
        options = parser().parse_intermixed_args(["-i", "seed=1", *words, "-i", "duration=3"])
        assert inputs.inputs_of(options) == {**DEFAULTS, "prompt": "dark techno", "seed": 1, "duration": 3}


# ------------------------------------------------------------------------------------------------- files


def save_name(tmp_path: Path, prompt: str | None, audio: Path | None = None) -> str:
    given = {**DEFAULTS, "prompt": prompt, "input_audio": audio}
    [path] = output.targets(tmp_path, given, [3], force=False)
    path.touch()
    return path.name


def test_a_folder_gets_readable_names(tmp_path: Path) -> None:
    assert save_name(tmp_path, "Dark techno, 130 BPM!") == "dark-techno-130-bpm-seed3.wav"
    assert save_name(tmp_path, None, Path("My riff.mp3")) == "my-riff-seed3.wav"
    assert save_name(tmp_path, "../../etc/passwd") == "etc-passwd-seed3.wav"
    assert save_name(tmp_path, "") == save_name(tmp_path, "…") == "music-seed3.wav"
    assert save_name(tmp_path, "word " * 40) == "word-word-word-word-word-word-word-word-word-seed3.wav"
    save_name(tmp_path, "\U00020bb7" * 400)  # four bytes a letter


def test_a_name_without_an_ending_gets_one_and_takes_their_seeds(tmp_path: Path) -> None:
    given = {**DEFAULTS, "output_format": "mp3"}
    assert output.targets(tmp_path / "x", given, [1], False) == [tmp_path / "x.mp3"]
    assert output.targets(tmp_path / "x.mp3", given, [1, 2], False) == [
        tmp_path / "x-seed1.mp3",
        tmp_path / "x-seed2.mp3",
    ]


@pytest.mark.parametrize("name", ["takes/", "my.takes/"])
def test_a_folder_that_is_new_is_created_for_its_takes(tmp_path: Path, name: str) -> None:
    options = parser().parse_intermixed_args(["x", "-o", f"{tmp_path}/{name}"])
    given = inputs.inputs_of(options)
    paths = output.targets(options.output, given, [1, 2], False)
    assert paths == [tmp_path / name / "x-seed1.wav", tmp_path / name / "x-seed2.wav"]
    assert not paths[0].parent.exists()
    (tmp_path / "result").touch()
    assert output.save(tmp_path / "result", paths[0], False).is_file()
    with pytest.raises(ValueError, match=f"there is no folder {tmp_path}/nowhere"):
        output.targets(f"{tmp_path}/nowhere/takes/", given, [1], False)


def test_two_at_once_lose_nothing_and_force_replaces(tmp_path: Path) -> None:
    target = tmp_path / "x.wav"

    def save(content: str, force: bool = False) -> str:
        (tmp_path / "result").write_text(content)
        return output.save(tmp_path / "result", target, force).name

    # Each checked its name before another had written it.
    assert [save("one"), save("two"), save("three")] == ["x.wav", "x-2.wav", "x-3.wav"]
    assert save("four", force=True) == "x.wav"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "x.wav": "four",
        "x-2.wav": "two",
        "x-3.wav": "three",
    }


# ------------------------------------------------------------------------------------------------- a model of its own


def test_the_first_line_precedes_imports_which_an_interrupt_ends(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "predict", "x"]
    start = time.monotonic()
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "Importing torch and audiocraft …\n"
        assert time.monotonic() - start < 3, "half a second on a quiet machine"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 128 + signal.SIGINT
        assert "Traceback" not in child.stderr.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_takes_in_one_batch_are_the_files_that_each_seed_makes(tmp_path: Path) -> None:
    flags = ["-i", "duration=1", "-i", "seed=5"]
    done = run("predict", "kick", *flags, "--takes", "2", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert run("predict", "kick", *flags, "-o", tmp_path / "alone.wav").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"kick-seed5.wav", "kick-seed6.wav", "alone.wav"}
    assert (tmp_path / "kick-seed5.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()


# ------------------------------------------------------------------------------------------------- a running server


def test_a_server_makes_takes_from_words_and_from_a_file(server: httpx.Client, tmp_path: Path) -> None:
    flags = ["--server", str(server.base_url), "-i", "duration=1", "-i", "seed=5"]
    done = run("predict", "kick and bass", *flags, "--takes", "2", "-o", "t.wav", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *(f"Using seed {seed}" for seed in (5, 6)),
        *(f"Written output to: t-seed{seed}.wav" for seed in (5, 6)),
    ]
    assert (tmp_path / "t-seed5.wav").read_bytes() != (tmp_path / "t-seed6.wav").read_bytes()
    again = ["-i", "input_audio=@t-seed5.wav", "-i", "continuation=true", "-i", "continuation_end=-1"]
    done = run("predict", "-", *flags, *again, "-i", "duration=2", "-o", "longer.mp3", cwd=tmp_path, text="kick\n")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "longer.mp3").read_bytes().startswith(b"ID3")
    assert soundfile.info(tmp_path / "t-seed5.wav").duration == 1


def test_a_server_s_own_refusal_is_its_sentence_alone(server: httpx.Client, tmp_path: Path) -> None:
    done = run("predict", "x", "--server", str(server.base_url), "-i", "duration=301", cwd=tmp_path)
    assert done.returncode == 1
    sentence = "duration: 301 is outside its range. Use a number from 1 to 300. It is in seconds."
    assert done.stderr.splitlines()[-1] == sentence
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_cancels_at_the_server(server: httpx.Client, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "predict", "x", "-i", "duration=300", "--server", str(server.base_url)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert "Making 300 s" in child.stderr.readline()
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 128 + signal.SIGINT
        assert "Traceback" not in child.stderr.read()
    # Its slot is free again: four short ones finish long before it would have.
    start = time.monotonic()
    done = run("predict", "x", "-i", "duration=1", "--takes", "4", "--server", str(server.base_url), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 30


def test_an_adapter_that_the_server_ignores_is_an_error(server: httpx.Client, tmp_path: Path) -> None:
    flags = ["--server", str(server.base_url), "--adapter", "mine:0.8", "-i", "duration=1"]
    done = run("predict", "x", *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search("--adapter: .* ignored it|context.adapter: |mine", done.stderr.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_said_with_the_command_that_starts_one(tmp_path: Path) -> None:
    done = run("predict", "x", "--server", f"http://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("Start one with: musicgen serve\n")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the program there is not a Cog server."),
        (b"HTTP/1.0 200 OK\r\n\r\n[]", "the program there is not a Cog server."),
        (b"HTTP/1.0 404 Not Found\r\n\r\n[]", "the program there is not a Cog server."),
        (b"HTTP/1.0 404 Not Found\r\n\r\n<html>", "the program there is not a Cog server."),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{", "the program there is not a Cog server."),
    ],
)
def test_another_program_at_the_server_s_port_is_one_sentence(tmp_path: Path, answer: bytes, sentence: str) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_address[1]}"
        done = run("predict", "x", "--server", url, cwd=tmp_path)
        other.shutdown()
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"--server {url}: {sentence}\n")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://h/a b", "http://[::1", "ftp://x"]
)
def test_a_url_that_is_no_server_s_is_one_sentence(tmp_path: Path, url: str) -> None:
    done = run("predict", "x", "--server", url, cwd=tmp_path)
    sentence = f"--server {url}: write it as http://127.0.0.1:5000.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


# Python 3.11 makes a RuntimeError of an interrupt here, and transformers a ModuleNotFoundError of that.
INTERRUPTED_IMPORT = """
import importlib.abc, signal, sys
class Attribute:
    def __set_name__(self, *_):
        signal.raise_signal(signal.SIGINT)
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            type("Class", (), {"attribute": Attribute()})
sys.meta_path.insert(0, Interrupt())
from cli.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("module", ["cli.predict", "torch", "transformers.models.t5.modeling_t5"])
def test_an_interrupt_of_an_import_ends_the_program_at_once(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, module, "predict", "x"]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGINT
    assert not {"Traceback", "Install", "Loading"} & set(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- serve


def test_a_taken_port_is_one_sentence_with_the_next_free_one() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = run("serve", "--port", str(port))
    assert done.returncode == 1
    free = re.fullmatch(
        rf"Port {port} of 127.0.0.1 is taken by another program; the next free one: PORT=(\d+)\n",
        done.stderr,
    )
    assert free is not None, done.stderr
    assert int(free[1]) > port


@pytest.mark.parametrize("log_format", ["", "json"])
def test_the_log_is_lines_to_read_or_json(log_format: str) -> None:
    port = free_port()
    environment = {**os.environ, "LOG_FORMAT": log_format, "PORT": str(port), "MUSICGEN_WEIGHTS": "/nowhere"}
    with subprocess.Popen(
        [PROGRAM, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        first = child.stderr.readline()
        child.terminate()
        rest = child.stderr.read()
    if log_format == "json":
        assert all(json.loads(line)["target"].startswith("coglet") for line in [first, *rest.splitlines()])
    else:
        assert first.startswith(f"Serving at http://127.0.0.1:{port} after the line")
        assert "{" not in rest
        assert "\x1b" not in rest
