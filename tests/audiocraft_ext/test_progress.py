"""The progress line and the flag that stops a prediction."""

import contextvars
import io
import re
import threading

import pytest

from audiocraft_ext.errors import Cancelled
from audiocraft_ext.progress import Progress, SilentProgress

# How Replicate's Python and JavaScript clients find the percentage in a prediction's logs.
CLIENT_PATTERN = re.compile(r"^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)")


def test_the_last_line_is_one_that_clients_parse(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for n_frames in range(1, 401):
        progress.update(n_frames, 400)
    progress.close()
    lines = capsys.readouterr().err.strip().split("\n")
    found = CLIENT_PATTERN.match(lines[-1])
    assert found is not None
    assert found.groups() == ("100", "400", "400")


def test_four_hundred_frames_in_a_moment_write_a_handful_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for n_frames in range(1, 401):
        progress.update(n_frames, 400)
    progress.close()
    assert len(capsys.readouterr().err.strip().split("\n")) <= 3


def test_the_next_frame_after_a_stop_raises() -> None:
    progress = Progress()
    progress.update(1, 400)
    progress.stop()
    with pytest.raises(Cancelled):
        progress.update(2, 400)
    progress.close()


def test_a_line_that_cannot_be_written_holds_up_no_other_prediction(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    first, other = Progress(), Progress()
    with monkeypatch.context() as gone:
        gone.setattr("sys.stderr", Closed())
        first.update(1, 2)
        with pytest.raises(BrokenPipeError):
            first.close()

    def finish() -> None:
        other.update(2, 2)
        other.close()

    thread = threading.Thread(target=finish, daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert "2/2" in capsys.readouterr().err


def test_another_threads_line_is_printed_in_its_predictions_context(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = contextvars.ContextVar("prediction", default="none")
    written: list[tuple[str, str]] = []

    class Log(io.StringIO):
        def write(self, text: str) -> int:
            written.append((prediction.get(), text))
            return len(text)

    monkeypatch.setattr("sys.stderr", Log())
    prediction.set("mine")
    progress = Progress()
    prediction.set("another's")
    thread = threading.Thread(target=progress.update, args=(4, 4))
    thread.start()
    thread.join()
    assert {name for name, _ in written} == {"mine"}
    assert "4/4" in written[0][1]


def test_what_nobody_asked_for_writes_nothing_and_can_be_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SilentProgress()
    progress.update(50, 50)
    progress.close()
    progress.stop()
    with pytest.raises(Cancelled):
        progress.update(50, 50)
    assert capsys.readouterr().err == ""


def test_waiting_for_a_lock_can_be_stopped_and_an_error_releases_it() -> None:
    progress, lock = Progress(), threading.Lock()
    with pytest.raises(KeyError), progress.acquire(lock):
        raise KeyError
    with lock:
        threading.Timer(0.1, progress.stop).start()
        with pytest.raises(Cancelled), progress.acquire(lock):
            pass
    assert not lock.locked()


def test_a_cancel_calls_registered_callbacks_and_none_afterwards() -> None:
    progress, called = Progress(), []
    with progress.on_cancel(lambda: called.append("ended")):
        pass
    with progress.on_cancel(lambda: called.append("first")), progress.on_cancel(lambda: called.append("second")):
        progress.stop()
    assert called == ["first", "second"]
    with pytest.raises(Cancelled), progress.on_cancel(lambda: called.append("too late")):
        raise AssertionError("the block must not run")
    assert called == ["first", "second"]
