"""The server over real HTTP: every row of the input table, valid and invalid."""

import base64
import io
import json
import re
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from audiocraft_ext.audio.ffmpeg import ffmpeg_path
from tests.support.client import file_in, retry_on_409, seconds_until_free
from tests.support.input_values import data_url

SAMPLE_RATE = 32000
# For events within a second, with a margin for other work. Five minutes of music take at least ten times as long.
SOON_S = 5
CLIENT_PATTERN = re.compile(r"^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)")


def predict(server: httpx.Client, **inputs: Any) -> dict[str, Any]:
    """The answer to a prediction that the schema accepts, once there is a slot."""
    response = retry_on_409(lambda: server.post("/predictions", json={"input": inputs}))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def output_of(answer: dict[str, Any]) -> bytes:
    file = file_in(answer)
    assert file is not None, answer.get("error")
    return file


def samples_of(answer: dict[str, Any]) -> np.ndarray:
    samples, sample_rate = soundfile.read(io.BytesIO(output_of(answer)), always_2d=True)
    assert sample_rate == SAMPLE_RATE
    return samples


def tone(seconds: float, sample_rate: int = 44100, channels: int = 2) -> str:
    """A data URL of a stereo wav with a slow arpeggio."""
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch_hz = 220 * 2 ** (np.array([0, 3, 7, 12])[(t * 4).astype(int) % 4] / 12)
    wav = io.BytesIO()
    soundfile.write(wav, np.tile(0.3 * np.sin(2 * np.pi * pitch_hz * t)[:, None], channels), sample_rate, format="WAV")
    return data_url(wav.getvalue())


def assert_still_serving(server: httpx.Client) -> None:
    assert predict(server, prompt="kick", duration=1, seed=1)["status"] == "succeeded"
    assert server.get("/health-check").json()["status"] == "READY"


def test_a_prompt_alone_gives_a_wav_of_its_length_and_seed(server: httpx.Client) -> None:
    answer = predict(server, prompt="dark electro at 120 BPM", duration=3, seed=0)
    assert samples_of(answer).shape == (3 * SAMPLE_RATE, 1)
    assert answer["output"].startswith("data:audio/")
    assert answer["metrics"]["seed"] == 0
    assert answer["metrics"]["frames"] == 150
    assert answer["metrics"]["realtime_factor"] > 0
    assert answer["metrics"]["engine"] == "cpu, captured"
    assert "Using seed 0\n" in answer["logs"]


def test_loading_is_reported_once(server: httpx.Client, first_answer: dict[str, Any]) -> None:
    assert first_answer["metrics"]["load_s"] > 0
    assert "load_s" not in predict(server, prompt="x", duration=1)["metrics"]


def test_the_logs_have_progress_lines_as_clients_parse_them(server: httpx.Client) -> None:
    logs = predict(server, prompt="x", duration=4)["logs"]
    lines = [line for line in logs.split("\n") if CLIENT_PATTERN.match(line)]
    last = CLIENT_PATTERN.match(lines[-1])
    assert last is not None
    assert last.groups() == ("100", "200", "200")
    assert len(lines) < 30


