"""script/predict: the flags of ``cog predict``, without Docker or a server."""

import base64
import json
import signal
import subprocess
from pathlib import Path

import pytest
import soundfile

SCRIPT = Path(__file__).parents[1] / "script" / "predict"


def run(folder: Path, *arguments: str, standard_input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], cwd=folder, input=standard_input, capture_output=True, text=True, check=False
    )


def test_flags_and_json_make_the_same_file(tmp_path: Path) -> None:
    flags = ["-i", "prompt=a = b", "-i", "duration=1", "-i", "seed=4", "-i", "continuation=no", "-i", "top_p=0.5"]
    done = run(tmp_path, *flags, "-o", "flags.wav")
    assert done.returncode == 0, done.stderr
    assert "Using seed 4" in done.stdout
    assert "Written output to: flags.wav" in done.stdout
    (tmp_path / "inputs.json").write_text(json.dumps({"prompt": "a = b", "duration": 1.0, "top_p": 0.5}))
    done = run(tmp_path, "--json", "@inputs.json", "-i", "seed=4")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output.wav").read_bytes() == (tmp_path / "flags.wav").read_bytes()


def test_an_interrupt_ends_it_at_once_without_a_traceback(tmp_path: Path) -> None:
    arguments = [str(SCRIPT), "-i", "prompt=x", "-i", "duration=300"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        told = ""
        while "frame/s" not in told:  # it is making music
            line = child.stdout.readline()
            assert line, told
            told += line
        child.send_signal(signal.SIGINT)
        told += child.stdout.read()
        assert child.wait(10) == 128 + signal.SIGINT
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_url", [False, True], ids=["file", "URL"])
def test_a_file_is_passed_with_an_at_sign_or_as_a_url_and_an_mp3_is_one(tmp_path: Path, is_url: bool) -> None:
    soundfile.write(tmp_path / "riff.wav", [0.1, -0.1] * 16000, 32000)
    riff = base64.b64encode((tmp_path / "riff.wav").read_bytes()).decode()
    source = f"data:audio/wav;base64,{riff}" if is_url else "@riff.wav"
    flags = ["-i", f"input_audio={source}", "-i", "continuation=true", "-i", "duration=2"]
    done = run(tmp_path, *flags, *(["-o", "made.mp3"] if is_url else ["-i", "output_format=mp3"]))
    assert done.returncode == 0, done.stderr
    made = (tmp_path / ("made.mp3" if is_url else "output.mp3")).read_bytes()
    assert len(made) > 50_000
    assert made.startswith(b"ID3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "prompt=x", "-i", "duration=long"], "duration: 'long'"),
        (["-i", "prompt=x", "-i", "continuation=maybe"], "continuation: 'maybe'"),
        (["-i", "prompt=x", "-i", "tempo=120"], "tempo: no such input"),
        (["-i", "input_audio=@nothing.wav"], "input_audio: there is no file"),
        (["-i", "prompt"], "name=value"),
        (["--json", "[1]"], "--json"),
        (["--json", '{"prompt": 5}'], "prompt: 5 is no string"),
        (["--json", '{"duration": null}'], "duration: None is no integer"),
        (["--json", '{"duration": true}'], "duration: True is no integer"),
        (["--json", '{"seed": [1]}'], "seed: [1] is no integer"),
        (["--json", '{"duration": 1.5}'], "duration: 1.5 is no integer"),
        (["-i", "prompt=x", "-o", "nowhere/x.wav"], "there is no folder nowhere"),
        (["-i", "prompt=x", "-i", "output_format=wav", "-o", "x.mp3"], "output_format: 'wav', and x.mp3 is to be"),
    ],
)
def test_a_mistake_is_answered_by_a_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refused_input_is_answered_by_its_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "-i", "prompt=x", "-i", "duration=0")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("duration: 0 is outside its range.")
    assert "Traceback" not in done.stderr
