"""EXIF of a picture that is turned upright, and of one that is enlarged."""

from __future__ import annotations

from PIL import ExifTags, Image

# TIFF tags that describe the storage of the pixels, not the photo: wrong in any other file.
_STORAGE_TAGS = {
    254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 297, 317, 320, 322,
    323, 324, 325, 330, 332, 334, 338, 339, 340, 341, 347, 512, 513, 514, 529, 530, 531, 532, 34675,
}  # fmt: skip
_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003


def upright_exif(image: Image.Image) -> bytes | None:
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


def resized_exif(block: bytes, width: int, height: int) -> bytes:
    exif = Image.Exif()
    exif.load(block)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    if _EXIF_WIDTH in details or _EXIF_HEIGHT in details:
        details[_EXIF_WIDTH], details[_EXIF_HEIGHT] = width, height
    return exif.tobytes()
