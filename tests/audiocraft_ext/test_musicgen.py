"""One generation, compared with audiocraft's own ``MusicGen`` on small random checkpoints of every kind."""

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint, memory
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.errors import Cancelled, InputError
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineName, EngineSettings
from audiocraft_ext.upstream import MusicGen
from tests.support.requests import AUDIO, DEFAULTS
from tests.support.tiny import CARD, SAMPLE_RATE, WINDOW_S, Kind

TinyCheckpoint = Callable[[Kind], Checkpoint]
KINDS: list[Kind] = ["text", "melody", "stereo"]
ENGINES: list[EngineName] = ["fast", "upstream"]
N_AT_ONCE = {"fast": 4, "upstream": 1}  # on the CPU
PATIENCE_S = 60
STRIDE_S = 12  # three fifths of the window, as upstream's 18 of 30 s


def model_of(checkpoint: Checkpoint, engine: EngineName = "fast") -> Model:
    """A model that leaves the checkpoint's LM to the oracle."""
    return Model(checkpoint, EngineSettings(engine=engine, consume=False))


def generate(checkpoint: Checkpoint, clip: Clip | None = None, engine: EngineName = "fast", **inputs: Any) -> Tensor:
    """Samples [C, N] by our path."""
    inputs = {**DEFAULTS, "seed": 3, **inputs}
    if clip is not None:
        inputs["input_audio"] = AUDIO
    return model_of(checkpoint, engine).generate(Request.from_inputs(**inputs), clip, Progress())


def upstream(checkpoint: Checkpoint, seed: int = 3, **params: Any) -> MusicGen:
    """audiocraft's own object, with its global generator seeded."""
    music_gen = MusicGen("tiny", checkpoint.codec, checkpoint.lm)
    music_gen.set_generation_params(**{"extend_stride": STRIDE_S, "top_k": CARD, **params})
    torch.manual_seed(seed)
    return music_gen


