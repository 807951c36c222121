"""What is read off a photo: noise of a known level, a real JPEG codec's grid, and that more damage is more."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from instancersr.damage import FLOOR, estimate_damage, measure, measure_blocks
from instancersr.denoising import DAMAGED


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
def test_grain_is_the_noise_of_the_smoothest_places(level):
    noisy = 120 + np.random.default_rng(1).normal(0, level, (256, 256, 1))
    noisy[:, 128:] += np.arange(128)[:, None]  # a slope is no grain
    found = np.exp(measure(np.repeat(noisy, 3, 2).clip(0, 255).round().astype(np.uint8))[1]) - FLOOR
    # a response of Immerkaer's mask deviates by 6, so its mean size is 6 sqrt(2 / pi); a tenth of the cells has .8
    assert found == pytest.approx(0.8 * 6 * np.sqrt(2 / np.pi) * level, rel=0.1)


def test_pixels_that_are_copies_of_their_neighbours_are_alike():
    """Of white noise none is; of noise enlarged twice by copies two in four are, whose product is the power."""
    noise = np.random.default_rng(3).normal(120, 10, (128, 128)).round()
    for plane, alike in ((noise, 0.0), (noise[:64, :64].repeat(2, 0).repeat(2, 1), 0.5)):
        photo = np.repeat(plane[..., None], 3, 2).clip(0, 255).astype(np.uint8)
        assert measure(photo)[17:19] == pytest.approx([alike, alike], abs=0.12)


def test_blocks_show_wherever_the_grid_begins():
    clean, blocky = photo(), saved(photo(), 15)
    assert measure_blocks(luma(clean)) < 1.15 < 1.35 < measure_blocks(luma(blocky))
    assert measure_blocks(luma(blocky[3:, 5:])) == pytest.approx(measure_blocks(luma(blocky)), rel=0.1)


def test_what_a_camera_takes_is_told_from_what_the_web_makes_of_it():
    """Photos that were not fitted: nine in ten damaged ones are found, and most clean ones are let alone."""
    sources = [data.astronaut(), data.coffee(), data.rocket(), data.chelsea()]
    small = [np.asarray(Image.fromarray(photo[:, :400]).resize((100, photo.shape[0] // 4), Image.Resampling.BOX), float)
             for photo in sources]
    rng = np.random.default_rng(2)
    cameras, web = [], []
    for picture in small:
        lens = gaussian_filter(picture, (0.7, 0.7, 0)) + rng.normal(0, 0.7, picture.shape)
        cameras.append(lens.clip(0, 255).round().astype(np.uint8))
        film = rng.normal(0, 1, picture.shape[:2])[..., None]
        night = gaussian_filter(rng.normal(0, 1, picture.shape), (0.6, 0.6, 0))
        damaged = (picture + 15 * film, picture + 15 * night / night.std(), picture)
        web += [saved(each.clip(0, 255).round().astype(np.uint8), quality) for each in damaged for quality in (30, 70)]
    assert np.mean([estimate_damage(photo) >= DAMAGED for photo in cameras]) <= 0.25
    assert np.mean([estimate_damage(photo) >= DAMAGED for photo in web]) >= 0.9


def test_a_jpeg_of_low_quality_is_damaged_whatever_its_pixels_look_like():
    clean = photo()
    assert estimate_damage(clean, 75) == 1 and estimate_damage(clean, 98) == estimate_damage(clean)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (7, 5, 3), (2000, 30, 3)])
def test_any_size_has_a_number(shape):
    assert 0 <= estimate_damage(np.full(shape, 90, np.uint8)) <= 1
