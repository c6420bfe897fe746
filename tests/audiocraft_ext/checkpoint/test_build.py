"""Models built from what a checkpoint names: codecs and text encoders with all of their weights, and no others."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from audiocraft_ext import checkpoint, upstream
from audiocraft_ext.checkpoint import build
from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS
from audiocraft_ext.checkpoint.read.formats import CheckpointFiles, CodecFile, LanguageModelFile
from audiocraft_ext.conditioning import StemConditioner
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import EncodecModel
from tests.support import tiny, tiny_components
from tests.support.memory import resident_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A melody checkpoint with all that it names beside it."""
    tiny_components.write_parts(tmp_path / "parts")
    tiny_components.write_melody(tmp_path / "melody", tmp_path / "parts")
    shutil.copytree(tmp_path / "parts", tmp_path / "melody", dirs_exist_ok=True)
    return tmp_path / "melody"


class Payload:
    """The call that a malicious pickle makes."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def drop_a_weight(file: Path) -> str:
    """Takes the first of a safetensors file's weights out of it; returns its name."""
    state = load_file(file)
    name = min(state)
    del state[name]
    save_file(state, file, {"format": "pt"})
    return name


def codes() -> Tensor:
    return torch.randint(tiny.CARD, (1, 4, 20), generator=torch.Generator().manual_seed(0))


def rewrite_config(folder: Path, change: dict[str, Any]) -> None:
    package = torch.load(folder / "state_dict.bin")
    config = OmegaConf.merge(OmegaConf.create(package["xp.cfg"]), change)
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, folder / "state_dict.bin")


def test_melody_flags_are_those_of_get_pretrained(folder: Path) -> None:
    """Its config says otherwise, as the trainer left it."""
    loaded = checkpoint.load(str(folder), "cpu")
    melody = loaded.lm.condition_provider.conditioners["self_wav"]
    assert loaded.follows_melody
    assert melody.match_len_on_eval is True
    assert melody._use_masking is False


def test_a_melody_checkpoint_has_the_stem_conditioner(folder: Path) -> None:
    melody = checkpoint.load(str(folder), "cpu").lm.condition_provider.conditioners["self_wav"]
    assert isinstance(melody, StemConditioner)
    assert melody.eval_wavs is None, "the trainer's evaluation clips would be followed instead of the caller's"


def test_a_public_codec_is_transformers_encodec(folder: Path) -> None:
    theirs = EncodecModel.from_pretrained(folder / tiny_components.CODEC).eval()
    loaded = checkpoint.load(str(folder), "cpu")
    assert loaded.codec_name == tiny_components.CODEC
    with torch.inference_mode():
        expected = theirs.decode(codes()[None], [None]).audio_values
        torch.testing.assert_close(loaded.codec.decode(codes(), None), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("file", ["compression_state_dict.bin", "state_dict.bin"])
def test_a_public_codec_may_be_an_audiocraft_export(folder: Path, tmp_path: Path, file: str) -> None:
    exported = tiny.write(tmp_path / "export", "text") / "compression_state_dict.bin"
    place = folder / tiny_components.CODEC
    shutil.rmtree(place)
    place.mkdir()
    shutil.copy(exported, place / file)
    own = checkpoint.load(str(exported.parent), "cpu").codec
    public = checkpoint.load(str(folder), "cpu").codec
    assert torch.equal(public.decode(codes(), None), own.decode(codes(), None))


def test_an_export_that_only_names_another_codec_is_refused(tmp_path: Path) -> None:
    (tmp_path / "someone" / "codec").mkdir(parents=True)
    torch.save({"pretrained": "someone/codec"}, tmp_path / "someone" / "codec" / "compression_state_dict.bin")
    with pytest.raises(CheckpointError, match=r"someone/codec is incomplete: .* needs 'best_state'"):
        build.build_codec("someone/codec", {"someone/codec": tmp_path / "someone" / "codec"}, "cpu")


@pytest.mark.parametrize(
    ("part", "what"), [(tiny_components.CODEC, "codec"), (tiny_components.TEXT_ENCODER, "text encoder")]
)
def test_a_component_with_missing_weights_is_refused(folder: Path, part: str, what: str) -> None:
    lost = drop_a_weight(folder / part / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"The {what} {part} lacks weights: {lost}"):
        checkpoint.load(str(folder), "cpu")


def test_a_component_that_does_not_fit_its_config_is_refused(folder: Path) -> None:
    config = folder / tiny_components.CODEC / "config.json"
    config.write_text(config.read_text().replace('"num_filters": 4', '"num_filters": 8'))
    with pytest.raises(
        CheckpointError, match=r"encodec_32khz's weights do not fit its config: .* is \[\d.* instead of"
    ):
        checkpoint.load(str(folder), "cpu")


def test_a_truncated_component_is_refused(folder: Path) -> None:
    file = folder / tiny_components.CODEC / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="codec facebook/encodec_32khz cannot be loaded"):
        checkpoint.load(str(folder), "cpu")


