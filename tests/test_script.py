"""script/predict: the flags of ``cog predict``, without Docker or a server. The README tests its ordinary use."""

import base64
import importlib.util
import json
import signal
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile

SCRIPT = Path(__file__).parents[1] / "script" / "predict"
SCHEMAS = json.loads((SCRIPT.parents[1] / "openapi.json").read_text())["components"]["schemas"]["Input"]["properties"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    loader = SourceFileLoader("script_predict", str(SCRIPT))
    spec = importlib.util.spec_from_loader("script_predict", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def inputs_of(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    inputs: dict[str, Any] = script.inputs_of(script.arguments(), SCHEMAS)
    return inputs


def test_flags_and_json_give_the_same_inputs(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["-i", "prompt=a = b", "-i", "duration=1", "-i", "seed=4", "-i", "continuation=no", "-i", "top_p=0.5"]
    given = {"prompt": "a = b", "duration": 1, "seed": 4, "top_p": 0.5}
    (tmp_path / "inputs.json").write_text(json.dumps({"prompt": "a = b", "duration": 1.0, "top_p": 0.5}))
    expected = {name: schema["default"] for name, schema in SCHEMAS.items()} | given
    assert inputs_of(script, monkeypatch, *flags) == expected
    for source in ("@inputs.json", "inputs.json", (tmp_path / "inputs.json").read_text()):
        assert inputs_of(script, monkeypatch, "--json", source, "-i", "seed=4") == expected


def test_the_output_file_s_name_chooses_the_format(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inputs_of(script, monkeypatch, "-i", "prompt=x", "-o", "x.mp3")["output_format"] == "mp3"
    assert inputs_of(script, monkeypatch, "-i", "prompt=x", "-o", "x.wav")["output_format"] == "wav"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "prompt=x", "-i", "duration=long"], "duration: 'long'"),
        (["-i", "prompt=x", "-i", "continuation=maybe"], "continuation: 'maybe'"),
        (["-i", "prompt=x", "-i", "tempo=120"], "tempo: no such input"),
        (["-i", "input_audio=@nothing.wav"], "input_audio: there is no file"),
        (["-i", "prompt"], "name=value"),
        (["--json", "[1]"], "--json"),
        (["--json", '{"prompt": 5}'], "prompt: 5 is not a string"),
        (["--json", '{"duration": null}'], "duration: None is not an integer"),
        (["--json", '{"duration": true}'], "duration: True is not an integer"),
        (["--json", '{"seed": [1]}'], "seed: [1] is not an integer"),
        (["--json", '{"duration": 1.5}'], "duration: 1.5 is not an integer"),
        (["-i", "prompt=x", "-o", "nowhere/x.wav"], "there is no folder nowhere"),
        (["-i", "prompt=x", "-i", "output_format=wav", "-o", "x.mp3"], "output_format: 'wav', but -o is x.mp3"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    assert script.main() == 1
    assert message in capsys.readouterr().err


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
def test_a_rejected_input_is_answered_with_its_sentence(tmp_path: Path) -> None:
    command = [str(SCRIPT), "-i", "prompt=x", "-i", "duration=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("duration: 0 is outside its range.")
    assert "Traceback" not in done.stderr


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
