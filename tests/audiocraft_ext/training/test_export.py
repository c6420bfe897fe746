"""The server's loader plays what a training wrote; PEFT and transformers compute the same from the same files."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.checkpoint.read.formats import hash_of
from audiocraft_ext.training import export, lora
from audiocraft_ext.training.batches import collate
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.training.loss import backward, mean_loss
from audiocraft_ext.upstream import LMModel
from tests.support import tiny, tiny_components
from tests.support.training import examples, train

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tiny.Kind], Path]:
    """A function from a kind to a base in transformers' form."""

    def write(kind: tiny.Kind) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        return tiny_components.write_huggingface(folder, tiny_components.huggingface(kind))

    return write


@contextmanager
def strong_factors(lm: LMModel) -> Iterator[State]:
    """An LM with factors that change its logits as much as a long training."""
    with lora.adapt(lm, 4, 0) as factors:
        generator = torch.Generator().manual_seed(0)
        for factor in factors.values():
            factor.data.copy_(torch.randn(factor.shape, generator=generator) * 0.2)
        yield {name: factor.detach() for name, factor in factors.items()}


@torch.no_grad()
def logits(lm: LMModel) -> Tensor:
    """Of one clip with a caption, [K, T, V], 0 where there is no prediction."""
    [clip] = examples(lm, 1)
    conditions = Conditions(lm, None)
    embedded = conditions.embed(conditions.prepare([clip], None))
    return lm.eval().compute_predictions(clip.codes[None].long(), [], embedded).logits[0].nan_to_num()


def write_strong_adapter(base: Path | str, folder: Path) -> tuple[Tensor, Tensor]:
    """An adapter of a base; the logits of the base, and of the live model with the factors."""
    lm = checkpoint.load(str(base), "cpu").lm
    before = logits(lm)
    with strong_factors(lm) as factors:
        live = logits(lm)
        export.write_adapter(factors, str(base), hash_of(EMBEDDED if base == "embedded" else Path(base)), 4, folder)
    return before, live


@pytest.mark.parametrize("kind", ["text", "melody", "stereo", "embedded"])
def test_the_loader_plays_an_adapter_of_an_audiocraft_base(kind: Any, tmp_path: Path) -> None:
    base = kind if kind == "embedded" else tiny.write(tmp_path / "base", kind)
    before, live = write_strong_adapter(base, tmp_path / "adapter")
    loaded = logits(checkpoint.load(str(tmp_path / "adapter"), "cpu").lm)
    assert (before - live).abs().max() > 0.1
    torch.testing.assert_close(loaded, live, rtol=0, atol=1e-5)  # largest measured: 4e-6


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_peft_and_transformers_play_an_adapter_of_their_base(
    kind: tiny.Kind, huggingface: Callable[[tiny.Kind], Path], tmp_path: Path
) -> None:
    import transformers

    base = huggingface(kind)
    for folder in (base, tmp_path / "adapter"):
        tiny_components.write_demucs(folder)
    before, live = write_strong_adapter(base, tmp_path / "adapter")
    lm = checkpoint.load(str(tmp_path / "adapter"), "cpu").lm
    assert (before - live).abs().max() > 0.1
    torch.testing.assert_close(logits(lm), live, rtol=0, atol=1e-5)
    name = "MusicgenMelody" if kind == "melody" else "Musicgen"
    model = getattr(transformers, f"{name}ForConditionalGeneration").from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    torch.testing.assert_close(their_logits(theirs, lm, kind).detach(), live, rtol=0, atol=1e-5)


def their_logits(model: Any, lm: LMModel, kind: tiny.Kind) -> Tensor:
    """transformers' logits of the same clip, by the same encoded conditions, put back into audiocraft's order."""
    [clip] = examples(lm, 1)
    conditions = Conditions(lm, None)
    with torch.no_grad():
        prefix, cross = lm.fuser(torch.zeros(1, 0, lm.dim), conditions.embed(conditions.prepare([clip], None)))
    pattern = lm.pattern_provider.get_pattern(clip.codes.shape[-1])
    sequence, *_ = pattern.build_pattern_sequence(clip.codes[None].long(), lm.special_token_id, True)
    encoded = {"encoder_hidden_states": prefix if kind == "melody" else cross}
    out = model.get_base_model().decoder(input_ids=sequence.flatten(0, 1), **encoded).logits
    out = out.reshape(1, lm.n_q, -1, out.shape[-1])[:, :, -sequence.shape[-1] :]
    aligned, *_ = pattern.revert_pattern_logits(out.permute(0, 3, 1, 2), 0.0, keep_only_valid_steps=True)
    return aligned[0].permute(1, 2, 0)


