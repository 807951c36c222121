"""Degradation, Eq. 1 of the paper: an HR photo becomes a bad LR photo.

The second-order pipeline of Real-ESRGAN (Wang et al., 2021, arXiv:2107.10833): blur, resize, noise, JPEG,
all of it twice, then a final sinc filter. Every sample draws its parameters and its noise from its own seed,
so a result does not depend on the batch it was computed in. It works on the CPU, where the training data is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy.fft import irfft2, next_fast_len, rfft2
from torch import Tensor

from instancersr.instances.codes import LUMA

from .jpeg import jpeg, to_levels
from .web_damage import WEB_PRESETS, WebPreset, damage

cv2.setNumThreads(0)  # its threads would not live through the fork of a data worker, and hang it

Range = tuple[float, float]

SHARPEN_SIGMA: Range = (0.5, 2.0)
"""Of the blur of a camera's unsharp mask, in its own pixels."""

KERNEL_SIZES = tuple(range(7, 22, 2))
"""Widths of the blur kernels, in pixels of the picture that they blur."""
FULL_KERNEL = KERNEL_SIZES[-1]
KERNEL_KINDS = (
    "isotropic",
    "anisotropic",
    "generalized_isotropic",
    "generalized_anisotropic",
    "plateau_isotropic",
    "plateau_anisotropic",
)
BRIGHT = 16
"""Photons from which shot noise is nearly normal."""
DIRECT_SIZE = 11
"""Kernels that are no larger are applied as they are; larger ones by their factors, or in the frequency domain."""
NEGLIGIBLE = 5e-5
"""Share of a kernel's weight that no 8-bit picture shows."""
RESIZE_METHODS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Stage:
    """One round of blur, resize, noise and JPEG. Ranges are uniform; noise is in grey levels of 255."""

    blur_prob: float
    sigma: Range
    resize_probs: tuple[float, float, float]
    """Probability of enlarging, shrinking, keeping."""
    resize_range: Range
    gaussian_sigma: Range
    poisson_scale: Range
    jpeg_quality: Range
    sinc_prob: float = 0.1
    kernel_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """One probability for each of `KERNEL_KINDS`."""
    beta_generalized: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    gaussian_prob: float = 0.5
    """Gaussian noise, else Poisson noise."""
    gray_prob: float = 0.4
    """Noise that is the same in the three channels."""
    kernel_sizes: tuple[int, ...] = KERNEL_SIZES
    """Widths that the blur kernels are cut to, in pixels, equally likely."""


@dataclass(frozen=True)
class Preset:
    """A second-order degradation: two stages, and the sinc filter that the second one ends with."""

    first: Stage
    second: Stage
    final_sinc_prob: float = 0.8
    sharpen_amount: Range | None = None
    """Of an unsharp mask on the second stage's noisy picture, as cameras sharpen before they compress. None: none."""
    sharpen_sigma: Range = SHARPEN_SIGMA
    """Of the mask's blur, in pixels of that picture."""


def _preset(resize1: Range, resize2: Range, noise1: Range, noise2: Range, poisson1: Range, poisson2: Range,
            jpeg1: Range, jpeg2: Range, second_blur: float) -> Preset:
    return Preset(
        Stage(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), resize1, noise1, poisson1, jpeg1),
        Stage(second_blur, (0.2, 1.5), (0.3, 0.4, 0.3), resize2, noise2, poisson2, jpeg2),
    )


AnyPreset = Preset | WebPreset

# What a camera does: optical blur of any orientation, little noise, hardly any compression.
CAMERA = Preset(
    Stage(1.0, (0.6, 4.0), (0.0, 0.0, 1.0), (1, 1), (0, 4), (0.01, 0.3), (95, 100),
          sinc_prob=0.0, kernel_probs=(0.3, 0.6, 0.02, 0.04, 0.01, 0.03)),
    Stage(0.0, (0.2, 1.5), (0.0, 0.0, 1.0), (1, 1), (0, 1), (0.01, 0.05), (90, 100)),
    final_sinc_prob=0.1,
)
# The same with the blur that a camera's own pixels have, sharpened by its processor. An MTF50 of .2 to .35 cycles a
# pixel is a Gaussian of .53 to .93 pixels, which are four times as many HR pixels; the kernels are wide enough not to
# cut it off.
CAMERA_OPTICS = replace(
    CAMERA, sharpen_amount=(0.0, 1.0),
    first=replace(CAMERA.first, sigma=(2.1, 3.7), kernel_sizes=(FULL_KERNEL,),
                  kernel_probs=(0.6, 0.3, 0.0, 0.0, 0.1, 0.0)),
)

