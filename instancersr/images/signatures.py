"""What a file is that is no picture to enlarge, by its first bytes: a sentence for a person."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from .formats import RAW

_HEAD = 4096

RAW_SENTENCE = ("is a raw file, what the sensor saw and no photo yet; develop it first and give the JPEG or TIFF, "
                "or let this program do it with: pip install rawpy")
_VIDEO = "is a video; save single frames as PNG, this program enlarges pictures one by one"

_SENTENCES: list[tuple[str, str]] = [
    (r"%PDF", "is a PDF document; export its pages as PNG or TIFF first"),
    (r"%!PS|\xc5\xd0\xd3\xc6", "is a PostScript drawing; export it as PNG at the size you need"),
    (r"\x1f\x8b", "is a compressed file (gzip); unpack it first"),
    (r"PK\x03\x04", "is a zip archive or an office document; take the pictures out of it first"),
    (r"Rar!|7z\xbc\xaf", "is an archive; take the pictures out of it first"),
    (r"8BPS", "is a Photoshop document; export it as PNG or TIFF first"),
    (r"gimp xcf", "is a GIMP document; export it as PNG or TIFF first"),
    (r"\xff\x0a|\x00\x00\x00\x0cJXL ", "is JPEG XL, which needs one more package: pip install pillow-jxl-plugin"),
    (r"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "is JPEG 2000; save it as PNG or TIFF first"),
    (r"\x00\x00\x01\x00", "is an icon file; save the picture as PNG first"),
    (r"SIMPLE  =", "is a FITS file of measurements; export a picture as 16-bit PNG or TIFF first"),
    (r"\x76\x2f\x31\x01|#\?RADIANCE", "has floating-point pixels (EXR or HDR), which are not supported; save it as "
     "16-bit PNG or TIFF"),
    (r"ID3|OggS|fLaC", "is a sound file, not a picture"),
    (r"\x1aE\xdf\xa3|FLV\x01|\x00\x00\x01[\xba\xb3]|RIFF....AVI |0&\xb2u", _VIDEO),
    (r"(?:....)ftyp(?:crx )", RAW_SENTENCE),
    (r"(?:....)(?:ftyp(?!avi[fs]|hei[cfmsx]|hev[cmsx]|mif1|msf1)|moov|mdat|wide)", _VIDEO),
    (r"FUJIFILMCCD-RAW|II\x2a\x00....CR|II(?:RO|RS)|MMOR|IIU\x00|\x00MRM|FOVb|II\x1a\x00\x00\x00HEAPCCDR",
     RAW_SENTENCE),
    (r"(?i)(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg",
     "is an SVG drawing, which is sharp at any size; export it as PNG as large as you need"),
    (r"(?i)(?:\xef\xbb\xbf)?\s*(?:<!doctype html|<html)", "is a web page, not a picture; save the picture itself"),
    (r"version https://git-lfs", "is a Git LFS pointer, not the picture; fetch it with: git lfs pull"),
]


def describe(path: Path) -> str | None:
    """What a file is, and what to do, as the rest of a sentence that begins with its name; None: unknown."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        tags = _first_directory(file)
    for pattern, sentence in _SENTENCES:
        if re.match(pattern.encode("latin-1"), head, re.DOTALL):
            return sentence
    if len(head) > 188 and head[0] == head[188] == 0x47:  # an MPEG transport stream's packets
        return _VIDEO
    if _is_raw(path.suffix, tags):
        return RAW_SENTENCE
    if tags.get(339) == 3:
        return "has floating-point pixels, which are not supported; save it as 16-bit"
    if tags.get(339) == 2:
        return "has signed pixels, which are not supported; save it as 8- or 16-bit"
    if tags.get(258, 0) > 16:
        return "has pixels of more than 16 bits, which are not supported; save it as 8- or 16-bit"
    return None


def is_raw(path: Path) -> bool:
    """Whether a file that may pass for a TIFF is a camera's raw file."""
    with open(path, "rb") as file:
        head = file.read(12)
        return head[8:10] == b"CR" and head.startswith(b"II*\0") or _is_raw(path.suffix, _first_directory(file))


def _is_raw(suffix: str, tags: dict[int, int]) -> bool:
    return bool(tags) and (
        suffix.lower() in RAW
        or 0xC612 in tags                              # DNGVersion
        or tags.get(262) in (32803, 34892)             # the pixels are a colour filter's, or linear raw
        or tags.get(254, 0) & 1 == 1 and 330 in tags)  # a reduced picture, with others in sub-directories


def _first_directory(file: BinaryIO) -> dict[int, int]:
    """The numbers in a TIFF's first directory by their tags, the first of several; empty where it is no TIFF."""
    file.seek(0)
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return {}
    file.seek(*struct.unpack_from(order + "I", head, 4))
    (count,) = struct.unpack(order + "H", file.read(2).ljust(2, b"\0"))
    entries = file.read(12 * count)
    tags = {}
    for at in range(0, len(entries) - 11, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", entries, at)
        value = entries[at + 8 : at + 12]
        if kind == 3 and number > 2:  # several short numbers do not fit into the entry
            file.seek(*struct.unpack(order + "I", value))
            value = file.read(4).ljust(4, b"\0")
        (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), value)
    return tags