def test_a_component_s_pickle_runs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / tiny_components.TEXT_ENCODER / "model.safetensors").unlink()
    torch.save({"shared.weight": Payload()}, folder / tiny_components.TEXT_ENCODER / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="text encoder t5-base cannot be loaded"):
        checkpoint.load(str(folder), "cpu")
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "conditioner",
    [
        {"model": "style", "style": {"model_name": "mert"}},
        {"model": "clap", "clap": {"checkpoint": "clap.pt"}},
        {"model": "lut", "lut": {"n_bins": 8, "dim": 8, "tokenizer": "whitespace"}},
    ],
    ids=lambda conditioner: conditioner["model"],
)
def test_an_unsupported_conditioner_is_refused_by_its_kind(folder: Path, conditioner: dict[str, Any]) -> None:
    rewrite_config(folder, {"conditioners": {"self_wav": conditioner}})
    with pytest.raises(CheckpointError, match=f"'self_wav' is of the kind '{conditioner['model']}'.* MusicGen-Style"):
        checkpoint.load(str(folder), "cpu")


def test_a_hugging_face_melody_checkpoint_loads(folder: Path, tmp_path: Path) -> None:
    place = tiny_components.write_huggingface(tmp_path / "huggingface", tiny_components.huggingface("melody"))
    shutil.copytree(folder / DEMUCS, place / DEMUCS)
    assert checkpoint.load(str(place), "cpu").follows_melody


