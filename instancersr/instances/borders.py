"""What a small network sees in a photo: borders of objects, and how alike two places are."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from ..engines.onnx import SessionSettings, open_session
from ..geometry import SCALE

NETWORK = Path(__file__).with_name("borders.onnx")
"""`benchmarks/fit_borders.py` trains it and writes it with weights."""
HALF = 2
"""HR pixels along a pixel that the network sees."""
WHOLE = 64
"""HR pixels of the coarsest cell that the network sees: it wants sides that are multiples of it."""


class Seen(NamedTuple):
    """borders (K, h, w): how likely one runs through a cell, in [0, 1]. embeddings (K, E, h, w): the squared distance
    of two cells is small where they belong together. K kinds of masks have taught it; cells are of one LR pixel.
    """

    borders: np.ndarray
    embeddings: np.ndarray


def see_borders(photo: np.ndarray) -> Seen:
    """What the network sees in a photo (H, W, 3) in [0, 1]; sides divisible by SCALE."""
    missing = [(0, -side % WHOLE) for side in photo.shape[:2]]
    padded = np.pad(photo.astype(np.float32), (*missing, (0, 0)), mode="symmetric")
    seen = _network().run(None, {"photo": padded})
    height, width = (side // SCALE for side in photo.shape[:2])
    return Seen(*(values[..., :height, :width] for values in seen))


@lru_cache(maxsize=1)
def _network() -> ort.InferenceSession:
    return open_session(NETWORK, SessionSettings(threads=1))