PRESETS: dict[str, AnyPreset] = {
    # Real-ESRGAN's own training options.
    "realesrgan": _preset((0.15, 1.5), (0.3, 1.2), (1, 30), (1, 25), (0.05, 3), (0.05, 2.5), (30, 95), (30, 95), 0.8),
    # The milder variant that SeeSR and DiT4SR trained with.
    "seesr": _preset((0.3, 1.5), (0.6, 1.2), (1, 15), (1, 12), (0.05, 2), (0.05, 1), (60, 95), (60, 100), 0.5),
    "camera": CAMERA,
    "camera_sharpened": replace(CAMERA, sharpen_amount=(0.0, 1.0)),
    "camera_optics": CAMERA_OPTICS,
    **WEB_PRESETS,
}


def twin_camera(blur: float, sharpen_amount: float, sharpen_sigma: float, scale: int = 4) -> Preset:
    """The preset of the camera that took an HR photo, with a lens `scale` times shorter.

    To be applied to the scene itself, not to that photo: lens and processor are the same, so the blur and the unsharp
    mask are the HR photo's own, in pixels that are `scale` times as large. Kinds of kernels, noise
    and compression are those of `camera_optics`, so one kernel in ten is a plateau of that width.

    Args:
        blur: deviation of the HR photo's Gaussian blur, in HR pixels.
        sharpen_amount: of the HR photo's unsharp mask.
        sharpen_sigma: of the mask's blur: HR pixels in the HR photo, LR pixels in the twin's.
    """
    return replace(
        CAMERA_OPTICS,
        first=replace(CAMERA_OPTICS.first, sigma=(scale * blur, scale * blur)),
        sharpen_amount=(sharpen_amount, sharpen_amount),
        sharpen_sigma=(sharpen_sigma, sharpen_sigma),
        final_sinc_prob=0.0,
    )


def degrade(hr: Tensor, preset: str | AnyPreset | Sequence[str | AnyPreset] = "seesr",
            seeds: Sequence[int] | None = None, scale: int = 4) -> Tensor:
    """Degrades HR pictures into LR pictures (Eq. 1).

    Args:
        hr: (B, 3, H, W) in [0, 1], H and W divisible by `scale`, on any device.
        preset: a name in `PRESETS`, a `Preset` or a `WebPreset`, or one of them for each sample.
        seeds: one integer a sample; drawn from torch's global generator when None.
        scale: how many times smaller the result is.

    Returns:
        (B, 3, H/scale, W/scale) in [0, 1], rounded to 8 bits, on the device of `hr`.

    Raises:
        ValueError: shape, preset or number of seeds is wrong.
    """
    _check(hr, scale)
    batch = len(hr)
    presets = [_find_preset(p) for p in ([preset] * batch if isinstance(preset, (str, Preset, WebPreset)) else preset)]
    if seeds is None:
        seeds = torch.randint(2**62, (batch,)).tolist()
    if len(seeds) != batch or len(presets) != batch:
        raise ValueError(f"degrade: {batch} pictures but {len(seeds)} seeds and {len(presets)} presets")
    pictures = np.ascontiguousarray(hr.detach().float().permute(0, 2, 3, 1).cpu().numpy())  # (B, H, W, 3)
    degraded = [_degrade_one(x, p, np.random.default_rng(s), scale)
                for x, p, s in zip(pictures, presets, seeds, strict=True)]
    return torch.from_numpy(np.stack(degraded)).permute(0, 3, 1, 2).contiguous().to(hr.device)


def _check(hr: Tensor, scale: int) -> None:
    if hr.ndim != 4 or hr.shape[1] != 3:
        raise ValueError(f"degrade: hr must be (B, 3, H, W), not {tuple(hr.shape)}")
    if hr.shape[2] % scale or hr.shape[3] % scale:
        raise ValueError(f"degrade: height and width must be divisible by {scale}, not {tuple(hr.shape[2:])}")


def _find_preset(preset: str | AnyPreset) -> AnyPreset:
    if not isinstance(preset, str):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"degradation preset {preset!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[preset]


