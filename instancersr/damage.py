"""How damaged a photo is, as a small network reads it off its pixels, and what follows for how it is drawn."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from .engines.onnx import SessionSettings, open_session

NETWORK = Path(__file__).with_name("damage.onnx")
"""(h, w, 3) uint8 -> odds of damage and of noise; `benchmarks/fit_damage.py` trains it and writes it with weights."""
SMALLEST, LARGEST = 32, 512
"""Sides in pixels. A smaller photo is mirrored to the first; of a larger one the middle is looked at."""
COMPRESSED = (95, 85)
"""Qualities of a JPEG between which its own word for damage goes from 0 to 1."""
DAMAGED = 0.4
"""Odds of damage from which a photo is drawn with the model's own weights where nobody chooses. Below even: to draw a
damaged photo with the grain parts, which sharpen its damage, costs more than the contrary."""
CLEANED = 0.83
"""Share of its restored self that a noisy photo is mixed with before it is drawn."""
NOISY = (0.2, 0.4)
"""Odds of noise between which a photo's cleaning grows from none to that."""


def automatic_denoise(photo: np.ndarray, quality: int | None = None) -> float:
    """What a photo's damage asks for: 0, the grain parts' weights, or 1, the model's own.

    Args:
        photo: (h, w, 3) uint8.
        quality: of the JPEG that the photo comes from, 1 to 100; None: it says nothing.
    """
    return 1.0 if estimate_damage(photo, quality) >= DAMAGED else 0.0


def automatic_cleaning(photo: np.ndarray) -> float:
    """The share of its restored self that a photo (h, w, 3) uint8 is to be mixed with before it is drawn.

    Under noise the networks blur what they are not sure of. What of it survives the first look is drawn more sharply by
    the second, with no more noise.
    """
    begin, end = NOISY
    return CLEANED * float(np.clip((estimate_noise(photo) - begin) / (end - begin), 0, 1))


def estimate_damage(photo: np.ndarray, quality: int | None = None) -> float:
    """The odds, 0 to 1, that a photo has been through more than a good camera: noise, grain, JPEG, resizes.

    Args:
        photo: (h, w, 3) uint8.
        quality: of the JPEG that the photo comes from, 1 to 100. A low one is damage; a high one says nothing, as a
            damaged photo may have been saved again. None: unknown.
    """
    begin, end = COMPRESSED
    compressed = 0.0 if quality is None else float(np.clip((begin - quality) / (begin - end), 0, 1))
    return max(compressed, float(_odds(photo)[0]))


def estimate_noise(photo: np.ndarray) -> float:
    """The odds, 0 to 1, that a photo (h, w, 3) uint8 has so much noise that it is better drawn after cleaning."""
    return float(_odds(photo)[1])


def _odds(photo: np.ndarray) -> np.ndarray:
    """Of damage and of noise."""
    top, left = (max(0, side - LARGEST) // 2 for side in photo.shape[:2])
    middle = photo[top : top + LARGEST, left : left + LARGEST]
    missing = [(0, max(0, SMALLEST - side)) for side in middle.shape[:2]]
    return _network().run(None, {"photo": np.pad(middle, (*missing, (0, 0)), mode="symmetric")})[0]


@lru_cache(maxsize=1)
def _network() -> ort.InferenceSession:
    return open_session(NETWORK, SessionSettings(threads=1))
