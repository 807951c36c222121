"""Transparency: colours that nobody sees must not bleed into those that one does, and its mask grows without ghosts."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage


def fill_hidden(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The colours with those under full transparency replaced by the nearest visible ones.

    What a program left there (black, white, an old background) would otherwise shine through the rim.

    Args:
        rgb: (H, W, 3), any type.
        alpha: (H, W), 0 is transparent.

    Returns:
        (H, W, 3) of the same type; `rgb` itself where nothing is hidden, or all.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    rows, columns = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return rgb[rows, columns]


def enlarge_alpha(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (h, w) uint8 at another (width, height): smooth edges, and no value that its surroundings do not have.

    An interpolation with negative lobes would draw a faint frame around everything; here each pixel stays between
    the least and the greatest of the 3x3 pixels around it, so what is transparent or opaque beside an edge stays so.
    """
    height, width = alpha.shape
    mask = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))
    rows, columns = (np.arange(new) * old // new for new, old in ((size[1], height), (size[0], width)))
    low, high = (around(alpha, 3, mode="nearest")[np.ix_(rows, columns)]
                 for around in (ndimage.minimum_filter, ndimage.maximum_filter))
    return np.clip(mask, low, high)