def noise(seconds: float, channels: int = 1, seed: int = 0) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    return Clip(0.3 * torch.randn(channels, int(seconds * SAMPLE_RATE), generator=generator), SAMPLE_RATE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_gives_audiocraft_s_own_samples(
    tiny_checkpoint: TinyCheckpoint, kind: Kind, engine: EngineName
) -> None:
    checkpoint = tiny_checkpoint(kind)
    ours = generate(checkpoint, engine=engine, prompt="dark electro", duration=2, temperature=0)
    theirs = upstream(checkpoint, duration=2, use_sampling=False).generate(["dark electro"])[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("prompt", ["drums", "dreamy arp and pad in A minor"])
def test_the_embedded_checkpoint_gives_audiocraft_s_own_samples(prompt: str) -> None:
    embedded = checkpoint.load(str(EMBEDDED), "cpu")
    ours = generate(embedded, prompt=prompt, duration=4, temperature=0)
    music_gen = MusicGen("embedded", embedded.codec, embedded.lm, max_duration=30)  # its stride assumes as much
    music_gen.set_generation_params(duration=4, use_sampling=False)
    theirs = music_gen.generate([prompt])[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# The engine's noise is its own: test_lm_engine.py compares its samples with audiocraft's.
@pytest.mark.parametrize("sampling", [{}, {"top_k": 5}, {"top_k": 0}, {"top_p": 0.5}, {"temperature": 2.0}], ids=str)
def test_sampling_is_audiocraft_s_own(tiny_checkpoint: TinyCheckpoint, sampling: dict[str, Any]) -> None:
    checkpoint = tiny_checkpoint("text")
    ours = generate(checkpoint, engine="upstream", prompt="dark electro", duration=1, **sampling)
    theirs = upstream(checkpoint, duration=1, **sampling).generate(["dark electro"])[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_gives_audiocraft_s_own_samples(
    tiny_checkpoint: TinyCheckpoint, kind: Kind, engine: EngineName
) -> None:
    checkpoint = tiny_checkpoint(kind)
    clip = noise(1, channels=2 if kind == "stereo" else 1)
    ours = generate(checkpoint, clip, engine, prompt="x", continuation=True, duration=3, temperature=0)
    music_gen = upstream(checkpoint, duration=3, use_sampling=False)
    theirs = music_gen.generate_continuation(clip.samples[None], SAMPLE_RATE, ["x"])[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_melody_gives_audiocraft_s_own_samples(tiny_checkpoint: TinyCheckpoint, engine: EngineName) -> None:
    checkpoint = tiny_checkpoint("melody")
    clip = noise(3)
    ours = generate(checkpoint, clip, engine, prompt="x", duration=2, temperature=0)
    theirs = upstream(checkpoint, duration=2, use_sampling=False).generate_with_chroma(
        ["x"], clip.samples[None], SAMPLE_RATE
    )
    torch.testing.assert_close(ours, theirs[0], rtol=0, atol=0)
    other = generate(checkpoint, noise(3, seed=1), engine, prompt="x", duration=2, temperature=0)
    assert not torch.equal(ours, other), "the melody has no effect"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["text", "melody"])
def test_a_clip_longer_than_the_window_gives_audiocraft_s_own_samples(
    tiny_checkpoint: TinyCheckpoint, kind: Kind, engine: EngineName
) -> None:
    checkpoint = tiny_checkpoint(kind)
    duration = WINDOW_S + 2
    clip = noise(3) if kind == "melody" else None
    ours = generate(checkpoint, clip, engine, prompt="x", duration=duration, temperature=0)
    music_gen = upstream(checkpoint, duration=duration, use_sampling=False)
    if clip is None:
        theirs = music_gen.generate(["x"])
    else:
        theirs = music_gen.generate_with_chroma(["x"], clip.samples[None], SAMPLE_RATE)
    torch.testing.assert_close(ours, theirs[0], rtol=0, atol=0)
    assert ours.shape[-1] == duration * SAMPLE_RATE


@pytest.mark.parametrize("excerpt_s", [WINDOW_S - 0.01, WINDOW_S, WINDOW_S + 3.3])
def test_an_excerpt_as_long_as_the_window_or_longer_keeps_its_head(
    tiny_checkpoint: TinyCheckpoint, excerpt_s: float
) -> None:
    checkpoint = tiny_checkpoint("text")
    clip = noise(excerpt_s)
    duration = WINDOW_S + 4
    ours = generate(checkpoint, clip, prompt="x", continuation=True, duration=duration, seed=1)
    assert ours.shape == (1, duration * SAMPLE_RATE)
    codes, _ = checkpoint.codec.encode(clip.samples[None])
    decoded = checkpoint.codec.decode(codes, None)[0]
    n_head = decoded.shape[-1] - SAMPLE_RATE // 10  # the decoder sees a few frames past the seam
    torch.testing.assert_close(ours[:, :n_head], decoded[:, :n_head], rtol=0, atol=1e-5)


def test_an_excerpt_one_sample_short_of_the_duration_is_served(tiny_checkpoint: TinyCheckpoint) -> None:
    clip = Clip(noise(2).samples[:, :-1], SAMPLE_RATE)
    samples = generate(tiny_checkpoint("text"), clip, continuation=True, duration=2)
    assert samples.shape[-1] == 2 * SAMPLE_RATE


@pytest.mark.parametrize("n_samples", [1, 2, 640])
def test_the_shortest_excerpts_are_continued_and_followed(tiny_checkpoint: TinyCheckpoint, n_samples: int) -> None:
    clip = Clip(noise(1).samples[:, :n_samples], SAMPLE_RATE)
    for continuation in (True, False):
        samples = generate(tiny_checkpoint("melody"), clip, continuation=continuation, duration=1)
        assert samples.shape[-1] == SAMPLE_RATE
        assert samples.isfinite().all()


@pytest.mark.parametrize(("kind", "channels"), [("text", 2), ("stereo", 1)])
def test_mono_and_stereo_are_continued_by_either(tiny_checkpoint: TinyCheckpoint, kind: Kind, channels: int) -> None:
    samples = generate(tiny_checkpoint(kind), noise(1, channels), continuation=True, duration=2)
    assert samples.shape == (2 if kind == "stereo" else 1, 2 * SAMPLE_RATE)


@pytest.mark.parametrize("kind", ["text", "stereo"])
def test_a_melody_on_a_checkpoint_without_a_melody_conditioner_is_refused(
    tiny_checkpoint: TinyCheckpoint, kind: Kind
) -> None:
    with pytest.raises(InputError, match=r"continuation: false asks for the melody .* cannot follow a melody"):
        generate(tiny_checkpoint(kind), noise(1))


def test_diffusion_without_weights_for_the_codec_is_refused(tiny_checkpoint: TinyCheckpoint) -> None:
    with pytest.raises(InputError, match="multi_band_diffusion: true"):
        generate(tiny_checkpoint("text"), multi_band_diffusion=True)


def test_the_global_generator_is_neither_read_nor_moved(tiny_checkpoint: TinyCheckpoint) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(tiny_checkpoint("text"), duration=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(generate(tiny_checkpoint("text"), duration=1), first)


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_at_the_same_time_give_what_they_give_alone(
    tiny_checkpoint: TinyCheckpoint, engine: EngineName
) -> None:
    model = model_of(tiny_checkpoint("melody"), engine)
    requests = [Request.from_inputs(**{**DEFAULTS, "seed": seed, "duration": 1 + seed % 2}) for seed in range(6)]
    alone = [model.generate(request, None, Progress()) for request in requests]
    together: dict[int, Tensor] = {}

    def ask(i: int) -> None:
        together[i] = model.generate(requests[i], None, Progress())

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[i], alone[i]) for i in range(len(requests)))


class StopsItself(Progress):
    """Is stopped as soon as a frame is made."""

    AT_FRAME = 20

    def update(self, n: int, total: int, unit: str = "frame") -> None:
        super().update(n, total, unit)
        if n >= self.AT_FRAME:
            self.stop()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cancel_ends_at_the_next_frame_and_the_next_request_is_right(
    tiny_checkpoint: TinyCheckpoint, engine: EngineName
) -> None:
    model = model_of(tiny_checkpoint("text"), engine)
    request = Request.from_inputs(**{**DEFAULTS, "seed": 1, "duration": 1})
    right = model.generate(request, None, Progress())
    progress = StopsItself()
    with pytest.raises(Cancelled):
        model.generate(Request.from_inputs(**{**DEFAULTS, "duration": 300}), None, progress)
    assert progress.n_frames == StopsItself.AT_FRAME
    assert torch.equal(model.generate(request, None, Progress()), right)


class StopsInLine(Progress):
    """Is stopped when it has been asked a few times whether to go on."""

    n_checks = 0
    has_turn = False

    def update(self, n: int, total: int, unit: str = "frame") -> None:
        self.has_turn = True
        super().update(n, total, unit)

    def check(self) -> None:
        self.n_checks += 1
        if self.n_checks == 4:
            self.stop()
        super().check()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_request_that_waits_for_its_turn_can_be_stopped(tiny_checkpoint: TinyCheckpoint, engine: EngineName) -> None:
    model = model_of(tiny_checkpoint("text"), engine)
    request = Request.from_inputs(**{**DEFAULTS, "duration": 300})

    def ask(progress: Progress) -> None:
        with pytest.raises(Cancelled):
            model.generate(request, None, progress)

    busy, late = [Progress() for _ in range(N_AT_ONCE[engine])], StopsInLine()
    with ThreadPoolExecutor(len(busy) + 1) as pool:
        asked = [pool.submit(ask, progress) for progress in busy]
        try:
            while not all(progress.n_frames for progress in busy):
                assert not any(one.done() for one in asked)
                time.sleep(0.01)
            pool.submit(ask, late).result(PATIENCE_S)
        finally:
            for progress in (*busy, late):
                progress.stop()
        for one in asked:
            one.result(PATIENCE_S)
    assert not late.has_turn


def test_a_model_that_was_closed_is_gone_once_it_is_collected(tiny_checkpoint: TinyCheckpoint) -> None:
    """Another is loaded next, and both at once may not fit."""
    model = model_of(tiny_checkpoint("text"))
    with pytest.raises(InputError):
        model.generate(Request(prompt="", duration=1, multi_band_diffusion=True), None, Progress())
    model.generate(Request(prompt="", duration=1), None, Progress())
    assert model.engine is not None
    transformer = weakref.ref(model.engine.transformer)
    model.close()
    del model
    memory.collect()
    assert transformer() is None
