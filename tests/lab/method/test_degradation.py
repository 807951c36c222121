"""Degradation: what each parameter does to a picture made to show it.

Most tests run at scale 1 with every part switched off but one (`quiet`): the result has a closed form then.
"""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, special, stats
from skimage import data
from torch import Tensor

from instancersr.lab.method.degradation import (
    KERNEL_KINDS,
    PRESETS,
    Preset,
    Stage,
    _filter,
    degrade,
    gaussian_kernel,
    plateau_kernel,
    poisson,
    sinc_kernel,
)

STAGES = ("first", "second")
OFF = Stage(
    blur_prob=0.0,
    sigma=(1.0, 1.0),
    resize_probs=(0.0, 0.0, 1.0),
    resize_range=(1.0, 1.0),
    gaussian_sigma=(0.0, 0.0),
    poisson_scale=(0.0, 0.0),
    jpeg_quality=(100, 100),
    sinc_prob=0.0,
    gaussian_prob=1.0,
    gray_prob=1.0,
)


def quiet(final_sinc_prob: float = 0.0, **stages: dict) -> Preset:
    """A preset that does nothing but what the changes of its first and second stage say."""
    return Preset(*(replace(OFF, **stages.get(name, {})) for name in STAGES), final_sinc_prob)


def one_hot(kind: str) -> tuple[float, ...]:
    return tuple(float(kind == k) for k in KERNEL_KINDS)


def repeat(picture: Tensor, preset: Preset, count: int, scale: int = 1) -> Tensor:
    """(count, 3, h, w): one picture degraded with seeds 0, 1, 2..."""
    return degrade(picture.expand(count, -1, -1, -1), preset, range(count), scale)


def gray(level: float, size: int = 64) -> Tensor:
    return torch.full((1, 3, size, size), round(level * 255) / 255)


