"""Adapters of every kind that PEFT trains, made by PEFT and compared with what PEFT itself makes of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import convert
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.read import adapter, formats, huggingface
from audiocraft_ext.errors import CheckpointError
from tests.support import adapters, reference, tiny, tiny_components
from tests.support.music import greedy
from tests.support.reference import their_logits

DIM = 48
LINEAR = ["q_proj", "v_proj", "out_proj", "fc1", "enc_to_dec_proj", "lm_heads.2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """transformers' MusicGen with small random weights."""
    model = tiny_components.huggingface("text", DIM)
    return tiny_components.write_huggingface(tmp_path_factory.mktemp("base"), model)


@pytest.fixture(scope="module")
def base_logits(base: Path) -> Tensor:
    return our_logits(base)


def transformers_model(folder: Path) -> Any:
    return MusicgenForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def write_adapter(folder: Path, base: Path, config: peft.PeftConfig) -> Path:
    """As after training: PEFT's own initialisation, then other values in all that it trains."""
    model = peft.get_peft_model(transformers_model(base), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "audio_encoder" not in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder))
    return folder


def peft_model(base: Path, folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(transformers_model(base), folder).merge_and_unload()


def our_logits(folder: Path) -> Tensor:
    return reference.our_logits(checkpoint.load(str(folder), "cpu"))


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR, **settings})


KINDS: dict[str, peft.PeftConfig] = {
    "LoRA": lora(),
    "LoRA on embeddings": lora(target_modules=["embed_tokens.1", "k_proj", "fc2"]),
    "LoRA on all linear layers": lora(target_modules="all-linear"),
    "LoRA by a regular expression": lora(target_modules=r".*decoder\.layers\.1\..*(q_proj|fc1)"),
    "LoRA on T5": lora(target_modules=r"text_encoder.*\.(q|v|wo)"),
    "rank-stabilised": lora(use_rslora=True),
    "alpha by a regular expression": lora(alpha_pattern={r".*layers\.1\.fc1": 32, "fc1": 2}),
    "rank by a regular expression": lora(rank_pattern={r".*layers\.[01]\.self_attn\.q_proj": 2, "q_proj": 8}),
    "a task for text": lora(task_type="CAUSAL_LM"),
    "PiSSA": lora(init_lora_weights="pissa"),
    "OLoRA": lora(init_lora_weights="olora"),
    "DoRA": lora(use_dora=True),
    "biases of all layers": lora(bias="all"),
    "biases of adapted layers": lora(bias="lora_only", target_modules=["enc_to_dec_proj"]),
    "whole modules": lora(modules_to_save=["decoder.layer_norm", "lm_heads.1"]),
    "trainable tokens": lora(trainable_token_indices={"embed_tokens.0": [1, 5]}),
    "layers by number": lora(layers_to_transform=[1], layers_pattern="layers", target_modules=["fc1", "q_proj"]),
    "LoHa": peft.LoHaConfig(r=4, alpha=8, target_modules=LINEAR),
    "LoKr": peft.LoKrConfig(r=4, alpha=8, target_modules=LINEAR),
    "IA3": peft.IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"]),
    "OFT": peft.OFTConfig(oft_block_size=4, target_modules=["q_proj", "fc1"]),
    "AdaLoRA": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj", "fc1"]),
    "VeRA": peft.VeraConfig(r=4, target_modules=["self_attn.q_proj", "self_attn.v_proj"]),
    "VB-LoRA": peft.VBLoRAConfig(r=4, num_vectors=16, vector_length=16, target_modules=["q_proj", "fc1"]),
    "LayerNorm tuning": peft.LNTuningConfig(target_modules=["final_layer_norm"]),
}


# Kinds that share their code in PEFT with another one here.
SLOW = ("rank-stabilised", "LoKr", "OFT", "AdaLoRA", "VeRA", "layers by number", "LoRA by a regular expression")


