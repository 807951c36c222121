"""Kinds of picture files: which are read, which are written, and what each of those can hold."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

_ALWAYS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "JPEG",
    ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".avif": "AVIF", ".gif": "GIF",
    ".heic": "HEIF", ".heif": "HEIF",
}  # fmt: skip
RAW = {".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw",
       ".raw", ".3fr", ".erf", ".kdc", ".mrw", ".x3f", ".iiq"}
"""Suffixes of what a camera's sensor has seen: read with the package rawpy only."""

READABLE = (_ALWAYS
            | ({".jxl": "JXL"} if find_spec("pillow_jxl") else {})
            | (dict.fromkeys(sorted(RAW), "RAW") if find_spec("rawpy") else {}))
"""File suffix -> name of the format, of the files a folder is searched for."""

WRITABLE = {suffix: name for suffix, name in _ALWAYS.items() if name not in ("HEIF", "GIF")}
"""File suffix -> Pillow's format name, of the files that can be written; GIF is for animations alone."""

# MPO is the JPEG of many phones; listing the formats keeps Pillow from starting Ghostscript for an EPS file.
_DECODERS = {*_ALWAYS.values(), "JXL", "MPO", "DIB"}

LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768, "GIF": 65_535}
"""In pixels; of JPEG it is libjpeg's limit, not the format's."""
MOST_PIXELS = {"AVIF": 2**28}
"""Common decoders of AVIF refuse more, and longer sides."""
WITH_ALPHA = {"PNG", "WEBP", "TIFF", "AVIF", "GIF"}
WITH_16_BITS = {"PNG", "TIFF"}
ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
"""Formats that hold frames with durations; TIFF holds pages."""


def written_format(suffix: str) -> str | None:
    """Pillow's name of the format that a suffix stands for, or None where it cannot be written."""
    return "GIF" if suffix.lower() == ".gif" else WRITABLE.get(suffix.lower())


def suffix_of(format: str | None) -> str:
    """The first suffix of a format, by Pillow's name; empty where it is not known."""
    return next((suffix for suffix, name in _ALWAYS.items() if name == format), "")


def holds_frames(suffix: str, source: str) -> bool:
    """Whether a file of this suffix can hold all pictures of a source (a format's name) that has several."""
    target = written_format(suffix)
    return target == "TIFF" or (target in ANIMATED and source in ANIMATED)


@cache
def decoders() -> list[str]:
    """Pillow's names of the formats that are tried on a file; loads the plugins that are installed."""
    from PIL import Image

    Image.init()
    if has_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()
    if find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401  registers itself
    return sorted(_DECODERS & set(Image.OPEN))


def has_heif() -> bool:
    """Whether HEIC can be read."""
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True
