"""Decoded pixels of any kind -> RGB with 8 bits, and with 16 where the file has them."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageCms

from .metadata import Metadata
from .transparency import fill_hidden


class PixelError(ValueError):
    """Pixels of a kind that is not supported: the end of a sentence that begins with the file's name."""


@dataclass
class Photo:
    """A picture as the pipeline takes it, upright, with what has to survive beside the pixels."""

    rgb: np.ndarray
    """(H, W, 3) uint8; under full transparency the nearest visible colours. Grey pictures have equal channels."""
    alpha: np.ndarray | None = None
    """(H, W) uint8, 0 transparent; None where the file has none."""
    metadata: Metadata = Metadata()
    deep: np.ndarray | None = None
    """(H, W, 3) uint16, the same picture where the file has 16 bits."""
    stretch: int = 1
    """What the levels of a 16-bit picture were multiplied by, because only the lower ones of 16 bits are used."""
    format: str | None = None
    """Pillow's name of the file's format."""
    quality: int | None = None
    """1 to 100, as the file's JPEG tables say (`compression.jpeg_quality`); None where it has none."""
    frames: int = 1
    """Pages or frames in the file that can be enlarged, this one among them."""
    duration: int | None = None
    """Milliseconds that this frame of an animation is shown."""
    plays: int = 0
    """How often an animation is shown; 0 is for ever."""
    cut_off: bool = False
    """Whether the file ends too early; what is missing is grey, or coarse."""
    notes: tuple[str, ...] = ()
    """A line for each thing in the file that was dropped or changed."""

    @property
    def is_grey(self) -> bool:
        """Whether no pixel has a colour."""
        return is_grey(self.rgb)


def is_grey(rgb: np.ndarray) -> bool:
    """Whether the channels of (H, W, 3) are equal everywhere."""
    return bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all())


def to_photo(image: Image.Image, metadata: Metadata = Metadata(), lower: Image.Image | None = None) -> Photo:  # noqa: B008
    """A decoded, upright picture as a `Photo`.

    Args:
        image: any mode; of 16-bit colour the upper bytes.
        metadata: of the file.
        lower: the lower bytes of 16-bit colour, in the same mode.

    Raises:
        PixelError: pixels of an unknown range, or of a kind that is not supported.
    """
    profile, alpha, deep, stretch, notes = metadata.icc_profile, None, None, 1, []
    if image.mode.startswith("I") or lower is not None:
        levels = np.asarray(image) if lower is None else _joined(image, lower)
        alpha = np.array(image.getchannel("A")) if image.mode == "RGBA" else _keyed_alpha(image, levels)
        deep, stretch = _sixteen_bits(levels)
        image = Image.fromarray(to_8_bits(deep))
        deep = deep if deep.ndim == 3 else np.repeat(deep[..., None], 3, 2)
    elif image.has_transparency_data:  # an alpha channel, or a colour or palette entry that is transparent
        image = image.convert("RGBA" if image.mode not in ("LA", "La") else "LA")
        alpha = np.array(image.getchannel("A"))
    if image.mode == "F":  # its range is unknown, and Pillow would clip it to 0..255
        raise PixelError("floating-point pixels are not supported; save it as 8- or 16-bit")
    if alpha is not None and image.mode.endswith("A"):
        image = image.convert(image.mode.removesuffix("A"))
    if profile and not _fits(profile, image):
        converted = _to_srgb(image, profile)
        image, profile = converted or image, None
        plainly = "; its colours were converted to sRGB by a plain formula" if image.mode == "CMYK" else ""
        notes.append("its colours were converted to sRGB" if converted else
                     f"its colour profile is damaged, or for another kind of pixels, and was left out{plainly}")
    elif image.mode == "CMYK":
        notes.append("it is CMYK without a colour profile; its colours were converted to sRGB by a plain formula")
    try:
        rgb = np.array(image.convert("RGB"))
    except ValueError as error:
        raise PixelError(f"pixels of type {image.mode} are not supported; "
                         "save it as 8- or 16-bit RGB or grey") from error
    if alpha is not None:
        rgb = fill_hidden(rgb, alpha)
        deep = deep if deep is None else fill_hidden(deep, alpha)
    return Photo(rgb, alpha, replace(metadata, icc_profile=profile), deep, stretch, notes=tuple(notes))


def to_8_bits(levels: np.ndarray) -> np.ndarray:
    """uint16 levels as uint8, rounded."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _joined(upper: Image.Image, lower: Image.Image) -> np.ndarray:
    """(H, W, 3) uint16 of two pictures of bytes."""
    return np.asarray(upper.convert("RGB")).astype(np.uint16) << 8 | np.asarray(lower.convert("RGB"))


def _keyed_alpha(image: Image.Image, levels: np.ndarray) -> np.ndarray | None:
    """Alpha (H, W) uint8 where a PNG names a level, or a colour, of its (H, W) or (H, W, 3) as the transparent one."""
    key = image.info.get("transparency")
    if key is None:
        return None
    clear = levels == np.asarray(key)
    return np.where(clear if clear.ndim == 2 else clear.all(2), 0, 255).astype(np.uint8)


def _sixteen_bits(levels: np.ndarray) -> tuple[np.ndarray, int]:
    """Levels as uint16, and what they were multiplied by: cameras and scanners put 10, 12 or 14 bits into 16."""
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65_535:
        raise PixelError("32-bit pixels are not supported; save it as 8- or 16-bit")
    stretch = next((2**shift for shift in (6, 4, 2) if 0 < high < 2 ** (16 - shift)), 1)
    return (levels.astype(np.int64) * stretch).astype(np.uint16), stretch


def _fits(profile: bytes, image: Image.Image) -> bool:
    """Whether the result's pixels can stay in a profile: bytes 16 to 19 of its header are the colour space."""
    return image.mode != "CMYK" and profile[16:20] in (b"RGB ", b"GRAY" if image.mode in ("1", "L") else b"RGB ")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Through the file's profile, such as a CMYK one; None where the profile does not fit the pixels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