# The largest differences measured: 2e-7 between weights of up to 3, 5e-7 between logits of up to 4.
@pytest.mark.parametrize("kind", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in KINDS])
def test_an_adapter_is_merged_as_peft_merges_it(base: Path, base_logits: Tensor, tmp_path: Path, kind: str) -> None:
    folder = write_adapter(tmp_path / "adapter", base, KINDS[kind])
    theirs = peft_model(base, folder)
    expected_logits = their_logits(theirs, base)
    files = formats.read(folder)
    expected = huggingface.take_language_model(theirs)
    assert files.lm.state.keys() == expected.keys()
    for name, weight in files.lm.state.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
    logits = our_logits(folder)
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-5)
    assert (logits - base_logits).abs().max() > 1e-4


@torch.inference_mode()
def test_greedy_tokens_are_those_of_peft_s_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_adapter(tmp_path / "adapter", base, lora(init_lora_weights="pissa", use_rslora=True))
    model = peft_model(base, folder)
    theirs = reference.their_tokens(model, base, monkeypatch)
    assert theirs.shape[-1] > 50
    assert torch.equal(reference.our_tokens(checkpoint.load(str(folder), "cpu"), theirs.shape[-1]), theirs)


@pytest.mark.parametrize("targets", [["q_proj", "lm_heads.2", "embed_tokens.1"], ["lm_heads.2"]])
def test_an_adapter_of_the_decoder_alone_is_merged(
    base: Path, base_logits: Tensor, tmp_path: Path, targets: list[str]
) -> None:
    model = transformers_model(base)
    config = lora(target_modules=targets, init_lora_weights=False)
    peft.get_peft_model(model.decoder, config).save_pretrained(str(tmp_path / "adapter"))
    folder = name_base(tmp_path / "adapter", base)
    model = transformers_model(base)
    model.decoder = peft.PeftModel.from_pretrained(model.decoder, folder).merge_and_unload()
    logits = our_logits(folder)
    torch.testing.assert_close(logits, their_logits(model, base), rtol=0, atol=1e-5)
    assert (logits - base_logits).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["melody", "stereo"])
def test_adapters_of_every_kind_of_model_are_merged(tmp_path: Path, kind: tiny.Kind) -> None:
    base = tiny_components.write_huggingface(tmp_path / "base", tiny_components.huggingface(kind, DIM))
    load = transformers.MusicgenMelodyForConditionalGeneration if kind == "melody" else MusicgenForConditionalGeneration
    targets = ["v_proj", "fc2", "enc_to_dec_proj", "audio_enc_to_dec_proj", "lm_heads.3"]
    model = peft.get_peft_model(load.from_pretrained(base), lora(target_modules=targets, init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "adapter"))
    expected = huggingface.take_language_model(model.merge_and_unload())  # type: ignore[arg-type]
    merged = formats.read(name_base(tmp_path / "adapter", base)).lm.state
    assert merged.keys() == expected.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)


