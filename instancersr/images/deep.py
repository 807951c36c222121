"""Pixels of 16 bits: Pillow opens and saves colour with 8 bits only, but its decoders can be asked for either byte."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags

from .pixels import PixelError

_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER = {"L": "B", "B": "L"}
_COLOR = re.compile("(RGB[AX]?|[RGBA]);16")
_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284  # a TIFF's tags
_IN_PLANES, _WHITE_IS_ZERO = 2, 0


def has_16_bits(image: Any) -> bool:
    """Whether an open, not yet loaded PNG or TIFF has samples of 16 bits."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS, (1,))) == 16
    return image.format == "PNG" and any(";16" in _raw_mode(tile) for tile in image.tile)


def is_deep_color(image: Any) -> bool:
    """Whether an open, not yet loaded picture has 16-bit colour, of which Pillow would drop the lower bytes.

    Of compressed planes it cannot give them.
    """
    return (bool(image.tile) and all(_COLOR.match(_raw_mode(tile)) for tile in image.tile)
            and not (_in_planes(image) and image.tile[0].codec_name == "libtiff"))


def is_negative(image: Any) -> bool:
    """Whether 0 is white in an open 16-bit grey TIFF; Pillow turns round those of 8 bits alone."""
    return image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def positive(image: Image.Image) -> Image.Image:
    """A decoded 16-bit grey picture with black and white exchanged."""
    return Image.fromarray(65_535 - np.asarray(image))


def mend_planes(image: Any) -> None:
    """Has the planes of an open, not yet loaded 16-bit TIFF decoded as such; without compression Pillow takes 8 bits.

    Raises:
        PixelError: Pillow cannot decode them at all.
    """
    if not (_in_planes(image) and has_16_bits(image)) or image.tile[0].codec_name != "raw":
        return
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    modes = {"I": image.mode} | {letter: f"{letter};16{order}" for letter in "RGBA"}
    if not all(_raw_mode(tile) in modes for tile in image.tile):
        raise PixelError("16-bit channels in planes are not supported in this kind of picture; save it with "
                         "interleaved channels")
    image.tile = [tile._replace(args=_with_raw_mode(tile.args, modes[_raw_mode(tile)])) for tile in image.tile]


def _in_planes(image: Any) -> bool:
    return bool(image.tile) and getattr(image, "tag_v2", {}).get(_PLANAR) == _IN_PLANES


def ask_for_lower_bytes(image: Any) -> None:
    """Makes a picture that was opened, but not loaded, decode to the lower byte of each 16-bit sample.

    Pillow's "RGB;16B" takes the first byte of each sample, "RGB;16L" the second one: the other name gives the other
    byte.
    """
    image.tile = [tile._replace(args=_with_raw_mode(tile.args, _swapped(_raw_mode(tile)))) for tile in image.tile]


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0])


def _with_raw_mode(args: Any, mode: str) -> Any:
    return mode if isinstance(args, str) else (mode, *args[1:])


def _swapped(mode: str) -> str:
    order = mode[-1].replace("N", _NATIVE)
    return mode[:-1] + _OTHER[order]


# ------------------------------------------------------------------------------------------------- writing


def save_png(file: IO[bytes], pixels: np.ndarray, **options: Any) -> None:
    """A PNG of (H, W, C) uint16 pixels: grey, grey and alpha, RGB or RGBA.

    Args:
        options: metadata, as for Pillow's `save`, which writes all but the pixels.
    """
    height, width, channels = pixels.shape
    frame = io.BytesIO()
    Image.new("L", (1, 1)).save(frame, "PNG", **options)
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    header = struct.pack(">IIBBBBB", width, height, 16, kinds[channels], 0, 0, 0)
    file.write(frame.getvalue()[:8])
    for name, body in _chunks(frame.getvalue()):
        if name == b"IDAT":
            _write_rows(file, pixels)
        else:
            _write_chunk(file, name, header if name == b"IHDR" else body)


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _write_chunk(file: IO[bytes], name: bytes, body: bytes) -> None:
    file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))


def _write_rows(file: IO[bytes], pixels: np.ndarray) -> None:
    """The pixels, row by row, each less its left neighbour (PNG's filter "Sub"), deflated."""
    packer = zlib.compressobj()
    step = 2 * pixels.shape[2]
    for row in pixels:
        line = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
        filtered = line.copy()
        filtered[step:] -= line[:-step]
        packed = packer.compress(b"\1" + filtered.tobytes())
        if packed:
            _write_chunk(file, b"IDAT", packed)
    _write_chunk(file, b"IDAT", packer.flush())


def save_tiff(file: IO[bytes], pixels: np.ndarray, *, exif: Image.Exif | None = None, icc_profile: bytes | None = None,
              dpi: tuple[float, float] | None = None) -> None:
    """A TIFF of (H, W, C) uint16 pixels: grey, grey and alpha, RGB or RGBA, deflated.

    Raises:
        ValueError: more bytes than a TIFF holds.
    """
    height, width, channels = pixels.shape
    data = zlib.compress(np.ascontiguousarray(pixels, "<u2").tobytes())
    if len(data) > 2**32 - 2**20:
        raise ValueError("over the 4 GB of a TIFF; use PNG")
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in (exif or {}).items():
        tags[tag] = value if exif is None or tag not in TiffTags.TAGS_V2_GROUPS else exif.get_ifd(tag)
    if dpi:
        tags[282], tags[283], tags[296] = *dpi, 2
    if icc_profile:
        tags[34675] = icc_profile
    tags[256], tags[257], tags[258], tags[277] = width, height, (16,) * channels, channels
    tags[262] = 1 if channels < 3 else 2
    tags[259], tags[284], tags[278] = 8, 1, height
    if channels in (2, 4):
        tags[338] = 2
    tags.tagtype[279] = tags.tagtype[273] = 4  # long
    tags[279], tags[273] = len(data), 0
    tags.save(file)
    file.write(data)


def save_tiff_pages(file: IO[bytes], pages: Sequence[np.ndarray], **options: Any) -> None:
    """Pages as `save_tiff` saves one; `options` are all of theirs."""
    with TiffImagePlugin.AppendingTiffWriter(file) as writer:
        for page in pages:
            save_tiff(writer, page, **options)
            writer.newFrame()


SAVERS: dict[str, Callable[..., None]] = {"PNG": save_png, "TIFF": save_tiff}
"""By Pillow's name of the format."""


# ------------------------------------------------------------------------------------- 16 bits of a result


_ROUNDING = 160
"""Difference, in 16-bit steps, that the 8-bit result has from rounding alone: half of 257, and a little."""


def deepen(picture: np.ndarray, source: np.ndarray) -> np.ndarray:
    """A result with 16 bits: from its own 8 bits, and the source's where the two agree but for rounding.

    Where the result differs from the plain enlargement of the source by less than 8 bits can say, the plain
    enlargement is it; where it differs by more, it stays as it is. In between one fades into the other.

    Args:
        picture: (H, W, 3) uint8, the result.
        source: (h, w, 3) uint16, what it was made from.

    Returns:
        (H, W, 3) uint16.
    """
    height, width = picture.shape[:2]
    result = np.empty(picture.shape, np.uint16)
    for channel in range(3):
        plain = np.asarray(Image.fromarray(source[..., channel].astype(np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC))
        difference = picture[..., channel] * np.float32(257) - plain
        keep = np.clip(np.abs(difference) / _ROUNDING - 1, 0, 1)
        result[..., channel] = np.rint(np.clip(plain + keep * difference, 0, 65_535))
    return result