def _degrade_one(hr: np.ndarray, preset: AnyPreset, rng: np.random.Generator, scale: int) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1] -> (H/scale, W/scale, 3), multiples of 1/255."""
    if isinstance(preset, WebPreset):
        return damage(hr, preset, rng, scale)
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    x = _blur_stage(hr, preset.first, rng)
    factor = _resize_factor(preset.first, rng)
    x = _resize(x, round(hr.shape[0] * factor), round(hr.shape[1] * factor), rng)
    x = _add_noise(x, preset.first, rng)
    x = _compress(x, preset.first, rng)

    x = _blur_stage(x, preset.second, rng)
    factor = _resize_factor(preset.second, rng)
    x = _resize(x, round(height * factor), round(width * factor), rng)
    x = _add_noise(x, preset.second, rng)
    if preset.sharpen_amount is not None:
        x = sharpen(x, rng.uniform(*preset.sharpen_amount), rng.uniform(*preset.sharpen_sigma))

    kernel = _final_kernel(preset, rng)
    if rng.random() < 0.5:
        x = _filter(_resize(x, height, width, rng), kernel)
        x = _compress(x, preset.second, rng)
    else:
        x = _compress(x, preset.second, rng)
        x = _filter(_resize(x, height, width, rng), kernel)
    return to_levels(x).astype(np.float32) / 255


# ---------------------------------------------------------------------------------------------- blur


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, theta: float = 0.0, beta: float = 1.0) -> np.ndarray:
    """(size, size) generalised Gaussian exp(-r^(2 beta) / 2), r the Mahalanobis radius; beta 1 is the Gaussian.

    sigma_x and sigma_y are in pixels along the axes turned by theta radians. Sums to 1.
    """
    return _normalized(np.exp(-0.5 * _radius_squared(size, sigma_x, sigma_y, theta) ** beta))


def plateau_kernel(size: int, sigma_x: float, sigma_y: float, theta: float = 0.0, beta: float = 1.0) -> np.ndarray:
    """(size, size) plateau-shaped kernel 1 / (1 + r^(2 beta)). Arguments as for `gaussian_kernel`."""
    return _normalized(1 / (1 + _radius_squared(size, sigma_x, sigma_y, theta) ** beta))


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """(size, size) ideal circular low-pass filter; cutoff in radians a pixel, pi passes all. Sums to 1.

    It rings, as over-sharpened and recompressed photos do.
    """
    from scipy.special import j1

    offsets = np.arange(size) - (size - 1) / 2
    radius = np.hypot(*np.meshgrid(offsets, offsets))
    center = radius == 0
    radius[center] = 1
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[center] = cutoff**2 / (4 * np.pi)  # the limit at r = 0
    return _normalized(kernel)


def _radius_squared(size: int, sigma_x: float, sigma_y: float, theta: float) -> np.ndarray:
    offsets = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(offsets, offsets)
    along = x * math.cos(theta) + y * math.sin(theta)
    across = -x * math.sin(theta) + y * math.cos(theta)
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _normalized(kernel: np.ndarray) -> np.ndarray:
    return kernel / kernel.sum()


def _random_kernel(stage: Stage, rng: np.random.Generator) -> np.ndarray:
    size = int(rng.choice(stage.kernel_sizes))
    if rng.random() < stage.sinc_prob:
        return sinc_kernel(size, _random_cutoff(size, rng))
    kind = KERNEL_KINDS[rng.choice(len(KERNEL_KINDS), p=stage.kernel_probs)]
    sigma_x = sigma_y = rng.uniform(*stage.sigma)
    theta = 0.0
    if kind.endswith("anisotropic"):
        sigma_y, theta = rng.uniform(*stage.sigma), rng.uniform(-math.pi, math.pi)
    if kind.startswith("plateau"):
        return plateau_kernel(size, sigma_x, sigma_y, theta, _random_beta(stage.beta_plateau, rng))
    beta = _random_beta(stage.beta_generalized, rng) if kind.startswith("generalized") else 1.0
    return gaussian_kernel(size, sigma_x, sigma_y, theta, beta)


def _random_beta(bounds: Range, rng: np.random.Generator) -> float:
    # heavy tails (beta < 1) and flat tops (beta > 1) equally often, as in BasicSR
    low, high = bounds
    middle = min(max(low, 1.0), high)
    return rng.uniform(low, middle) if rng.random() < 0.5 else rng.uniform(middle, high)


def _random_cutoff(size: int, rng: np.random.Generator) -> float:
    # a small kernel cannot hold the long ringing of a low cutoff
    return rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi)


def _blur_stage(x: np.ndarray, stage: Stage, rng: np.random.Generator) -> np.ndarray:
    return _filter(x, _random_kernel(stage, rng)) if rng.random() < stage.blur_prob else x


def _final_kernel(preset: Preset, rng: np.random.Generator) -> np.ndarray | None:
    if rng.random() >= preset.final_sinc_prob:
        return None
    size = int(rng.choice(KERNEL_SIZES))
    return sinc_kernel(size, rng.uniform(math.pi / 3, math.pi))


def _filter(x: np.ndarray, kernel: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) with each channel filtered, mirrored at the borders."""
    if kernel is None:
        return x
    kernel = _trimmed(kernel)
    pad = kernel.shape[0] // 2
    border = cv2.BORDER_REFLECT_101 if pad < min(x.shape[:2]) else cv2.BORDER_REPLICATE
    factors = _factors(kernel)
    if factors is not None:
        return cv2.sepFilter2D(x, -1, *factors, borderType=border)
    if kernel.shape[0] <= DIRECT_SIZE:
        return cv2.filter2D(x, -1, kernel, borderType=border)
    return _filter_by_frequencies(cv2.copyMakeBorder(x, pad, pad, pad, pad, border), kernel)