def test_a_random_decomposition_is_the_same_at_every_start(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", base, lora(init_lora_weights="pissa_niter_4"))
    first, again = (formats.read(folder).lm.state for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_peft_is_imported_for_an_adapter_alone(base: Path) -> None:
    code = f"""
import sys
from audiocraft_ext import checkpoint
checkpoint.load({str(base)!r}, "cpu")
assert "peft" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------------------------- by audiocraft's own names

OURS = [f"{attention}.{name}" for attention in ("self_attn", "cross_attention") for name in ("q_proj", "v_proj")]
OURS += ["out_proj", "linear1", "linears.0", "emb.2", "description.output_proj"]


def test_an_adapter_by_audiocraft_s_names_changes_the_embedded_model(tmp_path: Path) -> None:
    products = adapters.write_by_our_names(tmp_path / "adapter", source.EMBEDDED)
    before, after = (formats.read(path).lm.state for path in (source.EMBEDDED, tmp_path / "adapter"))
    for name, weight in before.items():
        change = products.get(name.removesuffix(".weight"))
        if name == "transformer.layers.0.self_attn.in_proj_weight":
            value = products["transformer.layers.0.self_attn.v_proj"]
            change = torch.cat([torch.zeros(2 * value.shape[0], value.shape[1]), value])
        expected = weight.float() if change is None else weight.float() + 2 * change
        torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-5)
    assert before.keys() == after.keys()
    assert not torch.equal(greedy(tmp_path / "adapter"), greedy(source.EMBEDDED))


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_every_module_of_audiocraft_s_can_be_adapted(tmp_path: Path, kind: tiny.Kind) -> None:
    base = tiny.write(tmp_path / "base", kind)
    state = formats.read(base).lm.state
    modules = adapter._as_modules(state)
    model = peft.get_peft_model(modules, peft.LoraConfig(target_modules=OURS, init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "adapter"))
    settings = json.loads((tmp_path / "adapter" / adapter.CONFIG).read_text())
    (tmp_path / "adapter" / adapter.CONFIG).write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    merged = formats.read(tmp_path / "adapter").lm.state
    adapted = {name for name, weight in state.items() if not torch.equal(weight, merged[name])}
    attentions = ("self_attn.", "cross_attention.") if kind == "text" else ("self_attn.",)
    expected = {f"transformer.layers.{i}.{name}" for i in (0, 1) for name in ("linear1.weight",)}
    expected |= {
        f"transformer.layers.{i}.{name}{end}"
        for i in (0, 1)
        for name in attentions
        for end in ("in_proj_weight", "out_proj.weight")
    }
    expected |= {"linears.0.weight", "emb.2.weight", "condition_provider.conditioners.description.output_proj.weight"}
    assert adapted == expected
    thirds = merged["transformer.layers.0.self_attn.in_proj_weight"].chunk(3)
    assert torch.equal(thirds[1], state["transformer.layers.0.self_attn.in_proj_weight"].chunk(3)[1])  # k


def test_a_strength_moves_each_weight_by_a_share(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "dora", base, lora(use_dora=True))
    adapters.write_by_our_names(tmp_path / "ours", source.EMBEDDED)
    for path, folder in ((base, tmp_path / "dora"), (source.EMBEDDED, tmp_path / "ours")):
        none, half, whole, once = (formats.read(path, [(folder, share)]).lm.state for share in (0.0, 0.5, 1.0, 1.0))
        before = formats.read(path).lm.state
        changed = {name for name, weight in before.items() if not torch.equal(weight.float(), whole[name])}
        assert len(changed) > 2
        for name, weight in before.items():
            assert torch.equal(none[name], weight.float()), name
            torch.testing.assert_close(half[name], weight.float().lerp(whole[name], 0.5), rtol=0, atol=1e-6)
            assert torch.equal(once[name], whole[name])


def test_a_merged_adapter_converts_into_one_checkpoint(tmp_path: Path) -> None:
    adapters.write_by_our_names(tmp_path / "adapter", source.EMBEDDED)
    convert.convert(str(tmp_path / "adapter"), tmp_path / "merged")
    assert torch.equal(greedy(tmp_path / "merged"), greedy(tmp_path / "adapter"))


def test_adapters_of_adapters_are_merged_in_order(base: Path, tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first", base, lora())
    second = write_adapter(tmp_path / "second", base, lora(use_dora=True))
    name_base(second, first)
    model = peft.PeftModel.from_pretrained(peft_model(base, first), second).merge_and_unload()
    torch.testing.assert_close(our_logits(second), their_logits(model, base), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- refusals


def name_base(folder: Path, base: Any) -> Path:
    settings = json.loads((folder / adapter.CONFIG).read_text())
    (folder / adapter.CONFIG).write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A plain LoRA adapter of ``base``."""
    return write_adapter(tmp_path / "adapter", base, lora())


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(str(folder), "cpu")
    return str(caught.value)


def change_weights(folder: Path, change: Any) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(dict(filter(None, (change(*item) for item in load_file(file).items()))), file)


CHANGES: dict[str, tuple[Any, str]] = {
    "one factor missing": (
        lambda name, value: None if "lm_heads" in name and "lora_B" in name else (name, value),
        "The adapter lacks base_model.model.decoder.lm_heads.2.lora_B.default.weight: name its own base.",
    ),
    "another model's names": (
        lambda name, value: (name.replace("lm_heads.2", "lm_head"), value),
        "The adapter lacks base_model.model.decoder.lm_heads.2.lora_A",
    ),
    "another size": (
        lambda name, value: (name, value[:, 1:].contiguous() if "fc1.lora_A" in name else value),
        "The adapter in adapter cannot be merged into its base: Error(s) in loading",
    ),
    "NaN": (lambda name, value: (name, value * float("nan")), "weights that are not finite: its training failed"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_an_adapter_that_does_not_fit_is_refused(folder: Path, change: Any, message: str) -> None:
    change_weights(folder, change)
    assert message in refusal(folder)


def test_a_weight_without_a_place_is_refused(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {**weights, "base_model.model.extra.lora_A.weight": torch.ones(4, 4)}, folder / "adapter_model.safetensors"
    )
    assert "changes what its base does not have, base_model.model.extra.lora_A" in refusal(folder)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "prompts": ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}, "of the type PROMPT_TUNING, which no weights"),
    "no alpha": ({"lora_alpha": None}, "cannot be merged into its base: unsupported operand"),
    "no such type": ({"peft_type": "NEW"}, "cannot be merged into its base: "),
    "no such module": ({"target_modules": ["attn.qkv"]}, "Target modules {'attn.qkv'} not found in the base model"),
    "a module to import": ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config"),
    "CorDA": ({"init_lora_weights": "corda"}, "`eigens` attribute not found"),
}


@pytest.mark.parametrize(("settings", "message"), SETTINGS.values(), ids=SETTINGS)
def test_an_adapter_that_cannot_be_merged_is_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    written = json.loads((folder / adapter.CONFIG).read_text())
    (folder / adapter.CONFIG).write_text(json.dumps({**written, **settings}))
    assert message in refusal(folder)
    assert "antigravity" not in sys.modules


def test_an_adapter_without_weights_asks_no_hub(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    assert "lacks its weights, adapter_model.safetensors or adapter_model.bin" in refusal(folder)


def test_an_adapter_may_be_a_torch_file_unless_damaged(folder: Path) -> None:
    expected = formats.read(folder).lm.state
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    for name, weight in formats.read(folder).lm.state.items():
        assert torch.equal(weight, expected[name])
    with (folder / "adapter_model.bin").open("r+b") as file:
        file.truncate(1000)
    assert refusal(folder).startswith("adapter_model.bin is damaged")


def test_an_adapter_s_base_is_found_by_its_name_in_weights(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "WEIGHTS_FOLDER", tmp_path / "weights")
    shutil.copytree(base, tmp_path / "weights" / "facebook" / "musicgen-small")
    name_base(folder, "facebook/musicgen-small")
    assert checkpoint.load(str(folder), "cpu").lm.num_codebooks == 4


def test_an_adapter_s_base_has_the_revision_that_it_names(
    base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = json.loads((name_base(folder, "someone/musicgen") / adapter.CONFIG).read_text())
    (folder / adapter.CONFIG).write_text(json.dumps({**settings, "revision": "v2"}))
    asked: list[str] = []

    def locate(weights: str, is_base: bool) -> Path:
        asked.append(weights)
        return base

    monkeypatch.setattr(source, "locate", locate)
    formats.read(folder)
    assert asked == ["someone/musicgen@v2"]


def test_an_adapter_without_its_base_is_refused(folder: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for base, problem in ((nowhere, f"There is no checkpoint at '{nowhere}'"), ("", "It is not named.")):
        message = refusal(name_base(folder, base))
        assert message.startswith(f"The adapter's base model cannot be located. {problem}")
        assert message.endswith("Set base_model_name_or_path in adapter_config.json.")
    assert refusal(name_base(folder, folder)) == (
        "The adapter in adapter names itself as its base (base_model_name_or_path)."
    )


def test_an_adapter_of_another_kind_of_model_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    assert "has no MusicGen language model" in refusal(name_base(folder, tmp_path / "llama"))


def test_an_adapter_by_transformers_names_needs_such_a_base(folder: Path) -> None:
    assert "by transformers' names" in refusal(name_base(folder, source.EMBEDDED))
