"""One function of fixed tensors as a CUDA graph: recorded once, replayed with a single launch."""

from collections.abc import Callable

import torch

_N_WARM_UPS = 3


class Graph:
    """`function` reads and writes tensors that stay where they are, and nothing on the host; call it by ``replay``.

    Whoever moves one of those tensors makes a new graph: the old one would go on reading freed memory. The function
    must leave its state as it was when run now, since it is run a few times first.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        # What the function closes over is kept alive by keeping the function.
        self._function = function
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_N_WARM_UPS):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads decode audio and compute conditions meanwhile: only this thread's calls are policed.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            function()

    def replay(self) -> None:
        self._graph.replay()