def _filter_by_frequencies(padded: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """What the kernel gives where it lies within (H + 2 pad, W + 2 pad, 3): (H, W, 3)."""
    height, width, reach = *padded.shape[:2], len(kernel) - 1
    size = [next_fast_len(side, real=True) for side in (height, width)]
    spectrum = rfft2(padded, size, axes=(0, 1))
    spectrum *= rfft2(kernel[::-1, ::-1].astype(np.float32), size)[..., None]  # flipped, as the others correlate
    return irfft2(spectrum, size, axes=(0, 1), overwrite_x=True)[reach:height, reach:width]


def _trimmed(kernel: np.ndarray) -> np.ndarray:
    """Without the outer rings that change no picture by a tenth of a grey level."""
    cut = 0
    inside = np.abs(kernel)
    while inside.shape[0] > 3 and np.abs(kernel).sum() - inside[1:-1, 1:-1].sum() < NEGLIGIBLE:
        cut, inside = cut + 1, inside[1:-1, 1:-1]
    return _normalized(kernel[cut : len(kernel) - cut, cut : len(kernel) - cut]) if cut else kernel


def _factors(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The row and the column whose product the kernel is, if it is one, as an isotropic Gaussian is."""
    left, singular, right = np.linalg.svd(kernel)
    if singular[1] > NEGLIGIBLE * singular[0]:
        return None
    return right[0], left[:, 0] * singular[0]


def sharpen(x: np.ndarray, amount: float, sigma: float) -> np.ndarray:
    """An unsharp mask, as cameras do it: adds `amount` times what a Gaussian blur takes away.

    Args:
        x: (H, W, 3) float32 in [0, 1].
        sigma: of the blur, in pixels.

    Returns:
        The same shape, clamped to [0, 1].
    """
    blurred = _filter(x, gaussian_kernel(FULL_KERNEL, sigma, sigma))
    return np.clip(x + np.float32(amount) * (x - blurred), 0, 1)


# -------------------------------------------------------------------------------------------- resize


def _resize_factor(stage: Stage, rng: np.random.Generator) -> float:
    direction = rng.choice(3, p=stage.resize_probs)
    low, high = stage.resize_range
    if direction == 0:
        return rng.uniform(1, max(high, 1))
    return rng.uniform(min(low, 1), 1) if direction == 1 else 1.0


def _resize(x: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    method = RESIZE_METHODS[rng.integers(len(RESIZE_METHODS))]
    size = (max(height, 1), max(width, 1))
    return x if size == x.shape[:2] else cv2.resize(x, size[::-1], interpolation=method)


# --------------------------------------------------------------------------------------------- noise


def _add_noise(x: np.ndarray, stage: Stage, rng: np.random.Generator) -> np.ndarray:
    gaussian, gray = rng.random() < stage.gaussian_prob, rng.random() < stage.gray_prob
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))  # draws twice as fast as numpy's
    if gaussian:
        noise = torch.randn((*x.shape[:2], 1 if gray else 3), generator=generator).numpy()
        strength = rng.uniform(*stage.gaussian_sigma) / 255
    else:
        noise, strength = _poisson_noise(x, gray, generator), rng.uniform(*stage.poisson_scale)
    return np.clip(x + np.float32(strength) * noise, 0, 1)


def _poisson_noise(x: np.ndarray, gray: bool, generator: torch.Generator) -> np.ndarray:
    """Shot noise of a picture whose number of grey levels stands for the photons at full white."""
    clean = to_levels(x)
    if gray:
        clean = to_levels(clean @ LUMA.astype(np.float32)[:, None] / 255)
    there = int(np.count_nonzero(np.bincount(clean.ravel())))
    white = 2.0 ** math.ceil(math.log2(max(there, 2)))
    photons = torch.from_numpy(clean).float().mul_(white / 255)
    return (poisson(photons, generator) - photons).div_(white).numpy()


def poisson(rate: Tensor, generator: torch.Generator) -> Tensor:
    """Poisson numbers of these rates, float32.

    From BRIGHT on they are normal numbers bent by the first term of Cornish and Fisher's expansion, which has
    their mean, variance and skewness, in a fifth of the time.
    """
    normal = torch.randn(rate.shape, generator=generator)
    numbers = rate.sqrt().mul_(normal).add_(rate).add_(normal.square_().sub_(1).div_(6)).round_()
    dark = (rate.flatten() < BRIGHT).nonzero()[:, 0]  # found once: a mask would be searched at each use
    numbers.view(-1)[dark] = torch.poisson(rate.flatten()[dark], generator)
    return numbers


def _compress(x: np.ndarray, stage: Stage, rng: np.random.Generator) -> np.ndarray:
    return jpeg(x, round(rng.uniform(*stage.jpeg_quality)))
