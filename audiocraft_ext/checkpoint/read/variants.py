"""An LM's config and weights as fine-tuners write them → as audiocraft builds and loads them. Reads no file."""

import logging
from copy import deepcopy

from omegaconf import DictConfig, OmegaConf

from audiocraft_ext.checkpoint.read.config import config_errors
from audiocraft_ext.checkpoint.read.tensors import State

log = logging.getLogger(__name__)

_CONDITIONER = "condition_provider.conditioners."
# T5's embedding has two names, of which a file of tied weights may keep one.
_TIED = (".t5.shared.weight", ".t5.encoder.embed_tokens.weight")


@config_errors("language model")
def normalize(config: DictConfig, state: State) -> tuple[DictConfig, State]:
    """Copies in which T5's weights are loaded if there are any, and MusicGen-Chord is the melody model that it was.

    MusicGen-Chord replaces the melody by chords without training anything: its weights are those of a melody model.
    """
    config, state = deepcopy(config), dict(state)
    OmegaConf.set_struct(config, False)
    for name, settings in config.conditioners.items():
        prefix = f"{_CONDITIONER}{name}"
        if name != "args" and settings.model == "t5" and any(key.startswith(f"{prefix}.t5.") for key in state):
            settings.t5.finetune = True
            for one, other in (_TIED, _TIED[::-1]):
                if prefix + one in state:
                    state.setdefault(prefix + other, state[prefix + one])
        elif name != "args" and settings.model == "chroma_chord":
            log.warning("This is a MusicGen-Chord: it is served as a melody model, which follows input_audio.")
            chroma = {"argmax": True, **settings.pop("chroma_chord")}
            config.conditioners[name] = {"model": "chroma_stem", "chroma_stem": chroma}
            state = {key: value for key, value in state.items() if not key.startswith(f"{prefix}.chroma.")}
    return config, state