def step(size: int = 64) -> Tensor:
    """A vertical edge in the middle, dark on its left."""
    picture = gray(0.25, size).clone()
    picture[..., size // 2 :] = round(0.75 * 255) / 255
    return picture


def photo(height: int = 96, width: int = 96) -> Tensor:
    pixels = data.astronaut()[60 : 60 + height, 170 : 170 + width]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def jpeg_codec(pictures: Tensor, qualities: list[int]) -> Tensor:
    """Pillow's files of (B, 3, H, W), read back."""
    read = []
    for picture, quality in zip(pictures, qualities, strict=True):
        file = io.BytesIO()
        Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        read.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255)
    return torch.stack(read)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(B,) in dB."""
    return -10 * torch.log10(((a - b) ** 2).mean((1, 2, 3)).clamp(min=1e-10))


def edge_width(picture: Tensor) -> float:
    """Standard deviation, in pixels, of the blur that a vertical step went through."""
    middle = picture.shape[-1] // 2
    spread = picture.mean((0, 1, 2))[middle - 6 : middle + 6].diff().clamp(min=0).double()
    x = torch.arange(len(spread), dtype=torch.float64)
    mean = (x * spread).sum() / spread.sum()
    return math.sqrt(((x - mean) ** 2 * spread).sum() / spread.sum())


def overshoots(picture: Tensor) -> bool:
    return picture.max().item() * 255 > round(0.75 * 255) + 2.5


# ----------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("size", [7, 13, 21])
@pytest.mark.parametrize("theta", [0.0, 0.7])
def test_every_kernel_sums_to_one_and_is_centered(size, theta):
    offsets = np.arange(size) - size // 2
    for kernel in (
        gaussian_kernel(size, 0.2, 3.0, theta),
        gaussian_kernel(size, 1.5, 0.8, theta, 0.5),
        plateau_kernel(size, 2.0, 1.0, theta, 2.0),
        sinc_kernel(size, 1.3),
    ):
        assert kernel.shape == (size, size)
        assert kernel.sum() == pytest.approx(1)
        assert kernel.sum(0) @ offsets == pytest.approx(0, abs=1e-9)
        assert kernel.sum(1) @ offsets == pytest.approx(0, abs=1e-9)


def covariance(kernel: np.ndarray) -> np.ndarray:
    offsets = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    x, y = np.meshgrid(offsets, offsets)
    return np.array([[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)])


@pytest.mark.parametrize(("sigma_x", "sigma_y", "theta"), [(2, 2, 0), (1, 3, 0), (3, 1, 0.6), (1.5, 2.5, -2)])
def test_gaussian_variance_is_sigma_squared_along_its_axes(sigma_x, sigma_y, theta):
    axes = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    expected = axes @ np.diag([sigma_x**2, sigma_y**2]) @ axes.T
    assert np.allclose(covariance(gaussian_kernel(51, sigma_x, sigma_y, theta)), expected, atol=1e-3)


@pytest.mark.parametrize("beta", [0.5, 0.8, 1.0, 2.0, 4.0])
def test_generalized_gaussian_variance(beta):
    # radial integral of r^2 exp(-r^(2 beta) / 2) in the plane, half of it along each axis
    expected = 2 ** (1 / beta) * special.gamma(2 / beta) / special.gamma(1 / beta) / 2
    assert covariance(gaussian_kernel(301, 4, 4, 0, beta))[0, 0] / 16 == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.7, 4.0])
def test_generalized_and_plateau_shapes_are_the_formulas(beta):
    sigma_x, sigma_y, theta = 2.5, 1.2, 0.4
    axes = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    inverse = np.linalg.inv(axes @ np.diag([sigma_x**2, sigma_y**2]) @ axes.T)
    points = np.stack(np.meshgrid(np.arange(-10, 11), np.arange(-10, 11)), -1)
    distance = np.einsum("ija,ab,ijb->ij", points, inverse, points)
    gaussian, plateau = np.exp(-0.5 * distance**beta), 1 / (1 + distance**beta)
    assert np.allclose(gaussian_kernel(21, sigma_x, sigma_y, theta, beta), gaussian / gaussian.sum())
    assert np.allclose(plateau_kernel(21, sigma_x, sigma_y, theta, beta), plateau / plateau.sum())


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0])
def test_plateau_is_half_as_high_at_sigma(beta):
    kernel = plateau_kernel(21, 4, 6, 0, beta)
    assert kernel[10, 14] == pytest.approx(kernel[10, 10] / 2)
    assert kernel[16, 10] == pytest.approx(kernel[10, 10] / 2)


@pytest.mark.parametrize("cutoff", [math.pi / 5, math.pi / 3, 2.0, math.pi])
def test_sinc_is_the_bessel_formula(cutoff):
    kernel = sinc_kernel(21, cutoff)
    for row, column in [(0, 0), (10, 11), (3, 17), (20, 10)]:
        radius = math.hypot(row - 10, column - 10)
        expected = cutoff * special.j1(cutoff * radius) / (2 * math.pi * radius)
        at_center = cutoff**2 / (4 * math.pi)
        assert kernel[row, column] / kernel[10, 10] == pytest.approx(expected / at_center)


def test_sinc_passes_low_frequencies_and_stops_high_ones():
    response = np.abs(np.fft.fft2(sinc_kernel(201, 1.5)))
    frequency = 2 * np.pi * np.abs(np.fft.fftfreq(201))
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    assert np.abs(response[radius < 1.2] - 1).max() < 0.06
    assert response[radius > 1.8].max() < 0.06


# ----------------------------------------------------------------------------------------------- presets

PUBLISHED = {
    # Real-ESRGAN's training options; SeeSR's, which DiT4SR uses too
    "realesrgan": {
        "resize_range": ((0.15, 1.5), (0.3, 1.2)),
        "gaussian_sigma": ((1, 30), (1, 25)),
        "poisson_scale": ((0.05, 3), (0.05, 2.5)),
        "jpeg_quality": ((30, 95), (30, 95)),
        "blur_prob": (1.0, 0.8),
    },
    "seesr": {
        "resize_range": ((0.3, 1.5), (0.6, 1.2)),
        "gaussian_sigma": ((1, 15), (1, 12)),
        "poisson_scale": ((0.05, 2), (0.05, 1)),
        "jpeg_quality": ((60, 95), (60, 100)),
        "blur_prob": (1.0, 0.5),
    },
}
PUBLISHED_IN_BOTH = {
    "resize_probs": ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3)),
    "sigma": ((0.2, 3), (0.2, 1.5)),
    "gaussian_prob": (0.5, 0.5),
    "gray_prob": (0.4, 0.4),
    "sinc_prob": (0.1, 0.1),
    "kernel_probs": ((0.45, 0.25, 0.12, 0.03, 0.12, 0.03),) * 2,
    "beta_generalized": ((0.5, 4), (0.5, 4)),
    "beta_plateau": ((1, 2), (1, 2)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_values(name):
    preset = PRESETS[name]
    for field, values in {**PUBLISHED[name], **PUBLISHED_IN_BOTH}.items():
        assert (getattr(preset.first, field), getattr(preset.second, field)) == values, field
    assert preset.final_sinc_prob == 0.8


def test_kernel_kinds_are_in_the_published_order():
    assert KERNEL_KINDS == (
        "isotropic",
        "anisotropic",
        "generalized_isotropic",
        "generalized_anisotropic",
        "plateau_isotropic",
        "plateau_anisotropic",
    )


def test_presets_differ_in_strength():
    clean = torch.nn.functional.interpolate(photo(128, 128), scale_factor=0.25, mode="area")
    scores = {name: psnr(repeat(photo(128, 128), PRESETS[name], 24, 4), clean).mean() for name in PRESETS}
    assert scores["realesrgan"] + 1 < scores["seesr"] < scores["camera"]


# ------------------------------------------------------------------------------- the effect of each parameter


def test_quiet_preset_keeps_the_picture():
    assert torch.equal(degrade(gray(0.3), quiet(), [0], 1), gray(0.3))
    picture = photo()
    twice = jpeg_codec(jpeg_codec(picture, [100]), [100])
    assert torch.equal(degrade(picture, quiet(), [0], 1), twice)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.2])
def test_sigma_is_the_width_of_the_blur(stage, sigma):
    changes = {"blur_prob": 1.0, "sigma": (sigma, sigma), "kernel_probs": one_hot("isotropic")}
    expected = math.sqrt(covariance(gaussian_kernel(13, sigma, sigma))[0, 0])
    for result in repeat(step(), quiet(**{stage: changes}), 4):
        assert edge_width(result[None]) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("stage", STAGES)
def test_sigma_covers_its_range(stage):
    preset = quiet(**{stage: {"blur_prob": 1.0, "sigma": (0.6, 1.4), "kernel_probs": one_hot("isotropic")}})
    widths = [edge_width(result[None]) for result in repeat(step(), preset, 40)]
    assert 0.5 < min(widths) < 0.75 and 1.2 < max(widths) < 1.5


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", [3, 5, 13])
def test_kernel_sizes_cut_the_blur_off(stage, size):
    changes = {"blur_prob": 1.0, "sigma": (1.5, 1.5), "kernel_probs": one_hot("isotropic"), "kernel_sizes": (size,)}
    expected = math.sqrt(covariance(gaussian_kernel(size, 1.5, 1.5))[0, 0])
    assert edge_width(degrade(step(), quiet(**{stage: changes}), [0], 1)) == pytest.approx(expected, rel=0.05)


def test_camera_optics_has_the_blur_of_a_cameras_mtf50():
    """A Gaussian passes exp(-2 (pi sigma f)^2) at f cycles a pixel: half at .2 to .35 cycles of a pixel of the LR."""
    passed = [math.exp(-2 * (math.pi * sigma * mtf50 / 4) ** 2)
              for sigma, mtf50 in zip(PRESETS["camera_optics"].first.sigma, (0.35, 0.2), strict=True)]
    assert passed == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_blur_prob_is_the_share_of_blurred_pictures(stage, prob):
    preset = quiet(**{stage: {"blur_prob": prob, "kernel_probs": one_hot("isotropic")}})
    blurred = np.mean([edge_width(result[None]) > 0.3 for result in repeat(step(), preset, 60)])
    assert blurred == pytest.approx(prob, abs=0.2 if 0 < prob < 1 else 0)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_sinc_prob_is_the_share_of_ringing_pictures(stage, prob):
    preset = quiet(**{stage: {"blur_prob": 1.0, "sinc_prob": prob, "kernel_probs": one_hot("isotropic")}})
    ringing = np.mean([overshoots(result) for result in repeat(step(), preset, 60)])
    assert ringing == pytest.approx(prob, abs=0.2 if prob > 0 else 0)


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_final_sinc_prob_is_the_share_of_ringing_pictures(prob):
    ringing = np.mean([overshoots(result) for result in repeat(step(), quiet(prob), 60)])
    assert ringing == pytest.approx(prob, abs=0.2 if prob > 0 else 0)


@pytest.mark.parametrize("kind", KERNEL_KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_kernel_probs_choose_the_shape(stage, kind):
    # an isotropic kernel commutes with turning the picture, an anisotropic one does not
    preset = quiet(**{stage: {"blur_prob": 1.0, "sigma": (0.3, 3.0), "kernel_probs": one_hot(kind)}})
    turned = (repeat(step(), preset, 16) - repeat(step().mT, preset, 16).mT).abs().amax((1, 2, 3)) * 255
    if kind.endswith("anisotropic"):
        assert (turned > 5).sum() >= 6
    else:
        assert turned.max() < 3


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("kind", "field", "beta"),
    [
        ("generalized_isotropic", "beta_generalized", 1.0),
        ("generalized_isotropic", "beta_generalized", 4.0),
        ("plateau_isotropic", "beta_plateau", 1.0),
        ("plateau_isotropic", "beta_plateau", 2.0),
    ],
)
def test_beta_is_the_exponent_of_the_kernel(stage, kind, field, beta):
    changes = {"blur_prob": 1.0, "sigma": (1.5, 1.5), "kernel_probs": one_hot(kind), field: (beta, beta)}
    kernel = plateau_kernel if kind.startswith("plateau") else gaussian_kernel
    rows = []  # the step through kernels of the eight sizes
    for size in range(7, 22, 2):
        line = kernel(size, 1.5, 1.5, 0, beta).sum(0)
        rows.append(np.convolve(np.pad(step()[0, 0, 0].numpy(), size // 2, "edge"), line, "valid"))
    for result in repeat(step(), quiet(**{stage: changes}), 4):
        error = np.abs(result[0].mean(0).numpy() - np.stack(rows)).max(1) * 255
        assert error.min() < 1.5


@pytest.mark.parametrize("stage", STAGES)
def test_beta_below_one_has_heavier_tails(stage):
    def far_from_edge(bounds: tuple[float, float]) -> float:
        changes = {"blur_prob": 1.0, "sigma": (1.5, 1.5), "kernel_probs": one_hot("generalized_isotropic")}
        result = repeat(step(), quiet(**{stage: {**changes, "beta_generalized": bounds}}), 24)
        return (result - step()).abs()[..., [28, 35]].mean().item() * 255

    assert far_from_edge((0.5, 1.0)) > 1.5 * far_from_edge((1.0, 1.0))


@pytest.mark.parametrize("stage", STAGES)
def test_resize_probs_choose_the_direction(stage):
    # noise added after enlarging is averaged on the way back; after shrinking, it is stretched
    def noise(probs: tuple[float, float, float]) -> Tensor:
        changes = {"resize_probs": probs, "resize_range": (0.3, 3.0), "gaussian_sigma": (20, 20)}
        return repeat(gray(0.5), quiet(**{stage: changes}), 24).mean(1) - gray(0.5)[0, 0]

    def neighbor_correlation(x: Tensor) -> float:
        return ((x[..., 1:] * x[..., :-1]).mean() / (x**2).mean()).item()

    enlarged, shrunk, kept = noise((1.0, 0.0, 0.0)), noise((0.0, 1.0, 0.0)), noise((0.0, 0.0, 1.0))
    assert kept.std() * 255 == pytest.approx(20, rel=0.03)
    assert enlarged.std() < 0.8 * kept.std()
    assert abs(neighbor_correlation(kept)) < 0.02
    assert neighbor_correlation(shrunk) > 0.3


@pytest.mark.parametrize("stage", STAGES)
def test_resize_probs_are_shares(stage):
    preset = quiet(**{stage: {"resize_probs": (0.0, 0.5, 0.5), "resize_range": (0.3, 1.0)}})
    untouched = degrade(photo(), quiet(), [0], 1)
    kept = np.mean([torch.equal(result, untouched[0]) for result in repeat(photo(), preset, 60)])
    assert kept == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("stage", STAGES)
def test_resize_range_is_how_far(stage):
    def score(probs: tuple[float, float, float], bounds: tuple[float, float]) -> float:
        preset = quiet(**{stage: {"resize_probs": probs, "resize_range": bounds}})
        return psnr(repeat(photo(), preset, 24), photo()).mean().item()

    down, up = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)
    assert score(down, (0.15, 1.0)) + 2 < score(down, (0.6, 1.0)) < score(down, (0.95, 1.0))
    # the side that a direction does not use changes nothing
    assert score(down, (0.5, 1.0)) == score(down, (0.5, 1.5))
    assert score(up, (0.5, 1.5)) == score(up, (0.9, 1.5))
    assert score(up, (1.0, 1.0)) > score(up, (1.0, 1.5)) + 2


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sigma", [5, 12, 25])
def test_gaussian_sigma_is_the_noise_in_gray_levels(stage, sigma):
    result = repeat(gray(0.5), quiet(**{stage: {"gaussian_sigma": (sigma, sigma)}}), 4)
    assert result.std() * 255 == pytest.approx(sigma, rel=0.04)
    assert result.mean() * 255 == pytest.approx(128, abs=0.5)


@pytest.mark.parametrize("stage", STAGES)
def test_gaussian_sigma_covers_its_range(stage):
    levels = repeat(gray(0.5), quiet(**{stage: {"gaussian_sigma": (5, 25)}}), 40).std((1, 2, 3)) * 255
    assert 4.8 < levels.min() < 8 and 22 < levels.max() < 26


def ramp_and_plain() -> Tensor:
    """All 256 levels in the first rows, so that white is 256 photons; then plain dark and bright halves."""
    picture = gray(0.2).clone()
    picture[..., 32:] = round(0.6 * 255) / 255
    picture[..., :4, :] = torch.arange(256).view(4, 64) / 255
    return picture


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_poisson_scale_multiplies_shot_noise(stage, scale):
    preset = quiet(**{stage: {"gaussian_prob": 0.0, "poisson_scale": (scale, scale)}})
    picture = ramp_and_plain()
    result = repeat(picture, preset, 6)[..., 8:, :]
    for half, level in ((result[..., :30], 0.2), (result[..., 34:], 0.6)):
        assert half.std() == pytest.approx(scale * math.sqrt(level / 256), rel=0.06)


def test_white_is_as_many_photons_as_levels_rounded_up_to_a_power_of_two():
    picture = gray(0.5).clone()
    picture[..., 0, :], picture[..., 1, :] = 0.0, 1.0  # three levels: four photons
    preset = quiet(first={"gaussian_prob": 0.0, "poisson_scale": (0.1, 0.1)})
    plain = repeat(picture, preset, 6)[..., 8:, :]
    assert plain.std() == pytest.approx(0.1 * math.sqrt(0.5 / 4), rel=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_poisson_scale_covers_its_range(stage):
    preset = quiet(**{stage: {"gaussian_prob": 0.0, "poisson_scale": (0.5, 2.0)}})
    plain = repeat(ramp_and_plain(), preset, 40)[..., 8:, 34:]
    scales = plain.std((1, 2, 3)) / math.sqrt(0.6 / 256)
    assert 0.45 < scales.min() < 0.75 and 1.75 < scales.max() < 2.15


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_gaussian_prob_is_the_share_without_shot_noise(stage, prob):
    changes = {"gaussian_prob": prob, "gaussian_sigma": (10, 10), "poisson_scale": (1, 1)}
    result = repeat(ramp_and_plain(), quiet(**{stage: changes}), 60)[..., 8:, :]
    same = result[..., 34:].std((1, 2, 3)) / result[..., :30].std((1, 2, 3)) < 1.35  # shot noise: sqrt(3)
    assert same.float().mean().item() == pytest.approx(prob, abs=0.2 if 0 < prob < 1 else 0)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("gaussian_prob", [0.0, 1.0])
@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_gray_prob_is_the_share_with_equal_channels(stage, gaussian_prob, prob):
    changes = {
        "gray_prob": prob,
        "gaussian_prob": gaussian_prob,
        "gaussian_sigma": (15, 15),
        "poisson_scale": (1, 1),
    }
    result = repeat(ramp_and_plain(), quiet(**{stage: changes}), 40)[..., 8:56, 40:56]
    # JPEG halves chroma: compare means over 4x4 pixels
    cells = torch.nn.functional.avg_pool2d(result, 4).flatten(2)
    correlation = torch.stack([torch.corrcoef(x)[0, 2] for x in cells])
    if prob in (0.0, 1.0):
        assert correlation.mean() > 0.98 if prob else correlation.mean() < 0.3
    assert (correlation > 0.9).float().mean().item() == pytest.approx(prob, abs=0.2 if 0 < prob < 1 else 0)


WAVE_FREQUENCY = 2 * math.pi / 8


def wave_gain(preset: Preset, count: int = 1) -> Tensor:
    """How much larger a preset makes a wave than the bare chain does, which takes some of it away: (count,)."""
    wave = torch.sin(WAVE_FREQUENCY * torch.arange(64)).expand(1, 3, 64, 64)
    inside = (..., slice(12, 52), slice(12, 52))  # away from the border's reflection

    def height(preset, count):
        return ((repeat(0.5 + 0.2 * wave, preset, count) - 0.5) * wave)[inside].sum((1, 2, 3))

    return height(preset, count) / height(quiet(), 1)


@pytest.mark.parametrize(("amount", "sigma"), [(0.5, 0.7), (0.8, 1.5)])
def test_unsharp_mask_enlarges_a_wave_as_its_formula_says(amount, sigma):
    """A Gaussian passes exp(-(sigma w)^2 / 2) of a wave; amount times the rest is added to the whole."""
    preset = replace(quiet(), sharpen_amount=(amount, amount), sharpen_sigma=(sigma, sigma))
    passed = math.exp(-((sigma * WAVE_FREQUENCY) ** 2) / 2)
    assert wave_gain(preset).item() == pytest.approx(1 + amount * (1 - passed), rel=0.01)


def test_sharpen_amount_covers_its_range():
    """At the edge's brighter side the overshoot is proportional to the amount."""
    preset = replace(quiet(), sharpen_amount=(0.0, 0.8), sharpen_sigma=(2.0, 2.0))
    overshoot = (repeat(step(), preset, 60)[..., 34] - step()[..., 34]).mean((1, 2))
    most = degrade(step(), replace(preset, sharpen_amount=(0.8, 0.8)), [0], 1)[..., 34] - step()[..., 34]
    share = overshoot / most.mean()
    assert -0.05 < share.min() < 0.15 and 0.85 < share.max() < 1.05 and share.mean() == pytest.approx(0.5, abs=0.12)


