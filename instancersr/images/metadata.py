"""What stands beside the pixels of a picture: read from a file, and brought up to date for its enlargement."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

from ..installation import installed_version

PROGRAM = "InstanceRSR"
"""Begins the note that each picture bears which this program wrote."""

# TIFF tags that describe the storage of the pixels, not the photo: wrong in any other file.
_STORAGE_TAGS = {
    254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 297, 317, 320, 322,
    323, 324, 325, 330, 332, 334, 338, 339, 340, 341, 347, 512, 513, 514, 529, 530, 531, 532, 34675,
}  # fmt: skip
_XMP, _IPTC, _PHOTOSHOP = 700, 33723, 34377
_ELSEWHERE = {_XMP, _IPTC, _PHOTOSHOP, 282, 283, 296}  # tags of a TIFF that are fields of `Metadata`
_IPTC_RESOURCE = 0x0404
_DROPPED_FIRST = ("Exif", 0x927C), ("Exif", 0x9286)  # maker note, user comment
_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003
_SRGB_GAMMA, _SRGB_CHROMATICITY = 1 / 2.2, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""What a PNG says of sRGB in its gAMA and cHRM: the white point, then red, green and blue."""
_IPTC_TEXT = "Raw profile type iptc"
"""The key under which ImageMagick and ExifTool keep IPTC in a PNG."""


@dataclass(frozen=True)
class Metadata:
    """What has to survive beside the pixels.

    icc_profile: the colour profile the pixels are in; None for sRGB or unknown. exif: EXIF block, its orientation
    applied and reset to 1. dpi: pixels an inch, across and down. xmp: the packet. iptc: the records. comment: of a
    JPEG or GIF. text: a PNG's keys and texts. software: what wrote the file, where it says so.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: str | None = None
    text: dict[str, str] = field(default_factory=dict)
    software: str | None = None


@cache
def program() -> str:
    """The program's name and version, as results bear it."""
    return " ".join(filter(None, [PROGRAM, installed_version()]))


# ------------------------------------------------------------------------------------------------- reading


def read_metadata(image: Image.Image) -> tuple[Metadata, list[str]]:
    """The metadata of an open picture, and a line for each part that is damaged or cannot stay true.

    A PNG must be loaded before: it may have texts behind its pixels.
    """
    notes: list[str] = []
    info = image.info
    exif = _upright_exif(image)
    if exif is None and info.get("exif"):
        notes.append("its EXIF block is damaged and was left out")
    text = {key: str(value) for key, value in getattr(image, "text", {}).items()} if image.format == "PNG" else {}
    iptc = _iptc(image, text)
    text = {key: value for key, value in text.items()
            if key not in ("XML:com.adobe.xmp", "Software", "Comment") and not key.startswith("Raw profile type")}
    comment = info.get("comment") or (getattr(image, "text", {}).get("Comment") if image.format == "PNG" else None)
    xmp = _xmp(image)
    if xmp and re.search(rb"hdrgm:|GainMap|MotionPhoto|MicroVideo", xmp):
        what = "a gain map (HDR)" if re.search(rb"hdrgm:|GainMap", xmp) else "a short video (motion photo)"
        notes.append(f"it holds {what}, which was left out, and the XMP that describes it")
        xmp = None
    if colors := _other_colors(image):
        notes.append(f"its {' and '.join(colors)}, not sRGB's, were left out; its colours were taken for sRGB")
    metadata = Metadata(info.get("icc_profile") or None, exif, _dpi(image), xmp, iptc, _as_text(comment), text,
                        software(image))
    return metadata, notes


def software(image: Image.Image) -> str | None:
    """What wrote an open file, where it says so. No pixel is decoded."""
    if image.format in ("BMP", "DIB"):
        return PROGRAM if _bmp_mark(image) else None
    named = image.info.get("Software") if image.format == "PNG" else None
    if not named and (image.format != "PNG" or "exif" in image.info):  # a PNG would be decoded to look for it
        try:
            named = image.getexif().get(ExifTags.Base.Software)
        except Exception:  # EXIF from the wild breaks parsers in many ways
            named = None
    if not named and image.format == "GIF":
        comment = _as_text(image.info.get("comment")) or ""
        named = comment if comment.startswith(PROGRAM) else None
    return _as_text(named)


