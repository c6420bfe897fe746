"""Adapters by request: models merged from the base and an operator's adapters when first asked for; a few are kept.

Each has a language model and an engine of its own beside the base's, and shares the codec: requests of the base and of
other adapters are not touched. Knows nothing of HTTP or cog.
"""

import contextvars
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from audiocraft_ext import checkpoint, memory
from audiocraft_ext.errors import CheckpointError, InputError
from audiocraft_ext.lm_engine import EngineError
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import AdapterNames

# Clips at once of one adapter. On a GPU the slots' cache is allocated whole, and is larger than the weights.
_N_SLOTS = 4
_POLL_S = 0.05
_ARCHIVE_SUFFIX = re.compile(r"\.(zip|tgz|tbz2|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass
class _Merged:
    model: Model
    n_users: int = 0


class Adapters:
    """The base model, and models of the adapters in a folder, `n_kept` of them at most in memory."""

    def __init__(self, base: Model, weights: str, device: str, folder: Path | None, n_kept: int) -> None:
        """``base`` was loaded from ``weights``; None for ``folder``: there are no adapters."""
        self._base, self._weights, self._device = base, weights, device
        self._folder, self._n_kept = folder, n_kept
        self._merged: dict[tuple[tuple[Path, int, float], ...], _Merged] = {}  # the latest used last
        self._merging, self._counting = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Release the memory of all of them but the base."""
        for merged in self._merged.values():
            merged.model.close()
        self._merged.clear()

    @contextmanager
    def model(self, names: AdapterNames, progress: Progress) -> Iterator[Model]:
        """The model of these adapters, kept in memory meanwhile; the base without any.

        Waits while as many as may be kept are in use by others. Raises ``InputError`` for an unknown adapter or one
        that does not fit the base, and ``Cancelled``.
        """
        if not names:
            yield self._base
            return
        paths = self._paths()
        for name, _ in names:
            if name not in paths:
                known = f"Known are: {', '.join(sorted(paths))}." if paths else "This server is without adapters."
                raise InputError("context.adapter", f"there is no adapter {name!r:.80}.", known)
        found = tuple((paths[name], _version(paths[name]), strength) for name, strength in names)
        progress.enqueue()
        while (merged := self._use(found, names, progress)) is None:
            progress.check()
            time.sleep(_POLL_S)
        progress.dequeue()
        try:
            yield merged.model
        finally:
            with self._counting:
                merged.n_users -= 1

    def _paths(self) -> dict[str, Path]:
        """Folders and archives by name, as they are now: adapters come and go without a restart."""
        entries = sorted(self._folder.iterdir()) if self._folder is not None else []
        visible = [path for path in entries if not path.name.startswith(".")]
        return {path.name if path.is_dir() else _ARCHIVE_SUFFIX.sub("", path.name): path for path in visible}

    def _use(self, key: tuple[tuple[Path, int, float], ...], names: AdapterNames, progress: Progress) -> _Merged | None:
        """The merged model, counted as used once more; None if there is no room for it now."""
        with progress.acquire(self._merging):
            merged = self._merged.pop(key, None)
            if merged is None and len(self._merged) >= self._n_kept:
                with self._counting:
                    idle = next((other for other, one in self._merged.items() if one.n_users == 0), None)
                if idle is None:
                    return None
                self._merged.pop(idle).model.close()
                memory.collect()
            merged = merged or self._merge(key, names)
            with self._counting:
                merged.n_users += 1
            self._merged[key] = merged
            return merged

    def _merge(self, key: tuple[tuple[Path, int, float], ...], names: AdapterNames) -> _Merged:
        start, base = time.perf_counter(), self._base
        shown = ", ".join(f"{name}:{strength:g}" for name, strength in names)
        adapters = [(path, strength) for path, _, strength in key]
        settings = replace(base.settings, n_slots=min(_N_SLOTS, base.settings.n_slots))
        while True:
            try:
                loaded = checkpoint.with_adapters(base.checkpoint, self._weights, self._device, adapters)
                merged = _Merged(Model(loaded, settings))
                print(f"Merged {shown} in {time.perf_counter() - start:.1f} s", flush=True)
                return merged
            except CheckpointError as error:
                problem = f"{shown} cannot be used with this server's checkpoint: {error}"
                raise InputError("context.adapter", problem, "Use another adapter, or none.") from error
            except EngineError as error:
                # Outside the prediction's context, by which cog tells what belongs to the answer.
                contextvars.Context().run(_log.warning, "%s", error)
                settings = error.simpler
            del loaded
            memory.collect()


def _version(path: Path) -> int:
    """A number that changes with the files of an adapter: by their ctime, which cp, rsync and tar cannot set."""
    stats = ((file, file.stat()) for file in (path, *sorted(path.rglob("*"))))
    return hash(tuple((file, stat.st_ctime_ns, stat.st_size) for file, stat in stats))
