"""Files that name another file or a URL: playlists, scripts, polyglots, references in tags. Knows no reader.

Each is a template with ``{path}`` and ``{url}``, alone or in a disguise.
"""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.broken_files import BrokenFile, sources, wav


@dataclass(frozen=True)
class Canary:
    """A file and a URL on this machine that malicious files name and no reader may open."""

    path: Path
    url: str


SCRIPTS = {
    "ffconcat": "ffconcat version 1.0\nfile '{path}'\nfile '{url}'\n",
    "concat list": "file '{path}'\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}\n#EXTINF:2,\nfile:{path}\n#EXT-X-ENDLIST\n",
    "HLS master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
    "HLS key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:1,\ncrypto+file:{path}\n#EXT-X-ENDLIST\n',
    "HLS concat": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nconcat:{path}|{path}\n#EXT-X-ENDLIST\n",
    "m3u": "{path}\n{url}\n",
    "pls": "[playlist]\nNumberOfEntries=2\nFile1={url}\nFile2={path}\nVersion=2\n",
    "cue": 'FILE "{path}" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{url}\nm=audio 5004 RTP/AVP 0\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "XSPF": '<?xml version="1.0"?><playlist xmlns="http://xspf.org/ns/0/"><trackList><track><location>file://{path}'
    "</location></track><track><location>{url}</location></track></trackList></playlist>",
    "ASX": '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
    "WPL": '<?wpl version="1.0"?><smil><body><seq><media src="{path}"/></seq></body></smil>',
    "SMIL": '<smil><body><audio src="{url}"/></body></smil>',
    "Smooth Streaming": '<SmoothStreamingMedia><StreamIndex Url="{url}"/></SmoothStreamingMedia>',
    "RAM": "{url}\n--stop--\n",
    "QuickTime link": '<?xml version="1.0"?><?quicktime type="application/x-quicktime-media-link"?><e src="{url}"/>',
    "URL shortcut": "[InternetShortcut]\nURL={url}\n",
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/><image href="file://{path}"/></svg>',
    "XML entity": '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{path}">]><x>&e;</x>',
    "HTML": '<html><audio src="{url}" autoplay></audio><script src="{url}"></script></html>',
    "shell": "#!/bin/sh\ncat '{path}'; wget '{url}'\n",
    "Python": "#!/usr/bin/env python3\nopen('{path}').read()\n__import__('urllib.request').request.urlopen('{url}')\n",
    "PHP": "<?php readfile('{path}'); file_get_contents('{url}'); ?>",
    "JavaScript": "fetch('{url}'); require('fs').readFileSync('{path}')\n",
    "PostScript": "%!PS\n({path}) (r) file 100 string readstring\n",
    "VobSub": "# VobSub index file, v7\nlangidx: 0\nid: en, index: 0\n{path}\n",
    "AviSynth": 'AVISource("{path}")\n',
    "LRC and SRT": "1\n00:00:00,000 --> 00:00:02,000\n{path}\n[00:01.00]{url}\n",
    "ffmetadata": ";FFMETADATA1\ntitle={url}\n",
    "IMF": '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">{url}</CompositionPlaylist>',
    "data URL": "data:application/x-mpegURL,{url}",
}


def _zip(name: str, data: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, data)
    return archive.getvalue()


def _riff_chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _id3(frames: bytes) -> bytes:
    size = bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + frames


def _frame(name: bytes, data: bytes) -> bytes:
    return name + struct.pack(">IH", len(data), 0) + data


def _box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + name + data