def test_sharpen_sigma_covers_its_range():
    """The same formula, solved for sigma."""
    gain = wave_gain(replace(quiet(), sharpen_amount=(1.0, 1.0), sharpen_sigma=(0.5, 1.5)), 60)
    sigma = (-2 * (2 - gain).log()).sqrt() / WAVE_FREQUENCY
    assert 0.44 < sigma.min() < 0.6 and 1.4 < sigma.max() < 1.52 and sigma.mean() == pytest.approx(1, abs=0.12)


def test_a_camera_that_sharpens_has_stronger_edges_than_one_that_does_not():
    def contrast(name):
        return repeat(photo(128, 128), PRESETS[name], 24, 4).diff(dim=-1).abs().mean()

    assert contrast("camera_sharpened") > 1.1 * contrast("camera")


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_quality_is_pillows(quality):
    picture = photo()
    first = degrade(picture, quiet(first={"jpeg_quality": (quality, quality)}), [0], 1)
    assert torch.equal(first, jpeg_codec(jpeg_codec(picture, [quality]), [100]))
    second = degrade(picture, quiet(second={"jpeg_quality": (quality, quality)}), [0], 1)
    assert torch.equal(second, jpeg_codec(jpeg_codec(picture, [100]), [quality]))


@pytest.mark.parametrize("stage", STAGES)
def test_jpeg_quality_covers_its_range(stage):
    picture = photo()
    scores = psnr(repeat(picture, quiet(**{stage: {"jpeg_quality": (30, 90)}}), 40), picture)
    worst, best = (psnr(jpeg_codec(picture, [quality]), picture).item() for quality in (30, 90))
    assert worst - 0.3 < scores.min() < worst + 1 and best - 1 < scores.max() < best + 0.3


