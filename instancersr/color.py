"""Colour fixes: the output in the colours of the low-resolution photo, whatever the sampler made of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

COLOR_FIXES = ("wavelet", "adain", "none")

WAVELET_LEVELS = 7
"""StableSR has five. Their base, of 13 pixels' deviation, would bring blotches of colour noise back; this has 52."""
CUBIC = -0.75
"""Keys' a of the bicubic kernel, that of torch and ONNX."""


def match_color(output: np.ndarray, reference: np.ndarray, method: str = "wavelet") -> np.ndarray:
    """The output in the reference's colours.

    ``adain`` gives each channel the reference's mean and standard deviation (Huang & Belongie, 2017).
    ``wavelet`` keeps the output's detail and takes the base, what is left after seven levels of dilated blur,
    from the enlarged reference, as in StableSR (Wang et al., 2023), which has five.

    Args:
        output: (B, 3, H, W) in [0, 1], float32.
        reference: (B, 3, h, w) in [0, 1], the low-resolution photo at its own size.
        method: one of ``COLOR_FIXES``; ``none`` only clamps.

    Returns:
        A new array (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: unknown method.
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"color_fix {method!r} is unknown; choose one of {', '.join(COLOR_FIXES)}")
    if method == "wavelet":
        output = output + base_shift(output, reference)
    elif method == "adain":
        output = _adain(output, reference)
    return np.clip(output, 0, 1)


def base_shift(output: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """What ``wavelet`` adds to an output: the enlarged reference's base less its own, (B, 3, H, W)."""
    return _enlarged_base(reference, output.shape[-2:]) - blur(output)


def blur(x: np.ndarray) -> np.ndarray:
    """The base of pictures (..., H, W): [1 2 1]/4 along both axes at dilations 1, 2, 4...; edges repeat."""
    height, width = x.shape[-2:]
    return _blur_matrix(height) @ x @ _blur_matrix(width).T


def enlarge(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bicubic enlargement of pictures (..., h, w) to a size (H, W); edges repeat."""
    return _cubic_matrix(x.shape[-2], size[0]) @ x @ _cubic_matrix(x.shape[-1], size[1]).T


def _enlarged_base(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """blur(enlarge(x, size)): both are linear along each axis, so the small picture meets their product."""
    rows, columns = (_base_matrix(old, new) for old, new in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.T


@lru_cache(maxsize=8)
def _base_matrix(old: int, new: int) -> np.ndarray:
    return _blur_matrix(new) @ _cubic_matrix(old, new)


@lru_cache(maxsize=8)
def _blur_matrix(size: int) -> np.ndarray:
    """(size, size): all levels of the blur along an axis, whose edges repeat at each level."""
    place, total = np.arange(size), np.eye(size)
    for level in range(WAVELET_LEVELS):
        matrix = 0.5 * np.eye(size)
        for step in (-(2**level), 2**level):
            np.add.at(matrix, (place, np.clip(place + step, 0, size - 1)), 0.25)
        total = matrix @ total
    return total.astype(np.float32)


@lru_cache(maxsize=8)
def _cubic_matrix(old: int, new: int) -> np.ndarray:
    """(new, old): bicubic interpolation along an axis between the centres of pixels."""
    matrix = np.zeros((new, old))
    center = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(center).astype(int)
    for tap in range(-1, 3):
        x = np.abs(center - first - tap)
        near = ((CUBIC + 2) * x - (CUBIC + 3)) * x**2 + 1
        far = CUBIC * (((x - 5) * x + 8) * x - 4)
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


def _adain(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    mean, std = _moments(x)
    target_mean, target_std = _moments(reference)
    # A flat channel has no contrast to stretch, only rounding noise.
    gain = np.where(std > 1e-4, target_std / np.maximum(std, 1e-4), 1)
    return ((x - mean) * gain + target_mean).astype(np.float32)


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation over the pixels, each (B, C, 1, 1)."""
    wide = x.astype(np.float64)
    return wide.mean((-2, -1), keepdims=True), wide.std((-2, -1), keepdims=True)
