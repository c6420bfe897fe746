"""What a caller did wrong, and what a checkpoint lacks. Knows nothing of how either is reported."""


class InputError(ValueError):
    """One input that cannot be served: which, why, and the way out.

    The message is written for the caller and is all that the caller sees: it names the field and the value and holds
    no path of the server.
    """

    def __init__(self, field: str, problem: str, way_out: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem} {way_out}")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be loaded: what it is, what is missing, and what would do instead."""


class Cancelled(Exception):
    """The prediction was cancelled; raised by the step that noticed."""
