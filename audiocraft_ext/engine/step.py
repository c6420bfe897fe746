"""One decoding step of some rows: embed → transformer → logits → sample. Knows nothing of jobs or devices."""

from itertools import accumulate

import torch

from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT
from audiocraft_ext.engine.slots import SlotTable
from audiocraft_ext.engine.transformer import Transformer

# (slot, number of rows) of each job in a step
Selection = list[tuple[int, int]]


class Step:
    """The tensors of a step of B rows, and the backend's capture of it, which reads and writes them where they are.

    A backend may capture ``run_eagerly``, or ``forward`` alone.
    """

    def __init__(self, transformer: Transformer, table: SlotTable, n_rows: int) -> None:
        self.n_rows = n_rows
        self.transformer, self.table = transformer, table
        self.row_slots, self._rows = torch.zeros(2, n_rows, dtype=torch.int64, device=transformer.backend.device)
        self._jobs = self._rows.new_empty(3, 0)  # slot, first and last row of each
        self._selection: Selection = []
        self.inputs = torch.empty(n_rows, transformer.dim, device=self._rows.device)
        self.rotary = transformer.position_encoding(self._rows)[1]
        self.reset()

    def reset(self) -> None:
        """Drop what was captured: the cache has been reallocated."""
        cache = self.transformer.cache
        self._cross_capacity = cache.cross_capacity
        self.attention = self.transformer.backend.attention(cache, self._rows)
        self._sample = self.transformer.backend.sampler(self.table)
        self._run = self.transformer.backend.capture(self)

    def run(self, selection: Selection, is_eager: bool = False) -> None:
        """Step the selected jobs, B rows in all, slots ascending; captured where the backend can, unless `is_eager`."""
        if self._cross_capacity != self.transformer.cache.cross_capacity:
            self.transformer.backend.synchronize_caller()  # steps in flight use the buffers freed here
            self.reset()
        if selection != self._selection:
            self._select(selection)
        (self.run_eagerly if is_eager else self._run)()

    def _select(self, selection: Selection) -> None:
        # In place: a captured step reads these tensors where they are.
        slots, counts = zip(*selection, strict=True)
        self._rows.copy_(torch.tensor([ROWS_PER_SLOT * slot + i for slot, n in selection for i in range(n)]))
        self.row_slots.copy_(self._rows // ROWS_PER_SLOT)
        # A job's first row is conditional and its last one unconditional: without guidance, the same.
        stops = list(accumulate(counts))
        jobs = torch.tensor([slots, [0, *stops[:-1]], [stop - 1 for stop in stops]])
        if jobs.shape != self._jobs.shape:  # only where rows are of busy slots alone: sampling is not captured there
            self._jobs = torch.empty_like(jobs, device=self._rows.device)
            self._slots, self._conditional, self._unconditional = self._jobs
        self._jobs.copy_(jobs)
        self._selection = selection

    def run_eagerly(self) -> None:
        """Call each operation by itself: inputs, then all layers and logits, then tokens."""
        self.prepare()
        self.forward()
        self.sample()

    def prepare(self) -> None:
        self.transformer.backend.prepare(self)

    def forward(self) -> None:
        hidden = self.transformer.run_layers(self.inputs, self.rotary, self.attention)
        self.logits = self.transformer.logits(hidden)

    def sample(self) -> None:
        self._sample(self._slots, self.logits, (self._conditional, self._unconditional))
