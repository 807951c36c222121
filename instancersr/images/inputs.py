"""What a caller in Python gives as a picture: a path, a PIL picture, an array, or a photo that was read before."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from PIL import Image

from .compression import jpeg_quality
from .metadata import Metadata
from .pixels import Photo, to_photo
from .reading import read_image, upright

Picture = Image.Image | np.ndarray | str | os.PathLike | Photo


def as_photo(image: Picture) -> Photo:
    """A picture of any kind that the upscaler takes, upright, with what stands beside the pixels.

    Raises:
        ValueError: it is of another kind, or has other pixels. ImageError: the file cannot be read.
    """
    if isinstance(image, Photo):
        return image
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if not isinstance(image, (Image.Image, np.ndarray)):
        raise ValueError("image: expected a path, a PIL picture or an array (H, W, 3) uint8, "
                         f"not {type(image).__name__}")
    photo = _from_pil(image) if isinstance(image, Image.Image) else Photo(image)
    shape, dtype = photo.rgb.shape, photo.rgb.dtype
    if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, not {shape} {dtype}")
    if not photo.rgb.size:
        raise ValueError("image: it has no pixels")
    return photo


def _from_pil(image: Image.Image) -> Photo:
    photo = to_photo(upright(image), Metadata(icc_profile=image.info.get("icc_profile") or None))
    return replace(photo, quality=jpeg_quality(image))