def _bmp_mark(image: Image.Image) -> bool:
    file = getattr(image, "fp", None)
    if file is None:
        return False
    at = file.tell()
    file.seek(6)
    mark = file.read(len(BMP_MARK))
    file.seek(at)
    return mark == BMP_MARK


BMP_MARK = b"IRSR"
"""In the four bytes of a BMP's header that belong to the program which writes it."""


def _upright_exif(image: Image.Image) -> bytes | None:
    try:
        exif = Image.Exif()
        exif.load(image.getexif().tobytes())  # a copy: the orientation is still needed
        outside = _STORAGE_TAGS | _ELSEWHERE if image.format in ("TIFF", "MPO") else _STORAGE_TAGS
        for tag in outside & set(exif):
            del exif[tag]
        if ExifTags.Base.Orientation in exif:
            exif[ExifTags.Base.Orientation] = 1
        return exif.tobytes() if exif else None
    except Exception:  # EXIF from the wild breaks parsers in many ways, and the pixels are what matters
        return None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Pixels an inch, across and down the picture when it is upright."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None and (tags.get(282) is None or tags.get(296, 2) == 1):  # no resolution, or none with a unit
        return None
    try:
        if (image.format in ("WEBP", "AVIF", "HEIF")  # there it stands in EXIF alone
                or image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2)):
            exif = image.getexif()
            inch = {2: 1.0, 3: 2.54}[exif[296]]
            across, down = (float(exif[tag]) * inch for tag in (282, 283))
        else:
            across, down = (float(value) for value in image.info["dpi"])
    except Exception:  # missing, or fractions of zero
        return None
    if not (1 < across < 1e5 and 1 < down < 1e5):
        return None
    return (down, across) if _lies_on_its_side(image) else (across, down)


