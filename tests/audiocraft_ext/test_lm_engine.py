"""The engine on audiocraft's LMs, compared with audiocraft's own ``lm.generate``."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext.checkpoint import Checkpoint, load
from audiocraft_ext.engine import backends
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.engine.sampling import uniform_bits
from audiocraft_ext.errors import InputError
from audiocraft_ext.lm_engine import build_engine, reason_unsupported
from audiocraft_ext.musicgen import Model
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import ConditioningAttributes, MusicGen
from tests.support import tiny
from tests.support.engines import InterpretedBackend, needs_interpreter
from tests.support.music import window_tokens
from tests.support.tiny import CARD, WINDOW_S, Kind

TinyCheckpoint = Callable[[Kind], Checkpoint]
ModelOf = Callable[[Kind], Model]
KINDS: list[Kind] = ["text", "melody", "stereo", "rotary"]
FRAME_RATE = 50
SEED = 11
GREEDY: dict[str, Any] = {"use_sampling": False, "temp": 1.0, "top_k": 0, "top_p": 0.0}


@pytest.fixture(scope="module")
def model_of(tiny_checkpoint: TinyCheckpoint) -> Iterator[ModelOf]:
    """A function from a kind to a model of its checkpoint, which keeps its own LM for the oracle."""
    models: list[Model] = []

    @cache
    def load_model(kind: Kind) -> Model:
        model = Model(tiny_checkpoint(kind), EngineSettings(consume=False))
        assert model.engine is not None
        models.append(model)
        return model

    yield load_model
    for model in models:
        model.close()


def attributes(checkpoint: Checkpoint, text: str) -> list[ConditioningAttributes]:
    prepared: list[ConditioningAttributes] = MusicGen(
        "tiny", checkpoint.codec, checkpoint.lm
    )._prepare_tokens_and_attributes([text], None)[0]
    return prepared


def ours(model: Model, prompt: Tensor | None, conditions: Any, **arguments: Any) -> Tensor:
    return window_tokens(model, prompt, conditions, seed=SEED, **arguments)


class FewSlots(InterpretedBackend):
    """Records what a slot is said to take."""

    slot_bytes = 0

    def fitting_slots(self, n_requested: int, slot_bytes: int) -> int:
        self.slot_bytes = slot_bytes
        return n_requested


@needs_interpreter
@pytest.mark.parametrize(("quantize", "dtype"), [("none", torch.float32), ("int8", torch.int8)])
def test_memory_is_divided_by_the_bytes_that_a_slot_s_cache_takes(
    tiny_checkpoint: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch, quantize: Quantize, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(backends, "TritonBackend", FewSlots)
    settings = EngineSettings(backend="triton", n_slots=3, quantize=quantize, consume=False, capture=False)
    made = build_engine(tiny_checkpoint("text").lm, 50, settings)
    assert made is not None
    assert isinstance(made.backend, FewSlots)
    cache = made.transformer.cache
    assert cache.dtype == dtype
    assert 3 * made.backend.slot_bytes == sum(part.nbytes for part in (*cache.keys, *cache.values))
    assert f"{cache.n_bytes / 1e9:.2f} GB" in made.description
    assert ("with int8 weights and cache" in made.description) == (quantize == "int8")


def codes(n_codebooks: int, n_frames: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(CARD, (1, n_codebooks, n_frames), generator=generator) if n_frames else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_frames", "n_prompt", "guidance"),
    [(1, 0, 3.0), (2, 1, 3.0), (60, 0, 0.0), (60, 0, 1.0), (300, 40, 3.0), (90, 89, -2.0), (WINDOW_S * 50, 600, 3.0)],
)
def test_greedy_tokens_are_audiocraft_s(
    tiny_checkpoint: TinyCheckpoint, model_of: ModelOf, kind: Kind, n_frames: int, n_prompt: int, guidance: float
) -> None:
    checkpoint = tiny_checkpoint(kind)
    prompt = codes(checkpoint.lm.n_q, n_prompt)
    conditions = attributes(checkpoint, "dark electro at 120 bpm")
    arguments = {**GREEDY, "max_gen_len": n_frames, "cfg_coef": guidance}
    theirs = checkpoint.lm.generate(prompt, conditions, **arguments)
    assert torch.equal(ours(model_of(kind), prompt, conditions, **arguments), theirs)


@pytest.mark.parametrize("text", ["", "a", "bass and drums, " * 12])
def test_prompts_of_several_lengths_keep_their_own_padding(
    tiny_checkpoint: TinyCheckpoint, model_of: ModelOf, text: str
) -> None:
    checkpoint = tiny_checkpoint("text")
    arguments = {**GREEDY, "max_gen_len": 50, "cfg_coef": 3.0}
    conditions = attributes(checkpoint, text)
    theirs = checkpoint.lm.generate(None, conditions, **arguments)
    assert torch.equal(ours(model_of("text"), None, conditions, **arguments), theirs)


class FedNoise(torch.overrides.TorchFunctionMode):
    """Makes audiocraft's multinomial draw with the engine's noise: through the mass of the sorted probabilities."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.numbers = iter(numbers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.multinomial:
            return func(*args, **(kwargs or {}))
        probs, tokens = args[0].sort(dim=-1, descending=True, stable=True)
        aim = next(self.numbers).double()[:, None] / 2**24
        reached = probs.double().cumsum(-1)
        return tokens.gather(-1, (reached <= aim * reached[:, -1:]).sum(-1, keepdim=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sampling", [{"top_k": 250}, {"top_k": 5}, {"top_k": 0, "temp": 0.7}, {"top_p": 0.8}, {"temp": 1.5}], ids=str
)
def test_sampled_tokens_are_audiocraft_s_when_it_is_fed_the_engine_s_noise(
    tiny_checkpoint: TinyCheckpoint, model_of: ModelOf, kind: Kind, sampling: dict[str, Any]
) -> None:
    checkpoint = tiny_checkpoint(kind)
    conditions = attributes(checkpoint, "fast techno")
    arguments = {**GREEDY, "use_sampling": True, "max_gen_len": 120, "cfg_coef": 3.0, **sampling}
    engine_s = ours(model_of(kind), None, conditions, **arguments)
    # audiocraft's own top-k takes no more than there are.
    arguments["top_k"] = min(arguments["top_k"], CARD)
    with FedNoise(uniform_bits(SEED, 0, 200, checkpoint.lm.n_q)):
        theirs = checkpoint.lm.generate(None, conditions, **arguments)
    assert torch.equal(engine_s, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_forced_logits_are_audiocraft_s(tiny_checkpoint: TinyCheckpoint, model_of: ModelOf, kind: Kind) -> None:
    lm, engine = tiny_checkpoint(kind).lm, model_of(kind).engine
    assert engine is not None
    conditions = attributes(tiny_checkpoint(kind), "slow and deep")
    states = lm.condition_provider(lm.condition_provider.tokenize(conditions))
    frames = codes(lm.n_q, 200)
    assert frames is not None
    sequence = engine.pattern.sequence(frames[0], 200)
    with torch.inference_mode():
        theirs = lm(sequence[None], [], states)[0].transpose(0, 1)
        prefix, cross = lm.fuser(torch.zeros(1, 0, lm.dim), states)
        inputs = torch.cat([prefix[0], engine.transformer.embed(sequence.T)])
        if cross is not None:
            engine.transformer.cache_cross_kv(0, cross)
        hidden = engine.transformer.prefill(inputs[None], 0, 0, 0 if cross is None else cross.shape[1])
        logits = engine.transformer.logits(hidden[0])[prefix.shape[1] :]
    torch.testing.assert_close(logits, theirs, rtol=0, atol=1e-4)  # 3e-6 measured


@pytest.mark.parametrize("kind", KINDS)
def test_int8_moves_the_logits_by_little(tiny_checkpoint: TinyCheckpoint, model_of: ModelOf, kind: Kind) -> None:
    checkpoint = tiny_checkpoint(kind)
    exact_engine = model_of(kind).engine
    quantized = Model(checkpoint, EngineSettings(consume=False, quantize="int8"))
    assert exact_engine is not None
    assert quantized.engine is not None
    hidden = torch.randn(2, checkpoint.lm.dim, generator=torch.Generator().manual_seed(2))
    exact = exact_engine.transformer.logits(hidden)
    error = (quantized.engine.transformer.logits(hidden) - exact).norm() / exact.norm()
    assert error < 0.02
    # Through all layers, with keys and values in int8 too.
    inputs = torch.randn(40, checkpoint.lm.dim, generator=torch.Generator().manual_seed(3))
    made = []
    for transformer in (quantized.engine.transformer, exact_engine.transformer):
        with torch.inference_mode():
            if transformer.layers[0].cross is not None:
                transformer.cache_cross_kv(0, torch.ones(1, 1, checkpoint.lm.dim))
            made.append(transformer.logits(transformer.prefill(inputs[None], 0, 0, 1)[0]))
    assert (made[0] - made[1]).norm() / made[1].norm() < 0.02  # 0.008 measured
    conditions = attributes(checkpoint, "slow")
    tokens = ours(quantized, None, conditions, **{**GREEDY, "max_gen_len": 30, "cfg_coef": 3.0})
    assert tokens.shape == (1, checkpoint.lm.n_q, 30)
    quantized.close()


def test_the_engine_moves_the_weights_out_of_the_lm_by_default(tmp_path: Path) -> None:
    checkpoint = load(str(tiny.write(tmp_path, "text")), "cpu")
    conditions = attributes(checkpoint, "x")
    arguments = {**GREEDY, "max_gen_len": 20, "cfg_coef": 3.0}
    expected = checkpoint.lm.generate(None, conditions, **arguments)
    for settings in (EngineSettings(consume=False), EngineSettings()):
        model = Model(checkpoint, settings)
        assert model.engine is not None
        assert torch.equal(ours(model, None, conditions, **arguments), expected)
        model.close()
    assert not list(checkpoint.lm.transformer.parameters())


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_a_prompt_over_capacity_is_refused_and_grows_no_cache(
    tiny_checkpoint: TinyCheckpoint, model_of: ModelOf, kind: Kind
) -> None:
    conditions = attributes(tiny_checkpoint(kind), "z " * 1500)
    with pytest.raises(InputError, match=r"prompt: it has \d+ tokens.*fewer words"):
        ours(model_of(kind), None, conditions, **{**GREEDY, "max_gen_len": 20, "cfg_coef": 3.0})
    engine = model_of(kind).engine
    assert engine is not None
    assert engine.transformer.cache.cross_capacity <= 512


def test_what_the_engine_cannot_run_is_left_to_audiocraft(
    tiny_checkpoint: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tiny_checkpoint("text")
    assert reason_unsupported(checkpoint.lm) is None
    monkeypatch.setattr(checkpoint.lm.pattern_provider, "flatten_first", 1)
    assert Model(checkpoint, EngineSettings()).engine is None
    assert "its codebook pattern is not the delay pattern. audiocraft's own loop decodes it" in caplog.text
