"""The page in headless Chromium: each part used as a musician would, on a desk's width and on a phone's."""

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
PATIENCE_MS = 60_000
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module", params=["desk", "phone"])
def browser_page(request: pytest.FixtureRequest, web: str) -> Iterator[Page]:
    """The page, once it is ready; at the end, whether anything failed in it or was asked for elsewhere."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        viewport = PHONE if request.param == "phone" else {"width": 1200, "height": 900}
        page = browser.new_page(viewport=viewport)  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda sent: problems.extend([sent.url] * (not sent.url.startswith((web, "blob:", "data:"))))
        )
        page.goto(web)
        page.wait_for_selector("body[data-ready]")
        yield page
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"page-{request.param}.png", full_page=True)
        browser.close()
    assert not problems


@pytest.fixture
def page(browser_page: Page) -> Page:
    """The page with an empty form."""
    browser_page.reload()
    browser_page.wait_for_selector("body[data-ready]")
    return browser_page


def takes(page: Page, status: str) -> int:
    return page.locator(f".take[data-status={status}]").count()


def make(page: Page, n: int = 1) -> None:
    """Press the button, and wait until so many more takes can be played."""
    before = takes(page, "succeeded")
    page.click("#make")
    players = page.locator(".take[data-status=succeeded] .result:not([hidden])")
    expect(players).to_have_count(before + n, timeout=PATIENCE_MS)


def wav(seconds: float) -> bytes:
    t = np.arange(int(32000 * seconds)) / 32000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 220 * t), 32000, format="WAV")
    return file.getvalue()


def load(page: Page, seconds: float = 6) -> None:
    page.set_input_files("#file", {"name": "tone.wav", "mimeType": "audio/wav", "buffer": wav(seconds)})
    page.wait_for_selector("#loaded:not([hidden])")


def is_drawn(page: Page, selector: str) -> bool:
    drawn: bool = page.eval_on_selector(
        selector, "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 3"
    )
    return drawn


def test_an_example_makes_two_takes_by_neighbouring_seeds(page: Page) -> None:
    page.click("#examples button >> nth=1")
    page.fill("#duration", "2")
    page.fill("#seed", "7")
    page.fill("#takes", "2")
    make(page, 2)
    newest = page.locator(".take").nth(0)
    expect(newest.locator(".title")).to_have_text(page.input_value("#prompt"))
    expect(newest.locator(".about")).to_have_text("2 s, seed 8")
    expect(page.locator(".take").nth(1).locator(".about")).to_have_text("2 s, seed 7")
    assert is_drawn(page, ".take .wave")
    assert is_drawn(page, ".take .spectrogram")


def test_all_inputs_are_there_with_bounds_and_the_rare_ones_folded(page: Page) -> None:
    assert not page.is_visible("[name=top_k]")
    page.click("summary")
    names = page.eval_on_selector_all("#form [name]", "fields => fields.map((field) => field.name)")
    rare = [
        "continuation_start",
        "continuation_end",
        "multi_band_diffusion",
        "normalization_strategy",
        "top_k",
        "top_p",
    ]
    rare += ["temperature", "classifier_free_guidance", "output_format"]
    assert set(names) == {"prompt", "mode", "duration", "seed", *rare}
    for name in rare:
        assert page.is_visible(f"[name={name}]")
    assert page.input_value("[name=top_k]") == "250"
    assert page.get_attribute("[name=top_p]", "max") == "1"


def test_again_with_this_makes_the_same_take(page: Page) -> None:
    page.fill("#prompt", "bass")
    page.fill("#duration", "1")
    make(page)
    first = page.locator(".take .about").nth(0).inner_text()
    page.fill("#prompt", "something else")
    page.click(".take .again >> nth=0")
    assert page.input_value("#prompt") == "bass"
    make(page)
    assert page.locator(".take .about").nth(0).inner_text() == first
    sizes = page.evaluate(
        """async () => Promise.all([...document.querySelectorAll(".take audio")].slice(0, 2).map(async ({ src }) =>
            new Uint8Array(await (await fetch(src)).arrayBuffer()).join()))"""
    )
    assert sizes[0] == sizes[1]


def test_a_take_is_continued_from_where_it_stands(page: Page) -> None:
    page.fill("#prompt", "bass")
    page.fill("#duration", "4")
    make(page)
    page.eval_on_selector(".take audio", "player => { player.currentTime = 2.2; }")
    page.wait_for_function("document.querySelector('.take audio').currentTime > 2")
    page.click(".take .onward >> nth=0")
    page.wait_for_selector("#loaded:not([hidden])")
    assert page.input_value("[name=continuation_end]") == "2"
    assert page.input_value("#duration") == "10"
    page.fill("#duration", "4")
    make(page)
    expect(page.locator(".take .about").nth(0)).to_have_text(re.compile(r"4 s, seed \d+, continues a sound"))


def test_the_window_is_dragged_in_the_waveform_and_followed(page: Page) -> None:
    load(page)
    assert is_drawn(page, "#source-wave")
    page.locator("#source-wave").scroll_into_view_if_needed()
    box = page.locator("#source-wave").bounding_box()
    assert box is not None
    for start, stop in ((2, 22), (98, 73)):  # percent of the width: both edges are dragged inwards
        page.mouse.move(box["x"] + box["width"] * start / 100, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * stop / 100, box["y"] + 20, steps=4)
        page.mouse.up()
    assert page.input_value("[name=continuation_start]") == "1"
    assert page.input_value("[name=continuation_end]") == "4"
    page.check("[value=follow]")
    page.fill("#duration", "2")
    make(page)
    expect(page.locator(".take .about").nth(0)).to_have_text(re.compile("follows a melody"))
    page.click("#remove")
    assert page.is_visible("#drop")


def test_a_recording_is_a_sound_to_start_from(page: Page) -> None:
    page.click("#record")
    expect(page.locator("#record")).to_have_text("stop recording")
    page.wait_for_timeout(1500)
    page.click("#record")
    page.wait_for_selector("#loaded:not([hidden])")
    page.fill("#duration", "4")
    make(page)


def test_a_take_is_stopped(page: Page) -> None:
    page.fill("#prompt", "bass")
    page.fill("#duration", "200")
    before, n_shown = takes(page, "canceled"), page.locator(".take").count()
    page.click("#make")
    expect(page.locator(".take")).to_have_count(n_shown + 1, timeout=PATIENCE_MS)
    page.wait_for_function("document.querySelector('.take progress').value > 0")
    page.click(".take .cancel >> nth=0")
    expect(page.locator(".take[data-status=canceled]")).to_have_count(before + 1)
    assert page.locator(".take .state").nth(0).inner_text() == "stopped"
    assert page.is_hidden("#stop")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("duration", "0", "Value must be greater than or equal to 1."),
        ("duration", "3", "includes the audio to continue, and is not longer than it"),
        ("continuation_start", "60", "60 s is not before the end of the clip"),
    ],
)
def test_an_error_is_a_sentence_at_its_field(page: Page, name: str, value: str, sentence: str) -> None:
    load(page)
    page.click("summary")
    page.fill(f"[name={name}]", value)
    page.click("#make")
    expect(page.locator(f"[data-error={name}]")).to_contain_text(sentence)
    assert "wrong" in (page.get_attribute(f"[name={name}]", "class") or "")


def test_a_file_without_audio_is_refused_at_the_sound(page: Page) -> None:
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"la la la"})
    expect(page.locator("[data-error=input_audio]")).to_contain_text("notes.txt is not audio")
    assert page.is_visible("#drop")


@pytest.mark.parametrize("ending", ["wav", "mp3"])
def test_a_take_is_saved_in_both_formats(page: Page, ending: str) -> None:
    page.fill("#prompt", "Bass, and kick!")
    page.fill("#duration", "1")
    page.fill("#seed", "3")
    make(page)
    with page.expect_download() as download:
        page.click(f".take .{ending} >> nth=0")
    assert download.value.suggested_filename == f"bass-and-kick-3.{ending}"
    begin = Path(download.value.path()).read_bytes()[:4]
    assert begin == b"RIFF" if ending == "wav" else begin[:3] == b"ID3"


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
