"""Picture files: any common file -> 8-bit RGB with its alpha, ICC profile and EXIF."""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from .metadata import upright_exif

MAX_PIXELS = 80_000_000
"""Largest input, in pixels; a x4 enlargement of it has 1.28 gigapixels. Just below Pillow's own alarm."""

MIN_SIDE = 16
"""Smallest input side, in pixels: one latent of the enlarged picture needs two."""

READABLE = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF",
}  # fmt: skip
"""File suffix -> Pillow's format name, of the files a folder is searched for."""
# MPO is the JPEG of many phones; listing the formats keeps Pillow from starting Ghostscript for an EPS file.
_DECODERS = {*READABLE.values(), "MPO", "DIB"}


class ImageError(Exception):
    """A picture cannot be read or written. The message is one line: the file, what is wrong, what to do."""


@dataclass
class Photo:
    """A picture as the pipeline takes it, upright, with what has to survive beside the pixels."""

    rgb: np.ndarray
    """(H, W, 3) uint8."""
    alpha: np.ndarray | None = None
    """(H, W) uint8, 0 transparent; None where the file has none."""
    icc_profile: bytes | None = None
    """The RGB colour profile the pixels are in; None for sRGB or unknown."""
    exif: bytes | None = None
    """EXIF block with its orientation already applied and reset to 1."""


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a picture file, upright and as 8-bit RGB.

    Grey, palette, 16-bit and CMYK pictures are converted; CMYK and grey ones through their ICC profile where
    they have one. Of a file with several pictures the first is taken.

    Raises:
        ImageError: the path is missing, no picture, damaged, below ``MIN_SIDE`` or above ``max_pixels``.
            Size is judged by the header, before any pixel is decoded.
    """
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _open(path, max_pixels) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(path, f"{width}x{height}", max_pixels)
            if min(width, height) < MIN_SIDE:
                raise ImageError(f"{path}: {width}x{height} pixels is too small; "
                                 f"each side needs at least {MIN_SIDE}")
            try:
                image.load()
            except Exception as error:  # every codec has its own exceptions for damaged data
                raise ImageError(f"{path}: the picture is damaged or cut off ({first_line(error)}); "
                                 "get a fresh copy") from error
            exif = upright_exif(image)
            try:
                image = ImageOps.exif_transpose(image)
            except Exception:  # a damaged EXIF block says nothing about the pixels
                exif = None
            return _photo(path, image, exif)


def image_files(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """The picture files in a folder by their suffix, sorted by path; hidden ones are left out."""
    folder = Path(folder)
    found = folder.rglob("*") if recursive else folder.glob("*")
    return sorted(
        path for path in found
        if path.suffix.lower() in READABLE
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )  # fmt: skip


def _open(path: Path, max_pixels: int) -> Image.Image:
    """Header only; no pixel is decoded."""
    heif = _register_heif()
    Image.init()
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "special file"
            raise ImageError(f"{path}: is a {kind}, not a picture file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes); get a fresh copy")
        return Image.open(path, formats=sorted(_DECODERS & set(Image.OPEN)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, "this picture", max_pixels) from error
    except Image.UnidentifiedImageError as error:
        if READABLE.get(path.suffix.lower()) == "HEIF" and not heif:
            raise ImageError(f"{path}: HEIC needs one more package: pip install pillow-heif") from error
        raise ImageError(f"{path}: is not a picture this program can read; "
                         "save it as PNG, JPEG, WebP, TIFF or BMP") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; check the path") from error
    except ImageError:
        raise
    except Exception as error:  # headers are parsed by many hands
        raise ImageError(f"{path}: cannot be read ({first_line(error)})") from error


def _register_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _too_large(path: Path, size: str, max_pixels: int) -> ImageError:
    return ImageError(f"{path}: {size} is over the limit of {max_pixels / 1e6:g} megapixels; "
                      "shrink it or cut it into parts first")


def _photo(path: Path, image: Image.Image, exif: bytes | None) -> Photo:
    """Decoded and upright -> 8-bit RGB and alpha."""
    profile = image.info.get("icc_profile") or None
    alpha = None
    if image.mode.startswith("I"):
        image = _eight_bits(path, image)
    elif image.has_transparency_data:  # an alpha channel, or a colour or palette entry that is transparent
        image = image.convert("RGBA" if image.mode not in ("LA", "La") else "LA")
        alpha = np.array(image.getchannel("A"))
        image = image.convert(image.mode.removesuffix("A"))
    if image.mode == "F":  # its range is unknown, and Pillow would clip it to 0..255
        raise ImageError(f"{path}: floating-point pixels are not supported; save it as 8- or 16-bit")
    if profile and profile[16:20] != b"RGB ":  # bytes 16 to 19 of a profile's header: the colour space
        image, profile = _to_srgb(image, profile), None
    try:
        rgb = np.array(image.convert("RGB"))
    except ValueError as error:
        raise ImageError(f"{path}: pixels of type {image.mode} are not supported; "
                         "save it as 8- or 16-bit RGB or grey") from error
    return Photo(rgb, alpha, profile, exif)


def _eight_bits(path: Path, image: Image.Image) -> Image.Image:
    """16-bit grey (which older Pillow opens as 32-bit integers) to 8 bits: 65535 -> 255."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65_535:
        raise ImageError(f"{path}: 32-bit pixels are not supported; save it as 8- or 16-bit")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Through the file's CMYK or grey profile; as it is where the profile does not fit the pixels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted or image


def first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
