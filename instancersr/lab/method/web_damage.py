"""What happens to photos on their way to a person: a lens, a sensor, and one to three files with resizes between.

The second-order pipeline of `degradation` is made for any damage; this one follows the few ways that most photos have
gone. Everything but the lens works on small pictures with Pillow's own codecs, so a sample costs a few milliseconds.
Ranges follow public trainers: the tiers of DASR (arXiv:2203.14672), community models for web photos (JPEG and WebP of
40 to 95, resized and compressed again, all three chroma samplings), and FBCNN's shifted grids (arXiv:2109.14573).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from instancersr.instances.codes import LUMA

Range = tuple[float, float]

FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
BLOCK = 8
"""Pixels along the side of a JPEG block."""
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
SUBSAMPLING_PROBS = (0.25, 0.1, 0.65)
WHOLE_PROB = 0.25
"""Share of samples whose blocks begin at the picture's corner, as in a file; those of crops begin anywhere."""


@dataclass(frozen=True)
class Noise:
    """Noise of a sensor or of film. Levels are deviations in grey levels of 255."""

    prob: float
    level: Range
    gray: Range
    """Share of the noise's power that the three channels have in common."""
    grain: Range
    """Deviation of the Gaussian that correlates neighbours, as demosaicing and film do; in pixels."""
    shot: Range = (0.0, 1.0)
    """Share of the noise's power that grows with the light."""


@dataclass(frozen=True)
class Saved:
    """A file: what the picture is resized to first, and how it is compressed."""

    size: Range
    """Side over that of the LR photo; (1, 1) for the last file."""
    quality: Range
    prob: float = 1.0
    """Share of the photos that are saved this way at all; the others are only resized."""
    webp_prob: float = 0.0
    sharpen: Range = (0.0, 0.0)
    """Amount of an unsharp mask after the resize; negative draws mean none."""


@dataclass(frozen=True)
class WebPreset:
    """A lens, a sensor, and the files that the photo was saved as, one after the other."""

    blur: Range
    """Deviation of the lens' Gaussian blur, in HR pixels; negative draws mean none."""
    noise: Noise
    taken: Range
    """Side at which the sensor takes the photo over that of the LR photo."""
    files: tuple[Saved, ...]


NO_NOISE = Noise(0.0, (0, 0), (0, 0), (0, 0))

WEB_PRESETS: dict[str, WebPreset] = {
    # Shrunk and saved once, well or badly.
    "web_jpeg": WebPreset(
        (-2.0, 2.5), Noise(0.3, (0.5, 4), (0, 1), (-0.5, 0.6)), (1, 1.5),
        (Saved((1, 1), (12, 92), webp_prob=0.1, sharpen=(-0.7, 0.7)),)),
    # A phone's file, sent by a messenger that shrinks, sharpens and compresses it, perhaps twice.
    "web_messenger": WebPreset(
        (-2.0, 3.0), Noise(0.4, (0.5, 6), (0, 1), (-0.5, 0.7)), (1, 2.5),
        (Saved((1, 2.5), (50, 97)),
         Saved((0.8, 1.6), (35, 95), prob=0.4, webp_prob=0.3, sharpen=(-0.8, 0.8)),
         Saved((1, 1), (30, 95), webp_prob=0.35, sharpen=(-0.5, 1.0)))),
    # A sensor with too little light: coloured noise, correlated by demosaicing, then a file.
    "web_night": WebPreset(
        (-1.0, 3.0), Noise(1.0, (3, 40), (0, 0.6), (-0.4, 0.8)), (1, 1.6),
        (Saved((1, 1), (35, 97), prob=0.9, webp_prob=0.1, sharpen=(-1.0, 0.5)),)),
    # A print or a negative, scanned: soft, grainy, compressed, resized, compressed again.
    "web_old": WebPreset(
        (-0.5, 5.5), Noise(0.85, (2, 26), (0.5, 1.2), (-0.5, 1.2), (0, 0.4)), (0.8, 1.5),
        (Saved((0.7, 1.4), (30, 92), prob=0.8, sharpen=(-1.0, 0.6)),
         Saved((1, 1), (25, 95), prob=0.85, webp_prob=0.15, sharpen=(-1.0, 0.5)))),
    # Little of everything, so that a good photo stays one.
    "web_mild": WebPreset(
        (-1.0, 3.0), Noise(0.5, (0.5, 4), (0, 1), (-0.5, 0.6)), (1, 1.5),
        (Saved((1, 1), (75, 98), webp_prob=0.1, sharpen=(-0.5, 0.8)),)),
}


