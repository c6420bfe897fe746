"""Songs without their vocals, by Demucs: the sum of its other stems. Knows nothing of captions and models."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch

from audiocraft_ext.audio.resample import resample
from audiocraft_ext.checkpoint.demucs import load_demucs
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS, locate_model
from audiocraft_ext.errors import CheckpointError, InputError
from audiocraft_ext.training.songs import Song, blocks, read_song


def load_separator() -> Any:
    """Demucs, from ``weights/``, the Hugging Face cache or the hub, on a GPU if there is one; raises ``InputError``."""
    try:
        demucs = load_demucs(locate_model(DEMUCS, source.WEIGHTS_FOLDER))
    except CheckpointError as error:
        problem = f"true, but Demucs, which separates them, cannot be loaded. {error}"
        raise InputError("drop_vocals", problem, "Or set it to false.") from error
    return demucs.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def remove_vocals(song: Song, demucs: Any, folder: Path) -> Song:
    """The song without vocals, a float wav in ``folder``; one that an earlier run wrote is used again.

    Blocks are separated one by one, so there may be a seam every five minutes.
    """
    from demucs.apply import apply_model  # only here

    device = next(demucs.parameters()).device
    kept = [index for index, name in enumerate(demucs.sources) if name != "vocals"]
    path = folder / f"{song.file_hash}.wav"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")  # torchrun's processes may do the same
        rate, channels = demucs.samplerate, demucs.audio_channels
        with soundfile.SoundFile(part, "w", rate, channels, "FLOAT", format="WAV") as file:
            for clip in blocks(song.path):
                # No random shift: the same file is the same music each time.
                stems = apply_model(demucs, resample(clip, rate, channels)[None], shifts=0, device=device)
                file.write(stems[0, kept].sum(0).T.numpy())
        part.replace(path)
    return replace(read_song(song.name, path), channels=song.channels, file_hash=song.file_hash)
