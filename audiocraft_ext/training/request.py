"""One training, validated: the hosted fine-tuner's inputs, and ours. Standard library only; knows nothing of cog.

``docs/fine-tuning.md`` defines the inputs. The data set itself is checked where it is read.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from audiocraft_ext.errors import InputError

ModelVersion = Literal[
    "small", "medium", "melody", "large", "stereo-small", "stereo-medium", "stereo-melody", "stereo-large"
]
Method = Literal["lora", "full"]
LearningRateSchedule = Literal["cosine", "exponential", "polynomial_decay", "inverse_sqrt", "linear_warmup"]
Optimizer = Literal["adamw", "dadam"]
MAX_STEPS = 20_000
_N_PASSES, _FEWEST_STEPS, _MOST_STEPS = 15, 200, 1500
_EPOCHS, _UPDATES_PER_EPOCH = 3, 100  # the hosted fine-tuner's
_N_EVALUATIONS, _FEWEST_STEPS_BETWEEN = 20, 5
_LR = {"lora": 2e-4, "full": 1e-5}
_TEXTS = ("one_same_description", "trigger_word", "sample_prompts")
_NOT_OF_THE_TRAINING = ("dataset_path", "save_every", "sample_prompts")


CHOICES: dict[str, tuple[str, ...]] = {
    "model_version": get_args(ModelVersion),
    "method": get_args(Method),
    "optimizer": get_args(Optimizer),
    "lr_scheduler": get_args(LearningRateSchedule),
}
# The smallest and the largest: of numbers, or of a text's characters. Then a note.
RANGES: dict[str, tuple[float, float, str]] = {
    "one_same_description": (1, 2000, ""),
    "trigger_word": (1, 40, ""),
    "lora_rank": (1, 128, ""),
    "lr": (1e-6, 1, "Without it: 2e-4 for lora, 1e-5 for full."),
    "steps": (1, MAX_STEPS, ""),
    "epochs": (1, MAX_STEPS, ""),
    "updates_per_epoch": (1, MAX_STEPS, ""),
    "batch_size": (1, 256, "As many clips make a step, however few fit into memory at once."),
    "warmup": (0, MAX_STEPS, "It is in steps; without it, a tenth of them."),
    "cfg_p": (0, 1, "Without it, as the base was trained."),
    "held_out": (0, 0.5, "It is the share of songs that measure the training."),
    "save_every": (1, MAX_STEPS, "It is in steps."),
    "sample_prompts": (1, 4000, "Write one prompt a line."),
    "seed": (0, 2**32 - 1, ""),
}


@dataclass(frozen=True)
class TrainingRequest:
    """The inputs of one training; the properties below replace those that are None.

    ``dataset_path`` is an archive, a folder or one audio file. Raises ``InputError`` for the first input that cannot be
    used.
    """

    dataset_path: Path
    one_same_description: str | None = None
    trigger_word: str | None = None
    auto_labeling: bool = True
    drop_vocals: bool = False
    model_version: ModelVersion | None = None
    method: Method = "lora"
    lora_rank: int = 16
    lr: float | None = None
    steps: int | None = None
    epochs: int | None = None
    updates_per_epoch: int | None = None
    batch_size: int = 8
    optimizer: Optimizer = "adamw"
    lr_scheduler: LearningRateSchedule = "cosine"
    warmup: int | None = None
    cfg_p: float | None = None
    held_out: float = 0.1
    save_every: int = 100
    sample_prompts: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _TEXTS:  # clients that fill in every field send empty ones
            object.__setattr__(self, name, (getattr(self, name) or "").strip() or None)
        for name, choices in CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name, (low, high, note) in RANGES.items():
            _check_range(name, getattr(self, name), low, high, note)
        if self.optimizer == "dadam":
            raise InputError(
                "optimizer",
                "'dadam' sets its own learning rate and does not suit adapters.",
                "Use adamw, and leave lr out.",
            )
        if self.lr == 1:
            raise InputError("lr", "1 is for dadam, which sets its own rate.", "Leave lr out, or try 2e-4.")
        if self.steps is not None and (self.epochs or self.updates_per_epoch):
            raise InputError(
                "steps", f"{self.steps}, but epochs or updates_per_epoch also set them.", "Send one of both."
            )
        if (product := self._n_updates()) and product > MAX_STEPS:
            problem = f"{product} steps with updates_per_epoch; the limit is {MAX_STEPS}."
            raise InputError("epochs", problem, "Send smaller ones.")

    @property
    def learning_rate(self) -> float:
        """The peak."""
        return _LR[self.method] if self.lr is None else self.lr

    @property
    def prompts(self) -> list[str]:
        """``sample_prompts``, line by line."""
        return [line.strip() for line in (self.sample_prompts or "").splitlines() if line.strip()]

    def n_steps(self, n_pieces: int) -> int:
        """``steps``, or epochs times updates, or 15 passes over the pieces within 200 to 1500 steps."""
        passes = math.ceil(_N_PASSES * n_pieces / self.batch_size)
        return self.steps or self._n_updates() or min(max(passes, _FEWEST_STEPS), _MOST_STEPS)

    def n_warmup(self, n_steps: int) -> int:
        """``warmup``, or a tenth of the steps."""
        return n_steps // 10 if self.warmup is None else self.warmup

    def evaluate_every(self, n_steps: int) -> int:
        """Steps between evaluations: the best one can be missed by no more."""
        return max(_FEWEST_STEPS_BETWEEN, n_steps // _N_EVALUATIONS)

    def settings(self) -> dict[str, Any]:
        """All that makes it another training but the data: not how often it is saved, or sampled afterwards."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_OF_THE_TRAINING}

    def _n_updates(self) -> int | None:
        if self.epochs is None and self.updates_per_epoch is None:
            return None
        return (self.epochs or _EPOCHS) * (self.updates_per_epoch or _UPDATES_PER_EPOCH)


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise InputError(name, f"{value!r:.40} is not one of its choices.", f"Use one of: {', '.join(choices)}.")


def _check_range(name: str, value: Any, low: float, high: float, note: str) -> None:
    if value is None:
        return
    is_text = isinstance(value, str)
    measured = len(value) if is_text else value
    if not low <= measured <= high:  # nor is NaN
        problem = f"{measured} characters are" if is_text else f"{value:.12g} is"
        bounds = f"Use {'a length' if is_text else 'a number'} from {low:g} to {high:.12g}."
        raise InputError(name, f"{problem} outside its range.", f"{bounds} {note}".strip())
