"""Errors of a caller's inputs and of checkpoints, and cancellation. Knows nothing of how they are reported."""


class InputError(ValueError):
    """One input that cannot be served: its field, the problem, and how to fix it.

    The message is all that the caller sees: it names the field and the value, and no path of the server.
    """

    def __init__(self, field: str, problem: str, fix: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem} {fix}")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be loaded: its kind, the missing part, and a replacement."""


class Cancelled(Exception):
    """The prediction was cancelled; raised by the step that noticed."""
