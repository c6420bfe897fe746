"""Fine-tunes by other programs' own trainers, as programs: ``python -m tests.support.foreign_trainers WHO BASE OUT``.

``peft``: transformers' Trainer with PEFT, on a base in Hugging Face's form. ``solver``: audiocraft's
``MusicGenSolver``, on the config of a tiny checkpoint in audiocraft's form. Both learn that every token is 7.
"""

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

TOKEN, N_FRAMES = 7, 24


def train_by_peft(base: Path, out: Path) -> None:
    """As dreamboothing does: q, k, v, output and feed-forward, labels in the delay pattern, padding ignored."""
    import peft
    import transformers
    from torch.utils.data import Dataset

    model: Any = transformers.MusicgenForConditionalGeneration.from_pretrained(base)
    decoder = model.config.decoder
    decoder.decoder_start_token_id = decoder.bos_token_id
    targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", *(f"lm_heads.{i}" for i in range(4))]
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    labels = torch.full((N_FRAMES + 3, 4), decoder.pad_token_id)
    for k in range(4):
        labels[k : k + N_FRAMES, k] = TOKEN
    words = transformers.AutoTokenizer.from_pretrained(base)("dark drums")

    class Clips(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**words, "labels": labels}

    settings = transformers.TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=40,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    transformers.Trainer(model, settings, train_dataset=Clips()).train()
    model.save_pretrained(out)


def _stand_in(name: str) -> None:
    """An empty module in place of a package that the solver imports and this training does not use."""

    def attribute(missing: str) -> type:
        if missing.startswith("__"):
            raise AttributeError(missing)
        return type(missing, (), {})

    module = ModuleType(name)
    module.__spec__, module.__path__ = ModuleSpec(name, None), []
    module.__dict__["__getattr__"] = attribute
    sys.modules[name] = module


_SOLVER_SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "autocast": False,
    "autocast_dtype": "bfloat16",
    "logging": {"log_updates": 1, "log_tensorboard": False, "log_wandb": False},
    "fsdp": {"use": False},
    "execute_only": None,
    "benchmark_no_load": False,
    "profiler": {"enabled": False},
    "deadlock": {"use": False},
    "cache": {"path": None, "write": False},
    "checkpoint": {"save_every": None, "save_last": True},
    "schedule": {"lr_scheduler": None},
    "evaluate": {"every": None},
    "generate": {"every": None, "lm": {"use_sampling": True, "temp": 1.0, "top_k": 0, "top_p": 0.0}},
    "optim": {
        "epochs": 2,
        "updates_per_epoch": 20,
        "optimizer": "adamw",
        "lr": 1e-2,
        "adam": {"betas": [0.9, 0.95]},
        "ema": {"use": False, "updates": 1},
        "max_norm": 1.0,
        "eager_sync": False,
    },
}


def train_by_solver(base: Path, out: Path) -> None:
    """One epoch of 20 updates and a validation; writes the solver's own checkpoint.th."""
    from dora.conf import DoraConfig
    from dora.xp import XP
    from omegaconf import OmegaConf

    from audiocraft_ext import upstream
    from tests.support import tiny

    for name in ("av", "torchmetrics"):
        _stand_in(name)
    from audiocraft.solvers.musicgen import MusicGenSolver

    class Segment:
        def to_condition_attributes(self) -> upstream.ConditioningAttributes:
            return upstream.ConditioningAttributes({"description": "dark drums"})

    class Solver(MusicGenSolver):
        """The data alone is ours: reading songs needs av."""

        def build_dataloaders(self) -> None:
            clip = (torch.zeros(4, 1, N_FRAMES * 640), [Segment() for _ in range(4)])
            self.dataloaders = {"train": [clip] * 20, "valid": [clip]}

        def train(self) -> Any:
            return self.common_train_valid("train")  # without telling a data set of files the epoch

        def build_model(self) -> None:
            super().build_model()
            self.compression_model.encode = lambda audio: (
                torch.full((len(audio), 4, audio.shape[-1] // 640), TOKEN),
                None,
            )

    os.chdir(base)  # audiocraft's T5Conditioner accepts names of public T5s only, and loads them by from_pretrained
    upstream.T5Conditioner.MODELS.append("text_encoder")
    upstream.T5Conditioner.MODELS_DIMS["text_encoder"] = 128
    codec = {"compression_model_checkpoint": f"//pretrained/{base}"}
    config = OmegaConf.merge(tiny.lm_config("text"), _SOLVER_SETTINGS, codec)
    xp = XP(DoraConfig(dir=out), config, [], delta=[])
    xp.folder.mkdir(parents=True)
    with xp.enter():
        solver = Solver(config)
        solver.run_epoch()
        solver.commit()
    (xp.folder / "checkpoint.th").rename(out / "checkpoint.th")


if __name__ == "__main__":
    {"peft": train_by_peft, "solver": train_by_solver}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
