"""A full disk, told in one sentence. Knows nothing of what was to be written."""

import errno

from audiocraft_ext.errors import CheckpointError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Whether that is what an error of the operating system says."""
    return isinstance(error, OSError) and error.errno in _FULL


def refuse_full(error: OSError, what: str, way_out: str = "") -> None:
    """Raises ``CheckpointError`` from ``error`` if the disk is full: there is no room ``what``, like "for t5-base".

    ``way_out`` is how a folder on another disk is named.
    """
    if is_full(error):
        raise CheckpointError(
            f"The disk is full: there is no room {what}. Free some, or name a folder on a larger disk{way_out}."
        ) from error
