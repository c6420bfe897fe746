"""An adapter (LoRA or a kin of it) → its base's weights with the adapter merged, by PEFT, which defines the format.

PEFT finds the modules that an adapter changes by their names: those of transformers' MusicGen, or audiocraft's, with
each attention's ``in_proj_weight`` as ``q_proj``, ``k_proj`` and ``v_proj``. PEFT is imported when an adapter is met.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiocraft_ext import memory
from audiocraft_ext.checkpoint.locate.source import read_json
from audiocraft_ext.checkpoint.read import files
from audiocraft_ext.checkpoint.read.diagnosis import first_few
from audiocraft_ext.checkpoint.read.huggingface import join_thirds
from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.errors import CheckpointError

CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_DECODERS = ("base_model.model.model.", "base_model.model.lm_heads.")  # the names in an adapter of the decoder alone
_EMBEDDING = re.compile(r"emb\.\d+|.*\.embed_tokens|.*\.shared|.*\.relative_attention_bias")


def merge(base: nn.Module, folder: Path, strength: float = 1.0) -> None:
    """Merge the adapter in ``folder`` into ``base``, in fp32 on the CPU; one of the decoder alone into its ``decoder``.

    At another ``strength`` each weight moves by so much of the way from the base's, whatever the adapter's kind.
    Raises ``CheckpointError`` if a weight of the adapter has no place in the base, or one is missing.
    """
    import peft

    weights = _read_weights(folder)
    if not all(value.isfinite().all() for value in weights.values()):
        raise CheckpointError(f"The adapter in {folder.name} has weights that are not finite: its training failed.")
    if read_json(folder / CONFIG).get("megatron_config"):  # PEFT would import a module that the config names
        raise CheckpointError("The adapter is for Megatron's layers (megatron_config), which MusicGen does not have.")
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            raise CheckpointError(f"The adapter is of the type {config.peft_type.value}, which no weights can hold.")
        config.task_type, config.inference_mode = None, True  # a task would add methods that generate text
        originals = _detach_from_files(base)
        is_decoders = any(name.startswith(_DECODERS) for name in weights)
        with torch.random.fork_rng(devices=[]):  # PiSSA's fast decomposition is random
            torch.manual_seed(0)
            model = peft.PeftModel(base.get_submodule("decoder") if is_decoders else base, config)
            report = model.load_adapter(str(folder), "default", torch_device="cpu")
        everything = dict(model.named_parameters(remove_duplicate=False))
        loaded = {id(value) for name, value in everything.items() if name not in report.missing_keys}
        missing = [name for name in report.missing_keys if id(everything.get(name)) not in loaded]
        problems = {"lacks": missing, "changes what its base does not have,": report.unexpected_keys}
        for problem, keys in problems.items():
            if keys:
                raise CheckpointError(f"The adapter {problem} {first_few(sorted(keys))}: name its own base.")
        model.merge_and_unload()
        if strength != 1:
            for name, parameter in base.named_parameters():
                parameter.data = originals[name].float().lerp(parameter.data.float(), strength)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # it validates little: a wrong value ends in an error of any kind
        problem = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"The adapter in {folder.name} cannot be merged into its base: {problem:.400}") from error


def merge_state(state: State, folder: Path, strength: float = 1.0) -> State:
    """A language model's weights under audiocraft's names, with the adapter in ``folder`` merged; in fp32."""
    if any(name.startswith("base_model.model.decoder.") for name in _read_weights(folder)):
        raise CheckpointError(
            f"The adapter in {folder.name} is by transformers' names, and its base in audiocraft's form: name a base "
            "in Hugging Face's form, with a config.json and a model.safetensors."
        )
    modules = _as_modules(state)
    merge(modules, folder, strength)
    merged = dict(modules.state_dict())
    join_thirds(merged)
    return merged


def _detach_from_files(base: nn.Module) -> State:
    """Copy each weight out of its file's mapping, which PEFT would write to, and which frees nothing until its end.

    The weights in the mapping, by name.
    """
    mappings, mapped = memory.clean_mappings(), dict[str, Tensor]()
    for name, parameter in base.requires_grad_(False).named_parameters():
        mapped[name], parameter.data = parameter.data, parameter.data.clone()
        memory.drop_pages(mapped[name], mappings)
    return mapped


def _read_weights(folder: Path) -> State:
    """The adapter's own weights, from the first of PEFT's files that exists: without one, PEFT would ask the hub."""
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"The adapter in {folder.name} lacks its weights, {' or '.join(_FILES)}.")
    return files.load(file)


def _as_modules(state: State) -> nn.Module:
    """A state dict as modules of the kinds that PEFT adapts: linear layers, embeddings and norms."""
    separate: dict[str, Tensor] = {}
    for name, value in state.items():
        attention, is_joined, kind = name.partition("in_proj_")
        thirds = value.chunk(3) if is_joined else ()
        separate |= {f"{attention}{third}_proj.{kind}": part for third, part in zip("qkv", thirds, strict=False)}
        if not is_joined:
            separate[name] = value
    root = nn.Module()
    for name, value in separate.items():
        path, _, leaf = name.rpartition(".")
        module = root
        for depth, part in enumerate(path.split(".")):
            if not hasattr(module, part):
                is_last = depth == path.count(".")
                module.add_module(part, _module(path, separate) if is_last else nn.Module())
            module = module.get_submodule(part)
        if value.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(value.float(), requires_grad=False))
        else:
            module.register_buffer(leaf, value)
    return root


def _module(name: str, state: State) -> nn.Module:
    """An empty module of the kind that has the weights under ``name``."""
    weight = state.get(f"{name}.weight")
    if weight is None or weight.dim() > 2:
        return nn.Module()
    options: dict[str, Any] = {"device": "meta"}
    if weight.dim() == 1:
        return nn.LayerNorm(len(weight), bias=f"{name}.bias" in state, **options)
    if _EMBEDDING.fullmatch(name):
        return nn.Embedding(*weight.shape, **options)
    return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in state, **options)