def test_final_resize_comes_before_jpeg_in_half_of_the_pictures():
    # a picture that JPEG saw last hardly changes when compressed again, a filtered one does
    preset = quiet(1.0, second={"jpeg_quality": (30, 30)})
    result = repeat(photo(), preset, 60)
    again = psnr(jpeg_codec(result, [30] * 60), result)
    assert (again > 42).float().mean().item() == pytest.approx(0.5, abs=0.2)


# ------------------------------------------------------------------------------------------ seeds and batches


@pytest.mark.parametrize("preset", PRESETS)
def test_a_picture_is_degraded_the_same_alone_and_in_a_batch(preset):
    pictures = torch.cat([photo(), photo().flip(-1), step(96)])
    seeds = [5, 123456789012, 7]
    together = degrade(pictures, preset, seeds)
    for i in range(3):
        assert torch.equal(together[i : i + 1], degrade(pictures[i : i + 1], preset, seeds[i : i + 1]))


def test_one_preset_for_each_picture():
    pictures, names = photo().expand(3, -1, -1, -1), ["camera", PRESETS["seesr"], "realesrgan"]
    mixed = degrade(pictures, names, [3, 3, 3])
    for i, name in enumerate(names):
        assert torch.equal(mixed[i], degrade(photo(), name, [3])[0])


