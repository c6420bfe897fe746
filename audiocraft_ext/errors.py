"""Errors of callers and of checkpoints. Knows nothing of how either is reported."""

import errno

# Of an OSError: no space, a quota, a file that is too large for the disk
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """One input that cannot be served. The message is all that the caller sees: field, value, problem and hint.

    It contains no path of the server.
    """

    def __init__(self, field: str, problem: str, hint: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem} {hint}")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be loaded: its name, the problem, and a hint."""


class Cancelled(Exception):
    """The prediction was cancelled; raised by the step that notices it."""


class TrainingError(RuntimeError):
    """A training that cannot start or go on: the problem, and a hint."""