def damage(hr: np.ndarray, preset: WebPreset, rng: np.random.Generator, scale: int = 4) -> np.ndarray:
    """An HR photo as it arrives: (H, W, 3) in [0, 1] -> (H/scale, W/scale, 3), multiples of 1/255."""
    size = hr.shape[0] // scale, hr.shape[1] // scale
    blur = rng.uniform(*preset.blur)
    x = gaussian_filter(hr, (blur, blur, 0)) if blur > 0.2 else hr
    x = resize(x, _sides(size, rng.uniform(*preset.taken)), rng)
    x = add_noise(x, preset.noise, rng)
    whole = rng.random() < WHOLE_PROB
    for file in preset.files:
        x = resize(x, _sides(size, rng.uniform(*file.size)), rng)
        amount = rng.uniform(*file.sharpen)
        if amount > 0:
            sigma = rng.uniform(0.4, 1.2)
            x = np.clip(x + amount * (x - gaussian_filter(x, (sigma, sigma, 0))), 0, 1)
        if rng.random() < file.prob:
            x = _save(x, file, rng, whole)
    return np.round(np.clip(x, 0, 1) * 255).astype(np.float32) / 255


def _sides(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(x: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) -> (*size, 3) by one of Pillow's filters, drawn at random; float32, not rounded."""
    method = FILTERS[rng.integers(len(FILTERS))]
    if size == x.shape[:2]:
        return x
    channels = [np.asarray(Image.fromarray(np.ascontiguousarray(x[..., c], np.float32)).resize(size[::-1], method))
                for c in range(3)]
    return np.clip(np.stack(channels, -1), 0, 1)


def add_noise(x: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> the same with noise of one level, partly common to the channels, partly correlated."""
    if rng.random() >= noise.prob:
        return x
    common = min(max(rng.uniform(*noise.gray), 0.0), 1.0)
    draws = rng.standard_normal((*x.shape[:2], 4), np.float32)
    field = np.sqrt(common) * draws[..., 3:] + np.sqrt(1 - common) * draws[..., :3]
    grain = rng.uniform(*noise.grain)
    if grain > 0.2:
        field = gaussian_filter(field, (grain, grain, 0))
        field /= max(float(field.std()), 1e-6)
    shot = rng.uniform(*noise.shot)
    light = np.sqrt(1 - shot + shot * (x @ LUMA.astype(np.float32))[..., None] * 2)
    return np.clip(x + rng.uniform(*noise.level) / 255 * light * field, 0, 1)


def _save(x: np.ndarray, file: Saved, rng: np.random.Generator, whole: bool) -> np.ndarray:
    """Through a file and back; the blocks of a crop begin anywhere."""
    top, left = (0, 0) if whole else rng.integers(0, 2 * BLOCK, 2)
    padded = np.pad(x, ((top, 0), (left, 0), (0, 0)), mode="reflect" if min(x.shape[:2]) > 2 * BLOCK else "edge")
    picture = Image.fromarray(np.round(np.clip(padded, 0, 1) * 255).astype(np.uint8))
    quality = round(rng.uniform(*file.quality))
    memory = io.BytesIO()
    if rng.random() < file.webp_prob:
        picture.save(memory, "WEBP", quality=quality, method=2)
    else:
        picture.save(memory, "JPEG", quality=quality,
                     subsampling=SUBSAMPLINGS[rng.choice(3, p=SUBSAMPLING_PROBS)])
    return np.asarray(Image.open(memory), np.float32)[top:, left:] / 255
