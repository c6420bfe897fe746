"""Input audio before it is decoded: its size, and the bytes of a data URL. Standard library only; knows no format."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from audiocraft_ext.errors import InputError

FIELD = "input_audio"
SUPPORTED = "Send a wav, mp3, flac, ogg, opus, m4a, mp4, aac, aiff or webm file."
MAX_FILE_BYTES = 200_000_000
_STANDARD = bytes.maketrans(b"-_", b"+/")


def check_size(n_bytes: int, limit: int = MAX_FILE_BYTES) -> None:
    """Raise ``InputError`` for an empty file, and for one over the limit."""
    if n_bytes == 0:
        raise InputError(FIELD, "the file is empty.", SUPPORTED)
    if n_bytes > limit:
        problem = f"the file has {n_bytes / 1e6:.1f} MB; the limit is {limit / 1e6:g} MB."
        raise InputError(FIELD, problem, "Cut it, or send it as mp3.")


def decode_data_url(url: str) -> bytes:
    """The bytes of a data URL (RFC 2397), whose base64 may be URL-safe, unpadded or in lines.

    Raises ``InputError`` for one without a comma, and for letters that are not base64: dropped, they would make noise.
    """
    head, comma, data = url.partition("#")[0].strip().partition(",")  # a fragment is not part of the data
    content = unquote_to_bytes(data)
    if not comma:
        raise InputError(FIELD, "its data URL has no comma.", "Write data:audio/wav;base64,… with the file in base64.")
    if head.lower().rpartition(";")[2].strip() != "base64":
        return content
    letters = content.translate(_STANDARD, b"\r\n").rstrip(b"=")
    try:
        return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except binascii.Error as error:
        hint = "Encode the whole file again, and send each + as it is: a form makes it a space."
        raise InputError(FIELD, "its data URL is cut or not base64.", hint) from error
