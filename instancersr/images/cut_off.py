"""JPEG files that end too early: decoded as far as they go, and how much of the picture is missing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

_END = b"\xff\xd9"
_MISSING = 128
"""The level that the decoder gives to blocks whose data never come."""


def complete_jpeg(path: Path) -> tuple[Image.Image, float] | None:
    """A cut-off JPEG with its end marker put back, decoded, and the share of its pixels that is missing.

    Returns:
        None where the file is no JPEG, or is wrong in another way.
    """
    data = path.read_bytes()
    if not data.startswith(b"\xff\xd8"):
        return None
    if data.endswith(b"\xff"):  # half of a marker
        data = data[:-1]
    try:
        image = Image.open(io.BytesIO(data + _END), formats=["JPEG"])
        image.load()
    except Exception:  # every codec has its own exceptions for damaged data
        return None
    return image, _share_missing(image)


def _share_missing(image: Image.Image) -> float:
    """The blocks at the end, in reading order, that hold nothing but the level of missing data, as a share.

    The decoder fills whole blocks (MCUs); their rims are blended with their neighbours' colours, and do not count. The
    block before them is the one in which the data end, so it is missing as well.
    """
    luma = np.asarray(image.convert("L"))
    layers = getattr(image, "layer", [])  # (number, horizontal and vertical sampling, table) of each component
    width, height = (8 * max((layer[place] for layer in layers), default=1) for place in (1, 2))
    rows, columns = -(-luma.shape[0] // height), -(-luma.shape[1] // width)
    for block in range(rows * columns - 1, -1, -1):
        top, left = block // columns * height, block % columns * width
        if (luma[top + 1 : top + height - 1, left + 1 : left + width - 1] != _MISSING).any():
            return 0.0 if block == rows * columns - 1 else 1 - block / (rows * columns)
    return 1.0
