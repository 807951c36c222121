"""The web's damage against the codecs that do it, and against closed forms of noise."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from instancersr.lab.method.degradation import degrade
from instancersr.lab.method.web_damage import (
    NO_NOISE,
    SUBSAMPLINGS,
    WEB_PRESETS,
    Noise,
    Saved,
    WebPreset,
    add_noise,
    damage,
)

GRAY = np.full((256, 256, 3), 0.5, np.float32)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(32, 32, 3) float32 in [0, 1], multiples of 1/255, with colour edges."""
    return data.astronaut()[60:92, 200:232].astype(np.float32) / 255


def saved_once(**file) -> WebPreset:
    return WebPreset((0, 0), NO_NOISE, (1, 1), (Saved((1, 1), **file),))


def through(picture: np.ndarray, shift: tuple[int, int], format: str, **options) -> np.ndarray:
    """A picture through Pillow's codec, its corner `shift` pixels inside the file."""
    padded = np.pad((picture * 255).round().astype(np.uint8), ((shift[0], 0), (shift[1], 0), (0, 0)), mode="reflect")
    memory = io.BytesIO()
    Image.fromarray(padded).save(memory, format, **options)
    return np.asarray(Image.open(memory))[shift[0] :, shift[1] :]


def test_a_jpeg_is_pillows_at_every_grid_position_and_chroma_sampling(photo):
    """A quarter of the pictures begin at a block's corner; the other three quarters anywhere in two blocks."""
    known = {through(photo, (y, x), "JPEG", quality=40, subsampling=sampling).tobytes(): (y, x, sampling)
             for y in range(16) for x in range(16) for sampling in SUBSAMPLINGS}
    found = []
    for seed in range(200):
        picture = damage(photo, saved_once(quality=(40, 40)), np.random.default_rng(seed), scale=1)
        found.append(known[(picture * 255).round().astype(np.uint8).tobytes()])
    corners = sum((y, x) == (0, 0) for y, x, _ in found)
    assert 30 < corners < 75  # 50.6 expected, 6.1 the deviation
    assert {y % 8 for y, _, _ in found} == {x % 8 for _, x, _ in found} == set(range(8))
    samplings = Counter(sampling for *_, sampling in found)
    assert [samplings[s] / 200 for s in SUBSAMPLINGS] == pytest.approx([0.25, 0.1, 0.65], abs=0.1)


def test_webp_is_pillows(photo):
    known = {through(photo, (y, x), "WEBP", quality=60, method=2).tobytes() for y in range(16) for x in range(16)}
    for seed in range(10):
        picture = damage(photo, saved_once(quality=(60, 60), webp_prob=1.0), np.random.default_rng(seed), scale=1)
        assert (picture * 255).round().astype(np.uint8).tobytes() in known


def test_a_file_that_is_not_saved_changes_nothing(photo):
    assert np.array_equal(damage(photo, saved_once(quality=(5, 5), prob=0.0), np.random.default_rng(0), 1), photo)


def test_the_lens_is_a_gaussian(photo):
    lens = replace(saved_once(quality=(5, 5), prob=0.0), blur=(1.5, 1.5))
    expected = gaussian_filter(photo, (1.5, 1.5, 0))
    np.testing.assert_allclose(damage(photo, lens, np.random.default_rng(0), 1), expected, atol=0.5001 / 255)


def noise_of(seed: int = 0, picture: np.ndarray = GRAY, **settings) -> np.ndarray:
    values = {"prob": 1.0, "level": (10, 10), "gray": (0, 0), "grain": (0, 0), "shot": (0, 0)} | settings
    return add_noise(picture, Noise(**values), np.random.default_rng(seed)) - picture


@pytest.mark.parametrize("grain", [0.0, 0.8])
def test_noise_has_the_level_that_is_asked_for(grain):
    assert noise_of(grain=(grain, grain)).std() * 255 == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("common", [0.0, 0.4, 1.0])
def test_channels_share_as_much_noise_as_asked_for(common):
    red, green, _ = noise_of(gray=(common, common)).reshape(-1, 3).T
    assert np.corrcoef(red, green)[0, 1] == pytest.approx(common, abs=0.02)


@pytest.mark.parametrize("grain", [0.8, 1.2])
def test_grain_correlates_neighbours_as_a_gaussian_does(grain):
    """White noise through a Gaussian of deviation s has the autocorrelation exp(-d^2 / 4 s^2)."""
    field = noise_of(grain=(grain, grain))[..., 0]
    measured = [np.corrcoef(field[:, :-d].ravel(), field[:, d:].ravel())[0, 1] for d in (1, 2)]
    assert measured == pytest.approx([np.exp(-(d**2) / (4 * grain**2)) for d in (1, 2)], abs=0.04)


def test_shot_noises_power_grows_with_the_light():
    dark, light = (noise_of(picture=np.full_like(GRAY, level), shot=(1, 1)).var() for level in (0.2, 0.6))
    assert light / dark == pytest.approx(3, rel=0.04)


@pytest.mark.parametrize("name", WEB_PRESETS)
def test_a_preset_is_a_function_of_the_seed_alone(name, photo):
    hr = torch.from_numpy(photo).permute(2, 0, 1)[None].repeat(1, 1, 4, 4)
    together = degrade(hr.repeat(2, 1, 1, 1), [name, "seesr"], seeds=[7, 8])
    assert torch.equal(degrade(hr, name, seeds=[7])[0], together[0])
    assert not torch.equal(degrade(hr, name, seeds=[9])[0], together[0])
    assert together.shape == (2, 3, 32, 32)
    levels = together[0] * 255
    torch.testing.assert_close(levels, levels.round())
    assert levels.min() >= 0 and levels.max() <= 255


def error_of(name: str, hr: np.ndarray, seeds: int = 60) -> np.ndarray:
    """Mean square of what a preset does to a picture whose shrunk version is known, for each seed."""
    small = hr[::4, ::4]
    return np.array([np.square(damage(hr, WEB_PRESETS[name], np.random.default_rng(seed)) - small).mean() * 255**2
                     for seed in range(seeds)])


def test_presets_damage_a_flat_picture_as_their_names_say():
    """Where there is nothing to blur or to compress, noise is what is left: most at night, some on every old photo."""
    grey = np.full((128, 128, 3), 0.5, np.float32)
    deviation = {name: np.sqrt(np.median(error_of(name, grey))) for name in WEB_PRESETS}
    assert deviation["web_night"] > 2.5 and deviation["web_old"] > 2.5
    assert max(deviation["web_mild"], deviation["web_jpeg"]) < 1


def test_a_mild_file_is_nearer_to_the_photo_than_a_messengers():
    hr = np.repeat(np.repeat(data.coffee()[40:168:1, 60:188] / np.float32(255), 4, 0), 4, 1)
    mild, messenger, jpeg = (np.median(error_of(name, hr, 40)) for name in ("web_mild", "web_messenger", "web_jpeg"))
    assert mild < messenger and mild < jpeg
