"""Data URLs as encoders write them: decoded to the same bytes, or refused; no letter is dropped."""

import base64
from urllib.parse import quote

import pytest

from audiocraft_ext.audio.source import check_size, decode_data_url
from audiocraft_ext.errors import InputError

DATA = bytes(range(256)) * 3 + b"\xfb\xff"  # 770 bytes: its base64 has +, / and one =
LETTERS = base64.b64encode(DATA).decode()
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()
NOT_BASE64 = "input_audio: its data URL is cut or not base64. Encode the whole file again, and send each + as it is: a form makes it a space."  # noqa: E501


@pytest.mark.parametrize(
    "url",
    [
        f"data:audio/wav;base64,{LETTERS}",
        f"data:audio/wav;base64,{LETTERS} ",
        f"data:audio/wav;base64,{LETTERS}#fragment",
        f"data:audio/wav;base64,{URL_SAFE}",
        f"data:audio/wav;base64,{URL_SAFE.rstrip('=')}",
        f"data:audio/wav;base64,{quote(LETTERS, safe='')}",
        f"data:audio/wav;base64,{base64.encodebytes(DATA).decode()}",
        f"DATA:;codecs=1; BASE64,{LETTERS}",
        f"data:,{quote(DATA)}",
    ],
    ids=[
        "standard",
        "a space behind",
        "fragment",
        "url-safe",
        "unpadded",
        "percent-encoded",
        "in lines",
        "capitals",
        "not base64",
    ],
)
def test_every_form_of_a_data_url_gives_its_bytes(url: str) -> None:
    assert decode_data_url(url) == DATA


@pytest.mark.parametrize("n_bytes", range(5))
def test_padding_may_be_left_out_at_any_length(n_bytes: int) -> None:
    letters = base64.b64encode(DATA[:n_bytes]).decode().rstrip("=")
    assert decode_data_url(f"data:;base64,{letters}") == DATA[:n_bytes]


@pytest.mark.parametrize(
    "letters",
    [LETTERS.replace("+", " "), LETTERS[:8] + "!" + LETTERS[8:], "UklG*", "é", "QQ==QQ==", "UklGR"],
    ids=["a form's spaces", "a foreign letter", "asterisk", "not ASCII", "two files", "cut"],
)
def test_letters_that_are_not_base64_are_refused(letters: str) -> None:
    with pytest.raises(InputError) as refusal:
        decode_data_url(f"data:audio/wav;base64,{letters}")
    assert str(refusal.value) == NOT_BASE64


def test_a_data_url_without_a_comma_and_an_empty_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"^input_audio: its data URL has no comma\. Write data:audio/wav;base64,"):
        decode_data_url(f"data:audio/wav;base64{LETTERS}")
    with pytest.raises(InputError, match=r"^input_audio: the file is empty\. Send a wav"):
        check_size(len(decode_data_url("data:audio/wav;base64,")))