# A script alone, inside audio, and beside audio.
DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "alone": lambda text: text,
    "UTF-8 mark": lambda text: b"\xef\xbb\xbf" + text,
    "after blanks": lambda text: b"\r\n\t " + text,
    "after an ID3 tag": lambda text: _id3(bytes(10)) + text,
    "in an ID3 tag": lambda text: _id3(_frame(b"TIT2", b"\0" + text)) + sources()["bare.mp3"],
    "after an mp3": lambda text: sources()["bare.mp3"] + text,
    "before an mp3": lambda text: text + sources()["bare.mp3"],
    "as a wav's data": lambda text: wav(text + b"\0" * (len(text) % 2)),
    "as a wav's first chunk": lambda text: b"RIFF\xff\xff\xff\x7fWAVE" + _riff_chunk(b"LIST", text) + wav()[12:],
    "after a wav": lambda text: sources()["s16.wav"] + text,
    "after a wav's magic": lambda text: b"RIFF" + struct.pack("<I", len(text) + 4) + b"WAVE" + text,
    "after a flac's magic": lambda text: b"fLaC" + text,
    "after an ogg's magic": lambda text: b"OggS" + text,
    "after an mp4's magic": lambda text: b"\0\0\0\x10ftypM4A \0\0\0\0" + text,
    "after a webm's magic": lambda text: b"\x1a\x45\xdf\xa3" + text,
    "in a zip": lambda text: _zip("song.m3u8", text),
    "in a zip after a wav": lambda text: sources()["s16.wav"] + _zip("song.m3u8", text),
    "gzipped": gzip.compress,
}


def _with_data_elsewhere(reference: bytes) -> bytes:
    """An m4a whose samples are where the reference points (ISO/IEC 14496-12, 8.7.2)."""
    m4a = sources()["aac.m4a"]
    old, new = (_box(b"dref", struct.pack(">II", 0, 1) + entry) for entry in (_box(b"url ", b"\0\0\0\1"), reference))
    data = bytearray(m4a.replace(old, new))
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = data.index(box) - 4
        size = int.from_bytes(data[at : at + 4], "big") + len(new) - len(old)
        data[at : at + 4] = size.to_bytes(4, "big")
    return bytes(data)


def _links(canary: Canary) -> dict[str, bytes]:
    """Audio whose own format lets it refer to something else."""
    url, path = canary.url.encode(), str(canary.path).encode()
    mp3, flac = sources()["bare.mp3"], sources()["a.flac"]
    picture = struct.pack(">II", 3, 3) + b"-->" + bytes(4 * 5) + struct.pack(">I", len(url)) + url
    picture_block = b"\x06" + len(picture).to_bytes(3, "big") + picture
    linked = _frame(b"WOAF", url) + _frame(b"LINK", b"TIT2" + url + b"\0") + _frame(b"WXXX", b"\0\0" + url)
    movie = _box(b"rmda", _box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(url)) + url))
    # QuickTime's alias: a path beside the file (one level up, one down), and the same path from the root.
    levels = bytes(130) + struct.pack(">HH", 1, 1) + bytes(16)
    padded = path + b"\0" * (len(path) % 2)
    alias = bytes(4) + levels + struct.pack(">HH", 2, len(padded)) + padded + struct.pack(">HH", 0xFFFF, 0)
    return {
        "mp3 with a linked picture": _id3(_frame(b"APIC", b"\0-->\0\3\0" + url)) + mp3,
        "mp3 with links": _id3(linked) + mp3,
        "flac with a linked picture": flac[:42] + picture_block + flac[42:],
        "mp4 that refers to a movie": _box(b"ftyp", b"qt  \0\0\0\0") + _box(b"moov", _box(b"rmra", movie)),
        "mp4 with its data at a URL": _with_data_elsewhere(_box(b"url ", bytes(4) + url + b"\0")),
        "mp4 with its data in a file": _with_data_elsewhere(_box(b"alis", alias)),
    }


def malicious_files(canary: Canary) -> Iterator[BrokenFile]:
    """Every script in every disguise, and every link."""
    for script, template in SCRIPTS.items():
        text = template.format(path=canary.path, url=canary.url).encode()
        for disguise, wrap in DISGUISES.items():
            yield BrokenFile(f"script {disguise}", f"{script}.mp3", wrap(text))
    for name, data in _links(canary).items():
        yield BrokenFile("link in audio", name, data)