def test_only_the_transformer_s_floats_become_half_precision() -> None:
    module = torch.nn.ModuleDict({"transformer": torch.nn.Linear(2, 3), "out": torch.nn.BatchNorm1d(3)})
    state = {name: value.clone() for name, value in module.state_dict().items()}
    build._load_weights(module, state, "cpu", "model", torch.float16)
    assert {value.dtype for value in module["transformer"].state_dict().values()} == {torch.float16}
    assert module["out"].weight.dtype == torch.float32
    assert module["out"].num_batches_tracked.dtype == torch.int64


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path, "text")
    before = torch.get_rng_state()
    checkpoint.load(str(folder), "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_named_models_and_diffusion_leave_the_global_generator_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    checkpoint.load(str(folder), "cpu").load_diffusion()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_norm.weight": None}, r"config: out_norm\.weight missing\.$"),
        ({"extra": torch.zeros(1)}, r"config: extra unexpected\.$"),
        ({"emb.1.weight": None, "extra": torch.zeros(1)}, r"config: emb\.1\.weight missing; extra unexpected\.$"),
        ({"out_norm.weight": torch.zeros(3)}, r"config: size mismatch for out_norm\.weight: .*\[3\].*\[128\]\)\.$"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_named(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    folder = tiny.write(tmp_path, "text")
    package = torch.load(folder / "state_dict.bin")
    state = {**package["best_state"], **change}
    package["best_state"] = {name: value for name, value in state.items() if value is not None}
    torch.save(package, folder / "state_dict.bin")
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(str(folder), "cpu")


class Allocations(TorchDispatchMode):
    """Records how many numbers the largest new tensor off the meta device has, whichever operation returns it."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not result.is_meta:
            self.largest = max(self.largest, result.numel())
        return result


# Meta's config, and each of its keys that initialise, as audiocraft's builder allows them.
INITIALISATIONS: list[dict[str, Any]] = [
    {"weight_init": "gaussian", "depthwise_init": "current", "zero_bias_init": True},
    {"weight_init": "gaussian", "depthwise_init": "global", "zero_bias_init": True},
    {"weight_init": "uniform", "depthwise_init": None, "zero_bias_init": False},
    {"weight_init": None, "depthwise_init": None, "zero_bias_init": False},
]


@pytest.mark.parametrize("init", INITIALISATIONS, ids=lambda init: f"{init['weight_init']}, {init['depthwise_init']}")
@pytest.mark.parametrize("kind", ["text", "stereo", "melody", "rotary"])
def test_no_weight_is_drawn_or_allocated_before_it_is_loaded(
    kind: tiny.Kind, init: dict[str, Any], tmp_path: Path
) -> None:
    bias = {f"bias_{part}": True for part in ("ff", "attn", "proj")}
    transformer = {**tiny.lm_config(kind)["transformer_lm"], **init, **bias, "dim": 1024, "num_heads": 16}
    config = OmegaConf.create({**tiny.lm_config(kind), "transformer_lm": transformer})
    shutil.copytree(tiny.TEXT_ENCODER, tmp_path / "text_encoder")
    files = CheckpointFiles(tmp_path, LanguageModelFile(config, {}), CodecFile(config, {}))
    before = torch.get_rng_state()
    with upstream.skip_init(), Allocations() as allocations:
        lm = build._assemble(files, "cpu", torch.float32, on_meta=True)
    assert torch.equal(torch.get_rng_state(), before)
    conditioners = set(lm.condition_provider.parameters())
    assert {weight.device.type for weight in lm.parameters() if weight not in conditioners} == {"meta"}
    assert not any(buffer.is_meta for buffer in lm.buffers())
    # No more than what turns a condition, 128 wide, into the transformer's width, or the window of a chroma.
    assert allocations.largest <= max(128 * 1024, tiny.WINDOW_S * tiny.SAMPLE_RATE * 5)


@pytest.mark.parametrize("lstm", [0, 2])
def test_a_codec_is_the_same_without_its_initialisation(lstm: int) -> None:
    config = OmegaConf.create({**tiny.CODEC_CONFIG, "seanet": {**tiny.CODEC_CONFIG["seanet"], "lstm": lstm}})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = upstream.builders.get_compression_model(config).eval()
    before = torch.get_rng_state()
    built = build.build_codec(CodecFile(config, original.state_dict()), {}, "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(built.decode(codes(), None), original.decode(codes(), None))


def test_a_width_beyond_any_memory_is_refused_as_unfit_for_the_weights(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path, "text")
    rewrite_config(folder, {"transformer_lm": {"dim": 2**18}})
    with pytest.raises(CheckpointError, match=r"do not fit its config: size mismatch"):
        checkpoint.load(str(folder), "cpu")


def test_building_does_not_import_torch_s_compiler(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path, "rotary")
    probe = f"""
import sys
from audiocraft_ext import checkpoint
checkpoint.load({str(folder)!r}, "cpu")
assert not {{"torch._dynamo", "sympy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_half_precision_file_is_not_resident_once_it_is_converted(tmp_path: Path) -> None:
    module = torch.nn.ModuleDict({f"{i}": torch.nn.Linear(1024, 1024, bias=False, device="meta") for i in range(32)})
    halves = {name: torch.full(weight.shape, 0.5).half() for name, weight in module.state_dict().items()}
    torch.save(halves, tmp_path / "state.bin")
    state = torch.load(tmp_path / "state.bin", mmap=True)
    kept = state["0.weight"]
    before = resident_bytes()
    build._load_weights(module, state, "cpu", "model")
    assert not state, "the half-precision weights would be kept, too"
    # 128 MiB in single precision; in half precision there would be 64 more.
    assert resident_bytes() - before < 160 * 2**20
    assert kept.eq(0.5).all(), "another access reads the file again"
