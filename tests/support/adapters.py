"""Adapters of the embedded checkpoint and its kin, by audiocraft's names, written without PEFT."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from audiocraft_ext.checkpoint.read import adapter, formats


def write_by_our_names(folder: Path, base: Path, seed: int = 0) -> dict[str, Tensor]:
    """An adapter of audiocraft's weights, written without PEFT; returns the products B A by the module's name."""
    width = formats.read(base).lm.state["out_norm.weight"].shape[0]
    sizes = {"transformer.layers.0.self_attn.v_proj": (width, width), "emb.1": (513, width), "linears.0": (512, width)}
    weights: dict[str, Tensor] = {}
    products: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for name, (n_out, n_in) in sizes.items():
        up, down = (0.1 * torch.randn(size, generator=generator) for size in ((n_out, 4), (4, n_in)))
        products[name] = up @ down
        if name.startswith("emb"):  # an embedding is adapted as its transpose
            pair = {"lora_embedding_A": up.T.contiguous(), "lora_embedding_B": down.T.contiguous()}
        else:
            pair = {"lora_A.weight": down, "lora_B.weight": up}
        weights |= {f"base_model.model.{name}.{key}": value for key, value in pair.items()}
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(sizes)}
    (folder / adapter.CONFIG).write_text(json.dumps({"base_model_name_or_path": str(base), **settings}))
    save_file(weights, folder / "adapter_model.safetensors")
    return products
