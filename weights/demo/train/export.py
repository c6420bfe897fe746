"""Write the trained weights in a work folder as a checkpoint, weights/demo. Knows nothing of training.

python -m weights.demo.train.export
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from audiocraft_ext.checkpoint.convert import LM_FILE, is_matrix, to_dtype
from audiocraft_ext.checkpoint.read import tensors
from weights.demo.train.codec import CODEC_CONFIG
from weights.demo.train.lm_config import LM_CONFIG

AUDIOCRAFT_VERSION = "1.3.0"


def text_of(config: dict[str, Any]) -> str:
    """A solver config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create({**config, "device": "cpu", "dtype": "float16"}))


def export(work: Path, out: Path) -> None:
    """codec.pt, lm.pt and text_encoder/ of `work` → the three parts of a checkpoint in `out`.

    The codec is an audiocraft export; the LM is in our own form, in int8: it is the part that this repository pays for.
    """
    codec = torch.load(work / "codec.pt", weights_only=True)["codec"]
    package = {
        "best_state": to_dtype(codec, torch.float16),
        "xp.cfg": text_of(CODEC_CONFIG),
        "version": AUDIOCRAFT_VERSION,
    }
    torch.save({**package, "exported": True}, out / "compression_state_dict.bin")
    lm = torch.load(work / "lm.pt", weights_only=True)["lm"]
    tensors.write(out / LM_FILE, to_dtype(lm, torch.float16), text_of(LM_CONFIG), is_matrix)
    (out / LM_FILE).chmod(0o644)
    shutil.copytree(work / "text_encoder", out / "text_encoder", dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--out", type=Path, default=Path("weights/demo"))
    args = parser.parse_args()
    export(args.work, args.out)


if __name__ == "__main__":
    main()
