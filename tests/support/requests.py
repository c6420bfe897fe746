"""The inputs of a request as a client that sends none of them but a prompt has them."""

from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "prompt": "electro",
    "input_audio": None,
    "duration": 8,
    "continuation": False,
    "continuation_start": 0,
    "continuation_end": None,
    "multi_band_diffusion": False,
    "normalization_strategy": "loudness",
    "top_k": 250,
    "top_p": 0.0,
    "temperature": 1.0,
    "classifier_free_guidance": 3,
    "output_format": "wav",
    "seed": None,
}
AUDIO = Path("clip.wav")