def test_peft_computes_our_gradients(huggingface: Callable[[tiny.Kind], Path], tmp_path: Path) -> None:
    import transformers

    base = huggingface("text")
    write_strong_adapter(base, tmp_path / "adapter")
    lm = checkpoint.load(str(base), "cpu").lm
    [clip], conditions = examples(lm, 1), Conditions(lm, None)
    with strong_factors(lm):
        factors = {
            f"{path}.{name}": p for path, m in lm.named_modules() for name, p in m.named_parameters(recurse=False)
        }
        backward(lm.eval(), conditions, collate([clip], conditions, None), [0], 1)
        ours = {name: p.grad for name, p in factors.items() if p.grad is not None}
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "adapter", is_trainable=True).eval()
    predicted = their_logits(theirs, lm, "text")
    mask = predicted.detach().any(-1)
    nats = [nn.functional.cross_entropy(predicted[k][mask[k]], clip.codes[k].long()[mask[k]]) for k in range(4)]
    torch.stack(nats).mean().backward()
    their_norms = sorted(float(p.grad.norm()) for p in theirs.parameters() if p.grad is not None)
    our_norms = sorted(float(block.norm()) for gradient in ours.values() for block in gradient)
    assert our_norms == pytest.approx(their_norms, rel=1e-4)


def test_an_adapter_names_its_base_and_knows_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tiny.write(tmp_path / "base", "text")
    write_strong_adapter(base, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["auto_mapping"]["base_model_sha256"] == hash_of(base)
    with caplog.at_level(logging.WARNING):
        checkpoint.load(str(tmp_path / "adapter"), "cpu")
        assert "another base" not in caplog.text
        tiny.write(base, "text", seed=1)
        checkpoint.load(str(tmp_path / "adapter"), "cpu")
        assert "trained on another base than" in caplog.text


def test_an_adapter_is_trained_on_like_a_base(tmp_path: Path) -> None:
    base = tiny.write(tmp_path / "base", "text")
    write_strong_adapter(base, tmp_path / "first")
    _, live = write_strong_adapter(tmp_path / "first", tmp_path / "second")
    torch.testing.assert_close(logits(checkpoint.load(str(tmp_path / "second"), "cpu").lm), live, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["audiocraft", "transformers"])
def test_the_loader_plays_a_full_fine_tune(form: str, huggingface: Callable[[tiny.Kind], Path], tmp_path: Path) -> None:
    base = huggingface("text") if form == "transformers" else tiny.write(tmp_path / "base", "melody")
    lm = checkpoint.load(str(base), "cpu").lm
    before = logits(lm)
    outcome = train(lm, tmp_path / "state", method="full", lr=1e-3)
    live = logits(lm)
    assert (before - live).abs().max() > 0.05
    export.write_full(outcome.state, str(base), tmp_path / "full")
    loaded = checkpoint.load(str(tmp_path / "full"), "cpu")
    torch.testing.assert_close(logits(loaded.lm), live, rtol=0, atol=5e-3)  # fp16
    with torch.no_grad():
        codes = loaded.codec.encode(torch.zeros(1, 1, 6400))[0]
        assert torch.equal(codes, checkpoint.load(str(base), "cpu").codec.encode(torch.zeros(1, 1, 6400))[0])


def test_a_training_s_adapter_has_the_loss_that_it_reported(
    tiny_checkpoint: Callable[[tiny.Kind], Checkpoint], tmp_path: Path
) -> None:
    base = tiny.write(tmp_path / "base", "text")
    outcome = train(checkpoint.load(str(base), "cpu").lm, tmp_path / "state", n_steps=12)
    export.write_adapter(outcome.state, str(base), hash_of(base), 2, tmp_path / "adapter")
    lm = checkpoint.load(str(tmp_path / "adapter"), "cpu").lm
    best = min(report.held_out for report in outcome.reports if report.held_out is not None and report.step)
    assert mean_loss(lm, Conditions(lm, None), examples(lm, 2, seed=1), 3) == pytest.approx(best, abs=1e-5)
