"""Metadata -> the options with which Pillow writes them, by format, and what a format cannot hold."""

from __future__ import annotations

from typing import Any

from PIL import Image, PngImagePlugin

from .metadata import Metadata, iptc_text, photoshop_block, shorten_exif, signature, update

_SEGMENT = 65_533
"""Bytes that a JPEG's segment holds."""
_XMP_HEAD = 29
_SMALL_TEXT = 1000
"""Characters of a PNG's text that are not worth packing."""
_DESCRIPTION, _XMP, _IPTC = 270, 700, 33723  # a TIFF's tags
_IPTC_HEAD = b"Photoshop 3.0\0"
_NAMES = {"WEBP": "WebP"}
_WITHOUT_EXIF = {"BMP", "GIF"}


def save_options(metadata: Metadata, format: str, size: tuple[int, int]) -> tuple[dict[str, Any], list[str]]:
    """Options of `Image.save` for a result, and a line that names what is lost, if anything.

    Args:
        metadata: of the source.
        format: Pillow's name.
        size: (width, height) of the result, in pixels.
    """
    options, lost = _BY_FORMAT[format](update(metadata, *size))
    if format in _WITHOUT_EXIF and metadata.exif:
        lost.append("EXIF")
    name = _NAMES.get(format, format)
    return ({key: value for key, value in options.items() if value},
            [f"{name} keeps no {', '.join(lost)}; that was left out"] if lost else [])


def _jpeg(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    lost = []
    exif, parts = shorten_exif(metadata.exif or b"", _SEGMENT)
    if parts:
        lost.append(f"EXIF over 64 kB, which lost its largest parts ({', '.join(parts)})")
    xmp = metadata.xmp
    if xmp and len(xmp) > _SEGMENT - _XMP_HEAD:
        xmp = None
        lost.append("XMP over 64 kB")
    extra, comment = b"", metadata.comment
    if metadata.iptc:
        block = _IPTC_HEAD + photoshop_block(metadata.iptc)
        if len(block) > _SEGMENT:
            lost.append("IPTC over 64 kB")
        else:
            extra = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    if comment and len(comment.encode()) > _SEGMENT:
        comment = None
        lost.append("comment over 64 kB")
    lost += _texts(metadata)
    return {"icc_profile": metadata.icc_profile, "exif": exif, "dpi": metadata.dpi and _whole(metadata.dpi), "xmp": xmp,
            "extra": extra, "comment": comment and comment.encode()}, lost


def _png(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    lost, profile = [], metadata.icc_profile
    if profile and not _can_be_packed(profile):  # a PNG holds it packed alone
        profile = None
        lost.append("colour profile over 1 MB")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Software", signature(metadata))
    entries = dict(metadata.text)
    if metadata.comment:
        entries["Comment"] = metadata.comment
    for key, value in entries.items():
        add = texts.add_text if value.isascii() else texts.add_itxt
        add(key, value, zip=len(value) > _SMALL_TEXT and _can_be_packed(value.encode()))
    if metadata.xmp:
        texts.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    if metadata.iptc:
        key, value = iptc_text(metadata.iptc)
        texts.add_text(key, value, zip=_can_be_packed(value.encode()))
    return {"icc_profile": profile, "exif": metadata.exif, "dpi": metadata.dpi, "pnginfo": texts}, lost


def _can_be_packed(data: bytes) -> bool:
    """Whether Pillow opens a PNG with so many bytes in a packed chunk; it refuses more, which may be a bomb."""
    return len(data) < PngImagePlugin.MAX_TEXT_CHUNK


def _tiff(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    tags = Image.Exif()
    tags.load(metadata.exif or b"")
    if metadata.xmp:
        tags[_XMP] = metadata.xmp
    if metadata.iptc:
        tags[_IPTC] = metadata.iptc
    lost = _texts(metadata)
    if metadata.comment and _DESCRIPTION in tags:
        lost += _comment(metadata)
    elif metadata.comment:
        tags[_DESCRIPTION] = metadata.comment
    return {"icc_profile": metadata.icc_profile, "exif": tags, "dpi": metadata.dpi}, lost


def _webp_or_avif(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    lost = _comment(metadata) + _texts(metadata) + (["IPTC"] if metadata.iptc else [])
    return {"icc_profile": metadata.icc_profile, "exif": metadata.exif, "xmp": metadata.xmp}, lost


def _bmp(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    return {"dpi": metadata.dpi}, _unheld(metadata, ("icc_profile", "xmp", "iptc", "comment", "text"))


def _gif(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    lost = _unheld(metadata, ("icc_profile", "xmp", "iptc", "text"))
    return {"comment": "; ".join(filter(None, [signature(metadata), metadata.comment]))}, lost


_BY_FORMAT = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "WEBP": _webp_or_avif, "AVIF": _webp_or_avif, "BMP": _bmp,
              "GIF": _gif}


def _unheld(metadata: Metadata, fields: tuple[str, ...]) -> list[str]:
    names = {"icc_profile": "colour profile", "xmp": "XMP", "iptc": "IPTC", "comment": "comment",
             "text": "PNG text"}
    return [names[field] for field in fields if getattr(metadata, field)]


def _texts(metadata: Metadata) -> list[str]:
    return [f"PNG text ({', '.join(metadata.text)})"] if metadata.text else []


def _comment(metadata: Metadata) -> list[str]:
    return ["comment"] if metadata.comment else []


def _whole(dpi: tuple[float, float]) -> tuple[int, int]:
    return round(dpi[0]), round(dpi[1])