def _lies_on_its_side(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # as above: then it is not turned
        return False


def _other_colors(image: Image.Image) -> list[str]:
    """What a PNG says of its colours that is not true of sRGB; a profile, and the mark of sRGB, count before that."""
    info = image.info
    if image.format != "PNG" or info.get("icc_profile") or "srgb" in info:
        return []
    gamma, chromaticity = info.get("gamma"), info.get("chromaticity", ())
    found = ["gamma (gAMA)"] if gamma and abs(gamma - _SRGB_GAMMA) > 0.005 else []
    if len(chromaticity) == 8 and any(
            abs(value - expected) > 0.002 for value, expected in zip(chromaticity, _SRGB_CHROMATICITY, strict=True)):
        found.append("primaries (cHRM)")
    return found


def _xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or getattr(image, "tag_v2", {}).get(_XMP)
    if not xmp and image.format == "PNG":
        xmp = getattr(image, "text", {}).get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    return bytes(xmp) if isinstance(xmp, (bytes, bytearray)) and xmp.strip(b"\0 \r\n") else None


def _iptc(image: Image.Image, text: dict[str, str]) -> bytes | None:
    try:
        if _IPTC_TEXT in text:
            return _unpack_resources(bytes.fromhex("".join(text[_IPTC_TEXT].split("\n")[3:])))
        tags = getattr(image, "tag_v2", {})
        if tags.get(_IPTC):
            return bytes(tags[_IPTC])
        found = image.info.get("photoshop") or tags.get(_PHOTOSHOP)
        if isinstance(found, dict):
            return found.get(_IPTC_RESOURCE)
        return _unpack_resources(bytes(found)) if found else None
    except Exception:  # damaged records
        return None


def _unpack_resources(block: bytes) -> bytes | None:
    """The IPTC records among Photoshop's image resources, or the block itself where it is records already."""
    if not block.startswith(b"8BIM"):
        return block or None
    at = 0
    while block[at : at + 4] == b"8BIM":
        code = int.from_bytes(block[at + 4 : at + 6], "big")
        at += 6 + (block[at + 6] + 2) // 2 * 2  # a name, padded to an even length with its own length's byte
        size = int.from_bytes(block[at : at + 4], "big")
        if code == _IPTC_RESOURCE:
            return block[at + 4 : at + 4 + size]
        at += 4 + (size + 1) // 2 * 2
    return None


def _as_text(value: Any) -> str | None:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return str(value).strip("\0").strip() or None if value else None


# ------------------------------------------------------------------------------------------- for the result


def photoshop_block(iptc: bytes) -> bytes:
    """IPTC records as Photoshop's image resources, the form in which a JPEG holds them."""
    return (b"8BIM" + _IPTC_RESOURCE.to_bytes(2, "big") + b"\0\0" + len(iptc).to_bytes(4, "big") + iptc
            + b"\0" * (len(iptc) % 2))


def iptc_text(iptc: bytes) -> tuple[str, str]:
    """Key and text under which a PNG holds IPTC records."""
    block = photoshop_block(iptc)
    lines = re.sub("(.{72})", r"\1\n", block.hex())
    return _IPTC_TEXT, f"\niptc\n{len(block):8d}\n{lines}\n"


def signature(metadata: Metadata) -> str:
    """What a result says of its origin: this program, and in brackets the one that wrote the source."""
    before = metadata.software
    return program() if not before or before.startswith(PROGRAM) else f"{program()} ({before})"


def update(metadata: Metadata, width: int, height: int) -> Metadata:
    """The metadata of a result of this size: pixel sizes, orientation and resolution are true, thumbnails gone."""
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    details = exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in exif else {}
    if _EXIF_WIDTH in details or _EXIF_HEIGHT in details:
        details[_EXIF_WIDTH], details[_EXIF_HEIGHT] = width, height
    exif[ExifTags.Base.Software] = signature(metadata)
    if metadata.dpi:
        for tag, value in zip((282, 283), metadata.dpi, strict=True):
            exif[tag] = TiffImagePlugin.IFDRational(round(value * 10_000), 10_000)
        exif[296] = 2
    return replace(metadata, exif=exif.tobytes(), xmp=metadata.xmp and _updated_xmp(metadata.xmp, width, height))


def _updated_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """Replaces what the packet says of size and orientation, whether as attributes or as elements."""
    for name, value in ((b"tiff:Orientation", 1), (b"tiff:ImageWidth", width), (b"tiff:ImageLength", height),
                        (b"exif:PixelXDimension", width), (b"exif:PixelYDimension", height)):
        new = str(value).encode()
        xmp = re.sub(name + rb"(\s*=\s*)([\"'])\d+\2", rb"%b\1\g<2>%b\2" % (name, new), xmp)
        xmp = re.sub(rb"<%b>\s*\d+\s*</%b>" % (name, name), b"<%b>%b</%b>" % (name, new, name), xmp)
    return re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", xmp, flags=re.DOTALL)


def shorten_exif(block: bytes, limit: int) -> tuple[bytes, list[str]]:
    """An EXIF block of at most so many bytes, and the names of the parts it lost.

    First what only the camera's maker reads, then the user's comment, then the largest.
    """
    lost: list[str] = []
    while len(block) > limit:
        exif = Image.Exif()
        exif.load(block)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        sizes = {("", tag): _size(value) for tag, value in exif.items() if tag not in set(ExifTags.IFD)}
        sizes |= {("Exif", tag): _size(value) for tag, value in details.items() if tag != ExifTags.IFD.Interop}
        if not sizes:
            return b"", [*lost, "all of it"]
        where, tag = next((key for key in _DROPPED_FIRST if key in sizes), max(sizes, key=lambda key: sizes[key]))
        del (details if where else exif)[tag]
        lost.append(ExifTags.TAGS.get(tag, f"tag {tag}"))
        block = exif.tobytes()
    return block, lost


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (bytes, str)) else 8 * len(value) if isinstance(value, tuple) else 8
