"""Tests that need a CUDA device; ``make gpu-check`` runs these. ``MUSICGEN_DEVICE=cpu`` tries them without one."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint, musicgen
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.engine.backends import BackendName
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.transformer import Transformer
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import ConditioningAttributes, use_generator
from tests.support import engines as models
from tests.support import tiny
from tests.support.engines import closing, long_job, results
from tests.support.music import window_tokens
from tests.support.requests import AUDIO, DEFAULTS

DEVICE = os.environ.get("MUSICGEN_DEVICE") or "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_DEVICE: dict[str, Any] = {"device": DEVICE, "dtype": torch.float16 if DEVICE == "cuda" else torch.float32}
N_SLOTS = 4


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(checkpoint.load(str(EMBEDDED), DEVICE), EngineSettings(consume=False))


@pytest.fixture(scope="module")
def fast() -> Iterator[Engine]:
    """An engine with kernels and graph, in half precision."""
    with closing(models.engine(n_slots=N_SLOTS, **ON_DEVICE)) as made:
        yield made


@pytest.mark.skipif(DEVICE == "cpu", reason="single precision there")
def test_the_lm_is_half_precision_and_the_codec_single(model: Model) -> None:
    assert next(model.checkpoint.lm.transformer.parameters()).dtype == torch.float16
    assert next(model.checkpoint.codec.parameters()).dtype == torch.float32


@pytest.mark.skipif(DEVICE == "cpu", reason="single precision there")
def test_a_model_that_overflows_half_precision_is_loaded_in_bf16(tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "text") / "state_dict.bin"
    package = torch.load(path)
    tiny.overflow(package)
    torch.save(package, path)
    made = musicgen.load(str(tmp_path), DEVICE, EngineSettings(consume=False))
    assert next(made.checkpoint.lm.transformer.parameters()).dtype == torch.bfloat16
    made.close()


@pytest.mark.parametrize("mode", ["text", "melody", "continuation"])
def test_a_seed_repeats_its_samples_in_every_mode(model: Model, mode: str) -> None:
    clip = None
    inputs = {**DEFAULTS, "prompt": "electro at 120 BPM", "duration": 4, "seed": 5}
    if mode != "text":
        generator = torch.Generator().manual_seed(0)
        clip = Clip(0.2 * torch.randn(1, 3 * model.sample_rate, generator=generator), model.sample_rate)
        inputs |= {"input_audio": AUDIO, "continuation": mode == "continuation"}
    request = Request.from_inputs(**inputs)
    first, again = (model.generate(request, clip, Progress()) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (1, 4 * model.sample_rate)
    assert first.isfinite().all()
    assert first.std() > 0.001


def test_diffusion_repeats(model: Model) -> None:
    codes = torch.randint(512, (1, 4, 150), generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def decode() -> Tensor:
        with use_generator(torch.Generator(DEVICE).manual_seed(5)):
            return model.checkpoint.load_diffusion().decode(codes, Progress())

    first, again = decode(), decode()
    assert torch.equal(first, again)
    assert first.isfinite().all()
    assert first.std() > 0.001


@pytest.mark.parametrize("kind", ["text", "melody", "stereo", "rotary"])
def test_greedy_tokens_in_single_precision_are_audiocraft_s(tmp_path: Path, kind: tiny.Kind) -> None:
    loaded = checkpoint.load(str(tiny.write(tmp_path, kind)), DEVICE)
    lm = loaded.lm.float()
    arguments: dict[str, Any] = {"use_sampling": False, "temp": 1.0, "top_k": 0, "top_p": 0.0, "cfg_coef": 3.0}
    conditions = [ConditioningAttributes(text={"description": "dark electro"})]
    if kind == "melody":
        conditions[0].wav["self_wav"] = silence()
    with torch.inference_mode():
        theirs = lm.generate(None, conditions, max_gen_len=200, **arguments)
        model = Model(loaded, EngineSettings(consume=False, n_slots=N_SLOTS))
        ours = window_tokens(model, None, conditions, max_gen_len=200, **arguments)
        model.close()
    assert torch.equal(ours.cpu(), theirs.cpu())


def silence() -> Any:
    from audiocraft.modules.conditioners import WavCondition

    return WavCondition(
        torch.zeros(1, 1, 1, device=DEVICE), torch.tensor([0], device=DEVICE), [tiny.SAMPLE_RATE], [None]
    )


def test_a_hundred_mixed_jobs_get_the_tokens_that_they_get_alone(fast: Engine) -> None:
    jobs = [models.job(seed, **ON_DEVICE) for seed in range(100)]
    alone = [fast.submit(one).result(timeout=60) for one in jobs]
    together = results(fast, jobs)
    assert sum(torch.equal(a, b) for a, b in zip(alone, together, strict=True)) == len(jobs)


def test_the_graph_gives_the_tokens_of_its_eager_steps(fast: Engine) -> None:
    jobs = [models.job(seed, **ON_DEVICE) for seed in range(12)]
    with closing(models.engine(n_slots=N_SLOTS, capture=False, **ON_DEVICE)) as eager:
        assert all(torch.equal(a, b) for a, b in zip(results(fast, jobs), results(eager, jobs), strict=True))


def logits_of(transformer: Transformer) -> Tensor:
    """Logits of one step of four rows at different lengths."""
    generator = torch.Generator().manual_seed(1)
    cache = transformer.cache
    for part in (*cache.keys, *cache.values):
        part.copy_(torch.randn(part.shape, generator=generator))
    transformer.cache_cross_kv(0, torch.randn(4, 9, models.WIDTH, generator=generator).to(**ON_DEVICE))
    positions = torch.tensor([3, 64, 100, 17, 0, 0, 0, 0], device=DEVICE)
    inputs = torch.randn(8, models.WIDTH, generator=generator).to(DEVICE)
    attention = transformer.backend.attention(cache, torch.arange(8, device=DEVICE))
    attention.update(positions)
    sines, rotary = transformer.position_encoding(positions)
    return transformer.logits(transformer.run_layers(inputs + sines, rotary, attention))[:4]


BACKENDS: tuple[BackendName, ...] = ("triton" if DEVICE == "cuda" else "cpu", "torch")


def test_kernels_give_plain_torch_s_logits() -> None:
    ours, plain = (logits_of(models.transformer(n_slots=4, backend=name, **ON_DEVICE)) for name in BACKENDS)
    assert (ours - plain).norm() / plain.norm() < 5e-3


@pytest.mark.skipif(DEVICE == "cpu", reason="a graph")
def test_a_graph_of_plain_torch_gives_the_greedy_tokens_of_its_eager_steps() -> None:
    jobs = [models.job(seed, temperature=0.0, **ON_DEVICE) for seed in range(4)]
    with (
        closing(models.engine(n_slots=2, backend="cuda", **ON_DEVICE)) as captured,
        closing(models.engine(n_slots=2, backend="cuda", capture=False, **ON_DEVICE)) as eager,
    ):
        assert all(torch.equal(a, b) for a, b in zip(results(captured, jobs), results(eager, jobs), strict=True))


def test_int8_makes_tokens_that_repeat() -> None:
    jobs = [models.job(seed, **ON_DEVICE) for seed in range(8)]
    with closing(models.engine(n_slots=N_SLOTS, quantize="int8", **ON_DEVICE)) as made:
        assert all(torch.equal(a, b) for a, b in zip(results(made, jobs), results(made, jobs), strict=True))


def test_a_cancelled_job_frees_its_slot_within_a_second(fast: Engine) -> None:
    leave = threading.Event()

    def stop(done: int, total: int) -> None:
        if leave.is_set():
            raise InterruptedError

    futures = [fast.submit(long_job(seed, on_step=stop, **ON_DEVICE)) for seed in range(N_SLOTS)]
    start = time.monotonic()
    leave.set()
    for future in futures:
        future.exception(timeout=10)
    fast.submit(models.job(1, **ON_DEVICE)).result(timeout=10)
    assert time.monotonic() - start < 1


def test_nan_is_one_job_s_error_and_the_next_in_its_slot_is_right(fast: Engine) -> None:
    right = [long_job(seed, **ON_DEVICE) for seed in range(N_SLOTS)]
    alone = results(fast, right)
    bad = long_job(5, cross=torch.full((2, 7, models.WIDTH), torch.nan), guidance=3.0, **ON_DEVICE)
    with pytest.raises(RuntimeError, match="not finite"):
        fast.submit(bad).result(timeout=60)
    assert all(torch.equal(a, b) for a, b in zip(results(fast, right), alone, strict=True))


@pytest.mark.skipif(DEVICE == "cpu", reason="device memory")
def test_a_hundred_jobs_leave_the_device_s_memory_where_it_was(fast: Engine) -> None:
    jobs = [models.job(seed % 10, **ON_DEVICE) for seed in range(100)]
    results(fast, jobs[:10])
    before = torch.cuda.memory_allocated()
    results(fast, jobs)
    assert torch.cuda.memory_allocated() <= before + 2**20
