"""How much noise and grain is taken off: weights on the line through those of two models of one ancestry.

A model may hold a second restoration network and a second detail decoder, trained from the same weights, that leave
noise and grain in. Weights of one ancestry can be mixed, and the networks in between behave in between (Wang et al.,
2019, "Deep network interpolation", arXiv:1811.10515; Wortsman et al., 2022, "Model soups", arXiv:2203.05482).
"""

from __future__ import annotations

import numpy as np

from .errors import ModelError
from .geometry import SCALE
from .model import Model
from .tensors import same_shapes, stored_tensors

GRAIN_PARTS = {"restoration": "restoration_grain", "detail_decoder": "detail_decoder_grain"}
"""Part of a model -> the part, of the same class and shape, that leaves noise and grain in."""
MIXED_GRAPHS = ("restore", "decode", "finish")
"""Those that hold weights of these parts."""
MIXTURES = 4
"""How many an engine keeps."""


def shrink(picture: np.ndarray) -> np.ndarray:
    """(3, 4h, 4w) -> (3, h, w): the mean of each pixel's part."""
    channels, height, width = picture.shape
    return picture.reshape(channels, height // SCALE, SCALE, width // SCALE, SCALE).mean((2, 4))


def denoises(model: Model) -> bool:
    """Whether the model has the control."""
    return any(map(model.has, GRAIN_PARTS.values()))


def mix_weights(model: Model, denoise: float) -> dict[str, np.ndarray]:
    """PART.NAME -> tensor, as the part stores it (bfloat16 as uint16), for every part that has a grain part.

    Raises:
        ModelError: the weights of a grain part are not there, or have not the shape of its part.
    """
    share, mixed = np.float32(denoise), {}
    for part, grain_part in GRAIN_PARTS.items():
        if not model.has(grain_part):
            continue
        own, grain = (stored_tensors(model.folder / name) for name in (part, grain_part))
        if not same_shapes(own, grain):
            raise ModelError(f"{model.folder}: its {grain_part} is missing, or has not the shape of its {part}")
        for name, stored in own.items():
            mixed[f"{part}.{name}"] = stored.pack((1 - share) * grain[name].read() + share * stored.read())
    return mixed
