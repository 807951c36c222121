"""What is read off a photo: noise of a known level, a real JPEG codec's grid, and that more damage is more."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from instancersr.damage import estimate_damage, measure_blocks, measure_grain


def photo() -> np.ndarray:
    """A clean small photo: shrunk by four, with a sensor's own little noise."""
    small = np.asarray(Image.fromarray(data.astronaut()).resize((128, 128), Image.Resampling.BOX), float)
    return (small + np.random.default_rng(0).normal(0, 0.7, small.shape)).clip(0, 255).round().astype(np.uint8)


def saved(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def luma(picture: np.ndarray) -> np.ndarray:
    return picture.astype(float) @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize("level", [1.0, 4.0, 12.0])
def test_grain_is_the_noise_of_flat_places(level):
    noisy = 120 + np.random.default_rng(1).normal(0, level, (256, 256))
    noisy[:, 128:] += np.arange(128)  # a slope is no grain
    # the smoothest tenth of places of 64 pixels, of white noise, have about .8 of its deviation
    assert measure_grain(noisy.astype(np.float32)) == pytest.approx(0.8 * level, rel=0.1)


def test_blocks_show_wherever_the_grid_begins():
    clean, blocky = photo(), saved(photo(), 15)
    assert measure_blocks(luma(clean)) < 1.15 < 1.35 < measure_blocks(luma(blocky))
    assert measure_blocks(luma(blocky[3:, 5:])) == pytest.approx(measure_blocks(luma(blocky)), rel=0.1)


def test_damage_grows_with_noise_and_with_compression():
    clean = photo()
    noise = gaussian_filter(np.random.default_rng(2).normal(0, 1, clean.shape), (0.6, 0.6, 0))
    noise /= noise.std()
    by_noise = [estimate_damage((clean + level * noise).clip(0, 255).round().astype(np.uint8)) for level in (0, 8, 20)]
    assert by_noise[0] < 0.25 and by_noise == sorted(by_noise) and by_noise[-1] == 1
    assert estimate_damage(saved(clean, 95)) < 0.5 < estimate_damage(saved(clean, 20))


def test_a_jpeg_of_low_quality_is_damaged_whatever_its_pixels_look_like():
    clean = photo()
    assert estimate_damage(clean, 75) == 1 and estimate_damage(clean, 98) == estimate_damage(clean)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (7, 5, 3), (2000, 30, 3)])
def test_any_size_has_a_number(shape):
    assert 0 <= estimate_damage(np.full(shape, 90, np.uint8)) <= 1
