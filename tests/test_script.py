"""script/predict: the flags of ``cog predict``, without Docker or a server. The README tests its ordinary use."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from audiocraft_ext.audio.source import SUPPORTED
from cli import inputs
from cli.predict import parser

SCRIPT = Path(__file__).parents[1] / "script" / "predict"
SCHEMAS = inputs.schemas()


def inputs_of(*arguments: str) -> dict[str, Any]:
    return inputs.inputs_of(parser().parse_intermixed_args(arguments))


def test_flags_and_json_give_the_same_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["-i", "prompt=a = b", "-i", "duration=1", "-i", "seed=4", "-i", "continuation=no", "-i", "top_p=0.5"]
    given = {"prompt": "a = b", "duration": 1, "seed": 4, "top_p": 0.5}
    (tmp_path / "inputs.json").write_text(json.dumps({"prompt": "a = b", "duration": 1.0, "top_p": 0.5}))
    expected = {name: schema["default"] for name, schema in SCHEMAS.items()} | given
    assert inputs_of(*flags) == expected
    for source in ("@inputs.json", "inputs.json", (tmp_path / "inputs.json").read_text()):
        assert inputs_of("--json", source, "-i", "seed=4") == expected


def test_the_output_file_s_name_chooses_the_format() -> None:
    assert inputs_of("-i", "prompt=x", "-o", "x.mp3")["output_format"] == "mp3"
    assert inputs_of("-i", "prompt=x", "-o", "x.wav")["output_format"] == "wav"


INPUTS = f"The inputs are {', '.join(SCHEMAS)}."
NO_FILE = "Name a file, or an http, https or data URL."
AGAIN = "Give a JSON object of inputs, or a file with one."
REFUSED = [
    (["-i", "promt=x"], f"promt: no such input; did you mean prompt? {INPUTS}"),
    (["-i", "prompt=x", "-i", "Seed=4"], f"Seed: no such input; did you mean seed? {INPUTS}"),
    (["-i", "prompt=x", "-i", "tempo=120"], f"tempo: no such input. {INPUTS}"),
    (["-i", "prompt"], "-i prompt: write it as name=value."),
    (["-i", "duration=long"], "duration: 'long' is not an integer. Send an integer."),
    (["-i", "continuation=maybe"], "continuation: 'maybe' is not a boolean. Use true or false."),
    (["--json", '{"prompt": 5}'], "prompt: 5 is not a string. Send a string."),
    (["--json", '{"duration": null}'], "duration: None is not an integer. Send an integer."),
    (["--json", '{"duration": true}'], "duration: True is not an integer. Send an integer."),
    (["--json", '{"seed": [1]}'], "seed: [1] is not an integer. Send an integer."),
    (["--json", '{"duration": 1.5}'], "duration: 1.5 is not an integer. Send an integer."),
    (["--json", "[1]"], "--json: '[1]' is not an object of inputs."),
    (["--json", "5"], f"--json: [Errno 2] No such file or directory: '5'. {AGAIN}"),
    (["--json", "@latin1.json"], f"--json: 'utf-8' codec can't decode byte 0xe9 in position 0: unexpected end of data. {AGAIN}"),  # noqa: E501
    (["--json", "{'prompt': 'x'}"], f"--json: Expecting property name enclosed in double quotes: line 1 column 2 (char 1). {AGAIN}"),  # noqa: E501
    (["--json", '{"input": {"prompt": "x"}}'], "--json: give the inputs themselves; only over HTTP they are inside input."),  # noqa: E501
    (["-i", "prompt=x", "-o", "nowhere/x.wav"], "-o nowhere/x.wav: there is no folder nowhere. Name a file in a folder that exists."),  # noqa: E501
    (["-i", "prompt=x", "-o", "there.wav"], "-o there.wav: it is there already. --force replaces it; or choose another name, or a folder."),  # noqa: E501
    (["-i", "prompt=x", "-o", "there.wav", "--takes", "2", "-i", "seed=-2"], "seed: -2 is outside its range. Use a number from 0 to 4294967295. -1 is a random one."),  # noqa: E501
    (["x", "-i", "seed=4294967295", "--takes", "2"], "seed: 4294967296 is outside its range. Use a number from 0 to 4294967295. -1 is a random one."),  # noqa: E501
    (["x", "--takes", "17"], "--takes 17: use a number from 1 to 16."),
    (["x", "-i", "prompt=y"], "prompt: it is given twice, as bare words and by -i or --json. Keep one."),
    (["duration=3"], "duration=3: write it as -i duration=3. A prompt with duration= in it is -i prompt=…."),
    (["@nothing.txt"], "@nothing.txt: No such file or directory. Name a text file with the prompt."),
    (["@latin1.json"], "@latin1.json: it is not text. For audio, write -i input_audio=@latin1.json."),
    (["x", "--adapter", "mine:0.8"], "--adapter: adapters are a running server's. Name it with --server."),
    (["x", "--server", "ftp://x"], "--server ftp://x: write it as http://127.0.0.1:5000."),
    (["-i", "prompt=x", "-o", "x.FLAC"], "output_format: 'flac' is not one of its choices. Use one of: wav, mp3."),
    (["-i", "prompt=x", "-i", "output_format=wav", "-o", "x.mp3"], "output_format: 'wav', but -o is x.mp3. Change one of them."),  # noqa: E501
    (["-i", "input_audio=@nothing.wav"], f"input_audio: there is no file nothing.wav. {NO_FILE}"),
    (["-i", "input_audio=."], f"input_audio: there is no file .. {NO_FILE}"),
    (["-i", "input_audio=@empty.wav"], f"input_audio: the file is empty. {SUPPORTED}"),
    (["-i", "input_audio=data:audio/wav;base64,"], f"input_audio: the file is empty. {SUPPORTED}"),
    (["-i", "input_audio=data:audio/wav;base64,Ukl R"], "input_audio: its data URL is cut or not base64. Encode the whole file again, and send each + as it is: a form makes it a space."),  # noqa: E501
    ([], "prompt: neither a prompt nor input_audio was given. Send at least one of them; over HTTP, inside input."),
    (["-i", "prompt=x", "-i", "continuation=true"], "continuation: true, but there is no input_audio to continue. Send input_audio, or set continuation to false."),  # noqa: E501
    (["-i", "prompt=x", "-i", "duration=0"], "duration: 0 is outside its range. Use a number from 1 to 60. It is in seconds."),  # noqa: E501
    (["-i", "prompt=x", "-i", "duration=61"], "duration: 61 is outside its range. Use a number from 1 to 60. It is in seconds."),  # noqa: E501
    (["-i", "prompt=x", "-i", "continuation_start=-1"], "continuation_start: -1 is outside its range. Use a number of at least 0. It is in seconds."),  # noqa: E501
    (["-i", "prompt=x", "-i", "temperature=nan"], "temperature: nan is outside its range. Use a number of at least 0. 0 is greedy: always the likeliest token."),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_a_mistake_is_answered_with_one_sentence_before_any_import(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    for name in ("empty.wav", "there.wav"):
        (tmp_path / name).touch()
    (tmp_path / "latin1.json").write_bytes(b"\xe9")
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "MUSICGEN_MAX_DURATION": "60"}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    *imports, answer = done.stderr.splitlines()
    assert (done.returncode, done.stdout, answer) == (1, "", sentence)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in imports}
    assert "argparse" in imported
    assert not imported & {"torch", "numpy", "cog", "requests", "audiocraft", "predict"}


@pytest.mark.slow
def test_a_url_is_input_audio_and_an_mp3_is_written(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "riff.wav", [0.1, -0.1] * 16000, 32000)
    riff = base64.b64encode((tmp_path / "riff.wav").read_bytes()).decode()
    flags = ["-i", f"input_audio=data:audio/wav;base64,{riff}", "-i", "continuation=true", "-i", "duration=2"]
    done = subprocess.run([SCRIPT, *flags, "-o", "clip.mp3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mp3 = (tmp_path / "clip.mp3").read_bytes()
    assert len(mp3) > 50_000
    assert mp3.startswith(b"ID3")


@pytest.mark.slow
def test_an_interrupt_ends_it_at_once_without_a_traceback(tmp_path: Path) -> None:
    arguments = [str(SCRIPT), "-i", "prompt=x", "-i", "duration=300"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        output = ""
        while "frame/s" not in output:  # it is decoding
            line = child.stdout.readline()
            assert line, output
            output += line
        child.send_signal(signal.SIGINT)
        output += child.stdout.read()
        assert child.wait(10) == 128 + signal.SIGINT
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