def test_same_seed_same_result_and_other_seed_other_result():
    results = [degrade(photo(), "seesr", [seed]) for seed in (1, 1, 2, 3)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2]) and not torch.equal(results[2], results[3])


def test_given_seeds_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    degrade(photo(), "realesrgan", [1])
    assert torch.equal(torch.rand(3), expected)


def test_seeds_are_drawn_from_the_global_generator():
    results = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        results.append(degrade(photo(), "seesr"))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


# ----------------------------------------------------------------------------------------------- in and out


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("height", "width", "scale"), [(64, 96, 4), (100, 60, 4), (48, 30, 2), (33, 45, 3), (20, 20, 4)]
)
def test_result_is_smaller_in_range_and_8_bit(preset, height, width, scale):
    picture = photo(height, width).expand(3, -1, -1, -1)
    before = picture.clone()
    result = degrade(picture, preset, range(3), scale)
    assert result.shape == (3, 3, height // scale, width // scale) and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1
    assert torch.allclose(result * 255, (result * 255).round(), atol=1e-4)
    assert torch.equal(picture, before)


def test_default_is_seesr_at_a_quarter():
    assert torch.equal(degrade(photo(), seeds=[1]), degrade(photo(), "seesr", [1], 4))


def test_result_needs_no_gradient():
    assert not degrade(photo().requires_grad_(), "seesr", [0]).requires_grad


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((3, 64, 64), {}, r"\(B, 3, H, W\).*\(3, 64, 64\)"),
        ((1, 1, 64, 64), {}, r"\(1, 1, 64, 64\)"),
        ((1, 3, 66, 64), {}, r"divisible by 4.*66"),
        ((1, 3, 64, 64), {"scale": 3}, "divisible by 3"),
        ((1, 3, 64, 64), {"preset": "seesaw"}, "'seesaw'.*realesrgan"),
        ((2, 3, 64, 64), {"preset": ["seesr", "nonsense"]}, "'nonsense'"),
        ((2, 3, 64, 64), {"preset": ["seesr"]}, "2 pictures.*1 presets"),
        ((2, 3, 64, 64), {"seeds": [1]}, "2 pictures but 1 seeds"),
    ],
)
def test_bad_input_is_named(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        degrade(torch.zeros(shape), **arguments)


# ------------------------------------------------------------------------------------------- the fast ways


@pytest.mark.parametrize("kernel", [
    gaussian_kernel(21, 3.0, 3.0), gaussian_kernel(21, 0.6, 0.6), gaussian_kernel(21, 3.0, 1.0, 0.5),
    gaussian_kernel(9, 2.0, 1.0, 0.5, 0.6), plateau_kernel(21, 2.5, 2.5, 0, 1.5), sinc_kernel(21, 0.8),
    sinc_kernel(7, 2.0), np.eye(21) / 21, np.triu(np.ones((13, 13))) / 91,
])  # fmt: skip
def test_however_a_picture_is_filtered_it_is_scipys_correlation(kernel):
    """Directly, by rows and columns, or in the frequency domain; also with kernels that are not symmetric."""
    picture = photo(57, 70)[0].permute(1, 2, 0).numpy().copy()
    expected = ndimage.correlate(picture.astype(float), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(_filter(picture, kernel), expected, atol=0.1 / 255)


@pytest.mark.parametrize("rate", [0.0, 0.7, 9.0, 16.0, 30.0, 200.0])
def test_shot_noise_is_poissons(rate):
    """The distribution functions are nowhere apart by more than 200,000 draws can tell, or the expansion is off by."""
    draws = poisson(torch.full((200_000,), rate), torch.Generator().manual_seed(0)).numpy()
    assert (draws >= 0).all() and (draws == draws.round()).all()
    counts = np.arange(draws.max() + 1)
    share = np.searchsorted(np.sort(draws), counts, side="right") / len(draws)
    assert np.abs(share - stats.poisson.cdf(counts, rate)).max() < 0.005
    assert draws.mean() == pytest.approx(rate, rel=0.01) and draws.var() == pytest.approx(rate, rel=0.02)
