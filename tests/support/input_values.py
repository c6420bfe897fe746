"""Values of the 14 inputs as JSON text: to be served, and to be rejected. Knows no HTTP."""

import base64
import io
import json
import wave
from collections.abc import Callable
from random import Random

MEDIA_TYPES = (
    "audio/wav", "audio/mpeg", "application/octet-stream", "text/html", "image/png", "video/mp4", "inode/directory",
    "application/x-mpegURL", "", "x", "a/b/c", "audio/../../etc", "audio/wav;charset=utf-8", "\u00fc/\U0001f3b5",
)  # fmt: skip
LETTERS = "aZ09 \t\n\r\0\x7f\x1b\"'\\/<>&%;\u00fc\u0416\u97f3\u202e\u200b\ufeff\ufffe\U0001f3b5\U0010ffff"


def quiet_wav(seconds: float = 0.3, sample_rate: int = 8000) -> bytes:
    """A tiny audio file, fast to serve."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(b"\x40\x01\xc0\xfe" * round(seconds * sample_rate / 2))
    return file.getvalue()


def data_url(data: bytes, media_type: str = "audio/wav") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


WAV_URL = data_url(quiet_wav())

# None of these takes long.
SERVED: dict[str, tuple[str, ...]] = {
    "prompt": ('"kick"', '""', '"\\u0000"', '"\\ud83c\\udfb5"', '"/etc/passwd"', '"%s%n{0}${x}"', '"\\u202e\\ufffe"'),
    "duration": ("1", "1.0", "1e0", "10E-1"),
    "continuation": ("false",),
    "continuation_start": ("0", "0.0", "-0", "0e99"),
    "continuation_end": ("7", "1e300", "9007199254740993", "1e18", "0"),
    "multi_band_diffusion": ("false", "true"),
    "normalization_strategy": ('"loudness"', '"clip"', '"peak"', '"rms"', '"\\u0072ms"'),
    "top_k": ("0", "1", "250", "1e6", "9223372036854775807", "9223372036854775808", "1e300", "-0"),
    "top_p": ("0", "1", "0.5", "5e-324", "0.9999999999999999", "1.0", "-0.0", "1e-400"),
    "temperature": ("0", "1", "1e-30", "1e30", "1e-40", "5e-324", "3.5e38", "1.7e308", "9223372036854775808", "1e-400"),
    "classifier_free_guidance": ("1", "0", "-100", "100", "3.0"),
    "output_format": ('"wav"', '"mp3"'),
    "seed": ("0", "-1", "4294967295", "7.0", "-0.0", "-1.0"),
}  # fmt: skip

_NO_TEXT = ("null", "true", "0", "-1", "1.5", "[]", "{}", '["x"]', '{"$ref": "x"}', "[[[[[[]]]]]]", "NaN", "1e999")
_NO_NUMBER = (
    "null", "true", "false", '""', '"1"', '"NaN"', '"\\u0000"', "[]", "[1]", "{}", '{"a": {"b": [1]}}', "NaN",
    "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400,
)  # fmt: skip
_NO_WHOLE = ("0.5", "1.0000000000000002", "-1.5", "5e-324")
_NO_CHOICE = (*_NO_TEXT, '""', '"WAV"', '"wav "', '"wav\\u0000"', '"__class__"', '"' + "x" * 5000 + '"')
_BELOW_ZERO = ("-1", "-1e300", "-9223372036854775809", "-2147483648")

REJECTED: dict[str, tuple[str, ...]] = {
    "prompt": (*_NO_TEXT, '"' + "x" * 4001 + '"', '"\\ud800"', '"a\\udfff"', '"\\udc00\\ud800"', '"\\uZZZZ"'),
    "input_audio": (*_NO_TEXT, '"\\ud800"'),
    "duration": (*_NO_NUMBER, *_NO_WHOLE, *_BELOW_ZERO, "0", "301", "1e300", "9223372036854775808", "2147483648"),
    "continuation": ("null", "0", "1", '"true"', '""', "[]", "{}", "[true]", "NaN"),
    "continuation_start": (*_NO_NUMBER, *_NO_WHOLE, *_BELOW_ZERO),
    "continuation_end": (*_NO_NUMBER, *_NO_WHOLE, *_BELOW_ZERO),
    "multi_band_diffusion": ("null", "0", "1", '"false"', '""', "[]", "{}", "NaN"),
    "normalization_strategy": _NO_CHOICE,
    "top_k": (*_NO_NUMBER, *_NO_WHOLE, *_BELOW_ZERO),
    "top_p": (*_NO_NUMBER, *_BELOW_ZERO, "-5e-324", "1.0000000000000002", "1e300"),
    "temperature": (*_NO_NUMBER, *_BELOW_ZERO, "-5e-324"),
    "classifier_free_guidance": (*_NO_NUMBER, *_NO_WHOLE, "-101", "101", "1e300", "-1e300", "9223372036854775808"),
    "output_format": _NO_CHOICE,
    "seed": (*_NO_NUMBER, *_NO_WHOLE, "-2", "4294967296", "1e300", "-1e300", "18446744073709551616"),
}  # fmt: skip


def text(random: Random, longest: int = 60) -> str:
    return "".join(random.choices(LETTERS, k=random.randrange(longest)))


def draw_served(random: Random, name: str) -> str:
    """JSON text of a cheap value that this input accepts."""
    if name == "prompt" and random.random() < 0.5:
        return json.dumps(text(random), ensure_ascii=random.random() < 0.5)
    if name == "seed" and random.random() < 0.5:
        return str(random.randrange(2**32))
    return random.choice(SERVED[name])


def draw_rejected(random: Random, name: str) -> str:
    """JSON text of a value that this input must reject."""
    if name == "prompt" and random.random() < 0.05:
        return json.dumps(random.choice("x\u97f3\0") * random.choice((5000, 100_000, 3_000_000)))
    if name == "input_audio" and random.random() < 0.8:
        return json.dumps(bad_audio_url(random))
    if name in ("normalization_strategy", "output_format") and random.random() < 0.3:
        return json.dumps(text(random))
    return random.choice(REJECTED[name])


def audio_url(random: Random) -> str:
    """A data URL of audio, in one of its possible forms."""
    wav = quiet_wav(random.choice((0.1, 0.3)), random.choice((8000, 11025, 44100)))
    url = data_url(wav, random.choice(MEDIA_TYPES))
    in_lines = url[:90] + "\r\n" + url[90:]
    return random.choice((url, url + "#fragment", url + " ", url.replace("A", "%41"), in_lines))


def anything(random: Random, depth: int = 0) -> object:
    """Any JSON value, nested a few levels deep, without an expensive duration."""
    makers: list[Callable[[], object]] = [
        lambda: None,
        lambda: random.random() < 0.5,
        lambda: random.choice((0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**300)),
        lambda: random.choice((0.0, -0.0, 1.5, 1e300, -1e300, 5e-324)),
        lambda: text(random),
        lambda: random.choice(("x" * 10_000, WAV_URL, "null", "../../../../etc/passwd", "{{7*7}}", "$(id)", "\ufeff")),
    ]
    if depth < 4:
        makers += [
            lambda: [anything(random, depth + 1) for _ in range(random.randrange(4))],
            lambda: {text(random, 10): anything(random, depth + 1) for _ in range(random.randrange(4))},
        ]
    return random.choice(makers)()


# Port 1 is closed. Few of these need name resolution, which is slow.
_NO_URLS = (
    "", " ", "\0", "x", "wav", "//127.0.0.1/x", "/etc/passwd", "../../etc/passwd", "~/x", ".", "C:\\x.wav", "@x.wav",
    "file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "file://localhost/etc/passwd",
    "<file:///etc/passwd>", "URL:file:///etc/passwd", " file:///etc/passwd", "data\n:file:///etc/passwd",
    "file:///dev/zero", "file:///proc/self/environ", "ftp://127.0.0.1:1/x", "gopher://127.0.0.1:1/",
    "concat:/etc/passwd|/etc/passwd", "subfile:,,:/etc/passwd", "pipe:0", "cache:file:/etc/passwd",
    "async:file:/etc/passwd", "crypto+file:/etc/passwd", "tcp://127.0.0.1:1", "javascript:alert(1)", "s3://a/b",
    "blob:http://127.0.0.1:1/x", "jar:file:///x!/y", "mailto:a@b", "ws://127.0.0.1:1/", "urn:x", "tag:", ":", "::",
    "http:", "http://", "http:///x", "http:/127.0.0.1:1", "http://127.0.0.1:1/x.wav", "https://127.0.0.1:1/x.wav",
    "http://127.0.0.1:99999/x", "http://127.0.0.1:-1/", "http://127.0.0.1:abc/", "http://127.0.0.1:\uff11/",
    "http://[::1", "http://[x]/", "http://[::1]:1/", "http://user:pw@127.0.0.1:1/", "http://127.0.0.1:1\\@x/",
    "http://127.0.0.1:1#@x", "http://127.0.0.1:1/\0", "http://127.0.0.1:1/\r\nX: y", "http://x y/", "http://%00/",
    "http://.", "http://a..b/", "http://xn--/", "http://nowhere.invalid/", "http://\u00fc.invalid/", "http://0:1/",
    "http://2130706433:1/", "http://127.1:1/", "http://" + "a" * 300 + "/", "http://127.0.0.1:1/" + "a" * 99_999,
    "HTTP://127.0.0.1:1/", "hTTps://127.0.0.1:1/", "data:", "data:,", "data:x", "data:;base64,", "data:;base64",
    "data:audio/wav", "data:audio/wav,", "data:audio/wav;base64", "data:audio/wav;base64,====",
    "data:audio/wav;base64,A", "data:audio/wav;base64,A===", "data:audio/wav;base64,%", "data:audio/wav;base64,%zz",
    "data:text/plain,hello", "data:text/plain,%00%ff", "data:text/html,<script>alert(1)</script>",
    "data:,data:,data:,", "data://x/y,z", "data:\0,x", "data:a;b;c;d,x", "data:;;;;,",
    "data:audio/wav\r\nX: y;base64,AAAA", 'data:"/";base64,AA', "data:text/html;charset=\0;base64,AAAA",
    "data:a/" + "b" * 3000 + ",x", "data:application/x-mpegURL,%23EXTM3U%0Afile:///etc/passwd",
    "data:," + "x" * 100_000, "DATA:,x", "da\tta:,x",
)  # fmt: skip


def bad_audio_url(random: Random) -> str:
    """A URL, or something like one, without any audio."""
    if random.random() < 0.5:
        return random.choice(_NO_URLS)
    return random.choice(
        (
            lambda: data_url(text(random, 3000).encode(), random.choice(MEDIA_TYPES)),
            lambda: data_url(random.randbytes(random.randrange(3000)), random.choice(MEDIA_TYPES)),
            lambda: data_url(WAV_URL.encode()),  # a data URL in a data URL
            lambda: data_url(quiet_wav()[: random.randrange(40)]),
            lambda: WAV_URL.replace(";base64", random.choice(("", "; base64", ";base32", ";base64;base64x"))),
            lambda: WAV_URL.replace("base64,", "base64," + random.choice(("AAAA", "UklG" * 9))),
            lambda: WAV_URL[:90] + random.choice("\0 !\u00fc") + WAV_URL[90:],
            lambda: f"{text(random, 8)}:{text(random)}".lstrip(),
        )
    )()