def test_the_same_seed_gives_the_same_file_and_another_seed_another(server: httpx.Client) -> None:
    first, again, other = (output_of(predict(server, prompt="bass", duration=2, seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_an_adapter_in_the_context_plays_and_an_unknown_one_is_refused(server: httpx.Client) -> None:
    def play(context: dict[str, Any]) -> dict[str, Any]:
        body = {"input": {"prompt": "bass", "duration": 1, "seed": 5}, "context": context}
        answer: dict[str, Any] = retry_on_409(lambda: server.post("/predictions", json=body)).json()
        return answer

    plain, other, nothing, warm, again, unknown = (
        play(context)
        for context in (
            {},
            {"trace": "1"},
            {"adapter": "warm:0"},
            {"adapter": "warm"},
            {"adapter": " warm:1.0 "},
            {"adapter": "warn"},
        )
    )
    assert output_of(plain) == output_of(other)
    assert samples_of(plain).tolist() == samples_of(nothing).tolist() != samples_of(warm).tolist()
    assert output_of(warm) == output_of(again)
    assert b'"context":{"adapter":"warm:1"}' in output_of(warm)
    assert "Merged warm:1 in" in warm["logs"]
    assert unknown["error"].endswith("context.adapter: there is no adapter 'warn'. Known are: warm.")


def test_multi_band_diffusion_works_on_the_embedded_checkpoint(server: httpx.Client) -> None:
    inputs = {"prompt": "hats", "duration": 2, "seed": 5}
    plain = predict(server, **inputs)
    first, again = (predict(server, **inputs, multi_band_diffusion=True) for _ in range(2))
    assert samples_of(first).shape == (2 * SAMPLE_RATE, 1)
    assert output_of(first) == output_of(again)
    assert output_of(first) != output_of(plain)
    assert "pass/s" in first["logs"]


def test_no_seed_draws_one_which_then_repeats_the_file(server: httpx.Client) -> None:
    drawn = predict(server, prompt="bass", duration=1)
    again = predict(server, prompt="bass", duration=1, seed=drawn["metrics"]["seed"])
    assert samples_of(drawn).tolist() == samples_of(again).tolist()


def test_a_request_s_music_is_the_same_in_company(server: httpx.Client) -> None:
    alone = output_of(predict(server, prompt="arp", duration=2, seed=9))
    beside: dict[int, bytes] = {}

    def ask(i: int) -> None:
        seed = 9 if i == 1 else i
        beside[i] = output_of(predict(server, prompt="arp" if i == 1 else "pad", duration=2, seed=seed))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert beside[1] == alone


def test_a_request_beyond_the_slots_gets_409_and_harms_no_other(server: httpx.Client) -> None:
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        answers.append(predict(server, prompt="x", duration=8))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while server.get("/health-check").json()["status"] != "BUSY":
        assert not answers, "a slot stayed free until the first answer"
        time.sleep(0.01)
    beyond = server.post("/predictions", json={"input": {"prompt": "x"}})
    assert (beyond.status_code, beyond.json()["error"]) == (409, "At capacity - all prediction slots busy")
    for thread in threads:
        thread.join()
    assert [answer["status"] for answer in answers] == ["succeeded"] * 4
    assert_still_serving(server)


def test_an_mp3_is_one_at_320_kbit_a_second(server: httpx.Client) -> None:
    mp3 = output_of(predict(server, prompt="x", duration=4, output_format="mp3", seed=1))
    seconds = soundfile.info(io.BytesIO(mp3)).duration
    assert seconds == pytest.approx(4, abs=0.1)
    assert len(mp3) * 8 / seconds == pytest.approx(320_000, rel=0.05)


def test_audio_alone_gives_its_melody_a_new_sound(server: httpx.Client) -> None:
    assert samples_of(predict(server, input_audio=tone(3), duration=2)).shape[0] == 2 * SAMPLE_RATE


def test_a_continuation_begins_with_its_excerpt_and_has_its_duration(server: httpx.Client) -> None:
    answer = predict(server, input_audio=tone(3), duration=5, continuation=True, prompt="arp")
    samples = samples_of(answer)
    assert samples.shape[0] == 5 * SAMPLE_RATE
    assert answer["metrics"]["frames"] == 100
    spectrum = np.abs(np.fft.rfft(samples[: SAMPLE_RATE // 4, 0]))
    assert np.argmax(spectrum) * 4 == pytest.approx(220, abs=12), "the excerpt's first note"


def test_an_excerpt_longer_than_the_model_s_window_is_continued(server: httpx.Client) -> None:
    answer = predict(server, input_audio=tone(11), duration=12, continuation=True)
    assert samples_of(answer).shape[0] == 12 * SAMPLE_RATE
    assert answer["metrics"]["frames"] == 50


def test_a_clip_beyond_the_model_s_window_is_exact_to_the_sample(server: httpx.Client) -> None:
    assert samples_of(predict(server, prompt="x", duration=11, seed=2)).shape[0] == 11 * SAMPLE_RATE


def test_a_window_s_end_past_the_clip_is_clamped_and_logged(server: httpx.Client) -> None:
    window = {"continuation": True, "continuation_start": 1, "continuation_end": 60}
    answer = predict(server, input_audio=tone(3), duration=4, **window)
    assert answer["metrics"]["frames"] == 100
    assert "continuation_end" in answer["logs"]


VALID: list[dict[str, Any]] = [
    {"prompt": ""},
    {"top_k": 0, "temperature": 1.5},
    {"top_k": 10**6},
    {"top_p": 0.9},
    {"top_p": 1},
    {"temperature": 0},
    {"temperature": 1e-30},
    {"temperature": 1e30},
    {"classifier_free_guidance": 1},
    {"classifier_free_guidance": 0},
    {"classifier_free_guidance": -100},
    {"classifier_free_guidance": 100},
    {"normalization_strategy": "clip"},
    {"normalization_strategy": "peak"},
    {"normalization_strategy": "rms"},
    {"seed": 2**32 - 1},
    {"prompt": "Ünïcödé ♪ 音楽 \u0000 \u202e \U0001f3b5"},
    {"prompt": "techno " * 500},
    {"unknown_input": 1},
    {"duration": 1.0, "top_p": 0, "seed": 7.0},  # whole numbers that JSON clients write as floats
]


@pytest.mark.parametrize("inputs", VALID, ids=str)
def test_a_valid_extreme_is_served(server: httpx.Client, inputs: dict[str, Any]) -> None:
    samples = samples_of(predict(server, **{"prompt": "kick", "duration": 1, "seed": 1, **inputs}))
    assert samples.shape[0] == SAMPLE_RATE
    assert np.abs(samples).max() <= 1


REJECTED: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": "x", "duration": 0}, "duration"),
    ({"prompt": "x", "duration": -5}, "duration"),
    ({"prompt": "x", "duration": 10**12}, "duration"),
    ({"prompt": "x", "duration": "long"}, "duration"),
    ({"prompt": "x", "duration": 1.5}, "duration"),
    ({"prompt": "x", "seed": -2}, "seed"),
    ({"prompt": "x", "seed": 2**32}, "seed"),
    ({"prompt": "x", "seed": 10**25}, "seed"),
    ({"prompt": "x", "top_k": -1}, "top_k"),
    ({"prompt": "x", "top_p": 1.5}, "top_p"),
    ({"prompt": "x", "temperature": -1}, "temperature"),
    ({"prompt": "x", "classifier_free_guidance": 10**9}, "classifier_free_guidance"),
    ({"prompt": "x", "continuation": True}, "continuation"),
    ({"prompt": "x", "output_format": "flac"}, "output_format"),
    ({"prompt": "x", "normalization_strategy": "loud"}, "normalization_strategy"),
    ({"prompt": "x", "continuation_start": -1}, "continuation_start"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": "x" * 5000}, "prompt"),
    ({"prompt": "x", "seed": None}, "seed"),
    ({"input_audio": "file:///etc/passwd"}, "input_audio"),
    ({"input_audio": "no url"}, "input_audio"),
]


@pytest.mark.parametrize(("inputs", "field"), REJECTED, ids=lambda value: str(value)[:60])
def test_a_bad_input_is_rejected_by_its_name(server: httpx.Client, inputs: dict[str, Any], field: str) -> None:
    assert_rejected(server, inputs, field)


def assert_rejected(server: httpx.Client, inputs: dict[str, Any], field: str) -> None:
    """The schema answers 422 with the field's location, ``predict`` an error that begins with the field's name."""
    response = server.post("/predictions", json={"input": inputs})
    if response.status_code == 422:
        assert response.json()["detail"][0]["loc"][-1] == field
        return
    answer = response.json()
    assert answer["status"] == "failed"
    assert f"{field}: " in answer["error"]
    assert "Traceback" not in answer["error"] + answer["logs"]
    assert str(Path(__file__).parents[1]) not in answer["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_rejected_by_the_schema(server: httpx.Client, number: str) -> None:
    body = f'{{"input": {{"prompt": "x", "temperature": {number}}}}}'
    response = server.post("/predictions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert "temperature" in response.text


WINDOWS: list[tuple[dict[str, Any], str]] = [
    ({"continuation_start": 2, "continuation_end": 1}, "continuation_start"),
    ({"continuation_start": 3}, "continuation_start"),
    ({"continuation_start": 50}, "continuation_start"),
    ({"continuation_start": 50, "continuation_end": 60}, "continuation_start"),
    ({"duration": 3}, "duration"),
    ({"duration": 2, "continuation_end": 2}, "duration"),
]


@pytest.mark.parametrize(("window", "field"), WINDOWS, ids=str)
def test_an_impossible_window_is_rejected(server: httpx.Client, window: dict[str, Any], field: str) -> None:
    assert_rejected(server, {"input_audio": tone(3), "continuation": True, "duration": 8, **window}, field)


def _zip_bomb() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(50_000_000))
    return archive.getvalue()


NOT_AUDIO = {
    "text": b"This is no music at all.\n" * 100,
    "empty": b"",
    "truncated wav header": base64.b64decode(tone(1).split(",")[1])[:30],
    "HLS playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat script": b"ffconcat version 1.0\nfile /etc/hostname\n",
    "zip bomb": _zip_bomb(),
    "zeros": bytes(10_000),
}


@pytest.mark.parametrize("kind", NOT_AUDIO)
def test_files_other_than_audio_are_rejected_under_any_name(server: httpx.Client, kind: str) -> None:
    assert_rejected(server, {"input_audio": data_url(NOT_AUDIO[kind], "audio/mpeg")}, "input_audio")
    assert server.get("/health-check").json()["status"] == "READY"


@pytest.mark.parametrize("format", ["mp3", "flac", "ogg", "adts", "webm"])
def test_a_compressed_file_is_continued(server: httpx.Client, format: str, tmp_path: Path) -> None:
    wav = tmp_path / "in.wav"
    wav.write_bytes(base64.b64decode(tone(2).split(",")[1]))
    out = tmp_path / "out"
    subprocess.run([ffmpeg_path(), "-v", "error", "-i", wav, "-f", format, out], check=True)
    answer = predict(server, input_audio=data_url(out.read_bytes()), duration=3, continuation=True)
    assert samples_of(answer).shape[0] == 3 * SAMPLE_RATE


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[str]:
    """The URL of a folder served over HTTP, which holds ``riff.wav``."""
    (tmp_path / "riff.wav").write_bytes(base64.b64decode(tone(2).split(",")[1]))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_audio_is_fetched_from_a_url(server: httpx.Client, file_server: str) -> None:
    answer = predict(server, input_audio=f"{file_server}/riff.wav", duration=3, continuation=True)
    assert samples_of(answer).shape[0] == 3 * SAMPLE_RATE


def test_a_data_url_in_any_form_gives_the_same_music(server: httpx.Client) -> None:
    inputs = {"duration": 3, "continuation": True, "seed": 3}
    head, letters = tone(2).split(",")
    assert {"+", "/", "="} < set(letters)
    url_safe = letters.translate(str.maketrans("+/", "-_", "="))
    urls = [f"{head},{letters}", f"{head},{url_safe}", f" {head.upper()},{letters}"]
    standard, *others = (output_of(predict(server, input_audio=url, **inputs)) for url in urls)
    assert all(other == standard for other in others)
    answer = predict(server, input_audio=f"{head},{letters.replace('+', ' ')}", **inputs)
    assert "InputError: input_audio: its data URL is cut or not base64." in answer["error"]


def test_cog_drops_unknown_names_and_all_inputs_outside_input(server: httpx.Client) -> None:
    """The README says so; the predictor never sees them."""
    assert predict(server, prompt="x", duration=1, sed=7)["status"] == "succeeded"
    answer = server.post("/predictions", json={"prompt": "x", "duration": 1}).json()
    assert answer["error"].endswith(
        "prompt: neither a prompt nor input_audio was given. Send at least one of them; over HTTP, inside input."
    )


def test_a_url_that_answers_404_fails_the_prediction_alone(server: httpx.Client, file_server: str) -> None:
    answer = predict(server, input_audio=f"{file_server}/none.wav")
    assert answer["status"] == "failed"
    assert "404" in answer["error"]
    assert_still_serving(server)


def test_a_cancelled_prediction_stops_early_and_frees_its_slot(server: httpx.Client) -> None:
    with httpx.Client(base_url=server.base_url, timeout=60) as waiting:
        answers: list[dict[str, Any]] = []
        thread = threading.Thread(
            target=lambda: answers.append(
                waiting.put("/predictions/cancelled-1", json={"input": {"prompt": "x", "duration": 300}}).json()
            )
        )
        thread.start()
        time.sleep(1.5)
        assert server.post("/predictions/cancelled-1/cancel").status_code == 200
        thread.join(SOON_S)
        assert [answer["status"] for answer in answers] == ["canceled"]
    assert seconds_until_free(server) < SOON_S


def test_a_dropped_connection_stops_its_prediction(server: httpx.Client) -> None:
    for _ in range(4):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{server.base_url}/predictions", json={"input": {"prompt": "x", "duration": 300}}, timeout=0.5)
    assert seconds_until_free(server) < SOON_S


def test_the_file_carries_its_prompt_seed_and_parameters(server: httpx.Client, tmp_path: Path) -> None:
    for format in ("wav", "mp3"):
        path = tmp_path / f"out.{format}"
        path.write_bytes(output_of(predict(server, prompt="kick = 1", duration=1, seed=77, output_format=format)))
        command = [ffmpeg_path(), "-v", "error", "-i", str(path), "-f", "ffmetadata", "-"]
        tags = subprocess.run(command, check=True, capture_output=True, text=True).stdout.replace("\\", "")
        assert "title=kick = 1\n" in tags
        inputs = json.loads(tags.partition("comment=")[2].splitlines()[0])
        assert (inputs["prompt"], inputs["seed"], inputs["temperature"]) == ("kick = 1", 77, 1.0)
        # The comment is a request that makes the same file again.
        assert output_of(predict(server, **inputs)) == path.read_bytes()
