"""Writes what training left in a work folder as an audiocraft export: weights/demo. Knows nothing of training.

python -m weights.demo.train.export
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from weights.demo.train.codec import CODEC_CONFIG
from weights.demo.train.lm_config import LM_CONFIG

AUDIOCRAFT_VERSION = "1.3.0"


def package(state: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """audiocraft's export format; weights in fp16, which loading turns back into the model's own type."""
    best_state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    text = OmegaConf.to_yaml(OmegaConf.create({**config, "device": "cpu", "dtype": "float16"}))
    return {"best_state": best_state, "xp.cfg": text, "version": AUDIOCRAFT_VERSION, "exported": True}


def export(work: Path, out: Path) -> None:
    """codec.pt, lm.pt and text_encoder/ of `work` → the three parts of a checkpoint in `out`."""
    codec = torch.load(work / "codec.pt", weights_only=True)["codec"]
    torch.save(package(codec, CODEC_CONFIG), out / "compression_state_dict.bin")
    lm = torch.load(work / "lm.pt", weights_only=True)["lm"]
    torch.save(package(lm, LM_CONFIG), out / "state_dict.bin")
    shutil.copytree(work / "text_encoder", out / "text_encoder", dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--out", type=Path, default=Path("weights/demo"))
    args = parser.parse_args()
    export(args.work, args.out)


if __name__ == "__main__":
    main()
