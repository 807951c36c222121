"""What is read off a photo: a camera's from the web's, a real JPEG codec's blocks, and that any picture can be read."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from instancersr.damage import DAMAGED, estimate_damage


def saved(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


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


def test_blocks_show_wherever_the_grid_begins(camera_photo):
    blocky = saved(camera_photo, 15)
    assert estimate_damage(camera_photo) < DAMAGED < 0.9 < estimate_damage(blocky)
    assert estimate_damage(blocky[3:, 5:]) > 0.9


def test_of_a_large_photo_the_middle_is_looked_at(camera_photo):
    large = np.tile(camera_photo, (5, 5, 1))  # 640 pixels a side
    border = np.ones(large.shape, bool)
    border[64:-64, 64:-64] = False
    noisy = large + np.random.default_rng(3).normal(0, 20, large.shape) * border
    noisy = noisy.clip(0, 255).round().astype(np.uint8)
    assert estimate_damage(noisy) == estimate_damage(large[64:-64, 64:-64])
    assert estimate_damage(noisy[:64]) > DAMAGED


def test_a_jpeg_of_low_quality_is_damaged_whatever_its_pixels_look_like(camera_photo):
    assert estimate_damage(camera_photo, 75) == 1
    assert estimate_damage(camera_photo, 98) == estimate_damage(camera_photo)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (7, 5, 3), (2000, 30, 3)])
def test_any_size_has_a_number(shape):
    assert 0 <= estimate_damage(np.full(shape, 90, np.uint8)) <= 1
