"""Picture files: any common file -> 8-bit RGB with its alpha, ICC profile and EXIF, and back, atomically."""

from __future__ import annotations

import io
import os
import stat
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

MAX_PIXELS = 80_000_000
"""Largest input, in pixels; a x4 enlargement of it has 1.28 gigapixels. Just below Pillow's own alarm."""

MIN_SIDE = 16
"""Smallest input side, in pixels: one latent of the enlarged picture needs two."""

READABLE = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF",
}  # fmt: skip
"""File suffix -> Pillow's format name, of the files a folder is searched for."""

WRITABLE = {suffix: name for suffix, name in READABLE.items() if name != "HEIF"}
"""File suffix -> Pillow's format name, of the files that can be written."""

_LONGEST_SIDE = {"JPEG": 65_535, "WEBP": 16_383, "AVIF": 65_536}
_WITH_ALPHA = {"PNG", "WEBP", "TIFF", "AVIF"}
_WITH_METADATA = _WITH_ALPHA | {"JPEG"}
# MPO is the JPEG of many phones; listing the formats keeps Pillow from starting Ghostscript for an EPS file.
_DECODERS = {*READABLE.values(), "MPO", "DIB"}
# TIFF tags that describe the storage of the pixels, not the photo: wrong in any other file.
_STORAGE_TAGS = {
    254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 297, 317, 320, 322,
    323, 324, 325, 330, 332, 334, 338, 339, 340, 341, 347, 512, 513, 514, 529, 530, 531, 532, 34675,
}  # fmt: skip
_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003


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
                raise ImageError(f"{path}: the picture is damaged or cut off ({_first_line(error)}); "
                                 "get a fresh copy") from error
            exif = _upright_exif(image)
            try:
                image = ImageOps.exif_transpose(image)
            except Exception:  # a damaged EXIF block says nothing about the pixels
                exif = None
            return _photo(path, image, exif)


def write_image(
    path: str | os.PathLike[str],
    rgb: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    quality: int = 95,
) -> list[str]:
    """Write a picture in the format its suffix names, completely or not at all.

    The file is written under a temporary name in the same folder and renamed when it is complete.

    Args:
        path: where to; an existing file is replaced.
        rgb: (H, W, 3) uint8.
        alpha: (H, W) uint8; laid over white where the format has no transparency.
        icc_profile: colour profile to embed.
        exif: EXIF block to embed; its pixel size is set to that of ``rgb``.
        quality: of JPEG, WebP (lossy) and AVIF, 1 to 100.

    Returns:
        One line for each thing the format could not keep, mostly none.

    Raises:
        ImageError: unknown suffix, size beyond the format's, or the file cannot be written.
    """
    path = Path(path)
    height, width = rgb.shape[:2]
    check_writable(path, width, height)
    kind = WRITABLE[path.suffix.lower()]
    notes = []
    image = Image.fromarray(rgb)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
        if kind not in _WITH_ALPHA:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
            notes.append(f"{path}: {kind} has no transparency, so the picture was laid over white")
    options: dict[str, object] = {}
    if kind in _WITH_METADATA:
        options = {"icc_profile": icc_profile, "exif": exif and _resized_exif(exif, width, height)}
        options = {key: value for key, value in options.items() if value}
    elif icc_profile:
        notes.append(f"{path}: {kind} keeps no colour profile; use PNG to keep it")
    if kind in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = quality
    if kind == "JPEG":
        options["subsampling"] = 0

    with _whole_file(path) as file:
        image.save(file, format=kind, **options)  # type: ignore[arg-type]
    return notes


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, completely or not at all.

    Raises:
        ImageError: the file cannot be written.
    """
    with _whole_file(Path(path)) as file:
        file.write(text.encode())


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    # Short and hidden: a long name would not fit beside a prefix, and a folder listing must not pick it up.
    part = path.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        with open(part, "xb") as file:
            yield file
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, Exception):
            raise ImageError(f"{path}: cannot be written ({_first_line(error)})") from error
        raise


def check_writable(path: str | os.PathLike[str], width: int = 1, height: int = 1) -> None:
    """Find out before the work what would stop ``write_image`` after it.

    Raises:
        ImageError: unknown suffix, (width, height) in pixels beyond the format's limit, path is a folder, or
            its folder is missing or closed to us.
    """
    path = Path(path)
    kind = WRITABLE.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: cannot write a {path.suffix or 'suffix-less'} file; "
                         f"name it {', '.join(WRITABLE)}")
    Image.init()
    if kind not in Image.SAVE:
        raise ImageError(f"{path}: this Pillow cannot write {kind}; update it with: pip install -U pillow")
    limit = _LONGEST_SIDE.get(kind)
    if limit and max(width, height) > limit:
        raise ImageError(f"{path}: {width}x{height} is beyond the {limit} pixels of {kind}; use PNG")
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not a file to write")
        if not path.parent.is_dir():
            raise ImageError(f"{path}: the folder {path.parent} does not exist")
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({_first_line(error)})") from error
    if not os.access(path.parent, os.W_OK):
        raise ImageError(f"{path}: no permission to write in the folder {path.parent}")


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
        raise ImageError(f"{path}: cannot be read ({_first_line(error)})") from error


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


def _upright_exif(image: Image.Image) -> bytes | None:
    try:
        exif = Image.Exif()
        exif.load(image.getexif().tobytes())  # a copy: the orientation is still needed
        for tag in _STORAGE_TAGS & set(exif):
            del exif[tag]
        if ExifTags.Base.Orientation in exif:
            exif[ExifTags.Base.Orientation] = 1
        return exif.tobytes() if exif else None
    except Exception:  # EXIF from the wild breaks parsers in many ways, and the pixels are what matters
        return None


def _resized_exif(block: bytes, width: int, height: int) -> bytes:
    exif = Image.Exif()
    exif.load(block)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    if _EXIF_WIDTH in details or _EXIF_HEIGHT in details:
        details[_EXIF_WIDTH], details[_EXIF_HEIGHT] = width, height
    return exif.tobytes()


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
