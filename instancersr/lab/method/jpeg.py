"""What a JPEG file does to a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """Compresses and decompresses a picture with Pillow's codec, in memory.

    Args:
        picture: (H, W, 3) RGB in [0, 1], rounded to 8 bits first.
        quality: 1 to 100.

    Returns:
        (H, W, 3) float32, multiples of 1/255.
    """
    file = io.BytesIO()
    Image.fromarray(to_levels(picture)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).astype(np.float32) / 255


def to_levels(picture: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1], others clamped -> uint8."""
    return np.clip(picture * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
