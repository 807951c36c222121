"""Grey stays grey, flat stays flat, whatever the network draws: here one of random weights."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from instancersr.constraints import apply_constraints, flat_share, keep_flat, keep_grey


@pytest.fixture(scope="module")
def pipe(tiny_model):
    from instancersr.lab.pipeline import InstanceRSRPipeline

    return InstanceRSRPipeline.from_pretrained(tiny_model)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (200, 30, 90), (1, 254, 128)])
@pytest.mark.parametrize("scale", [2, 4, 6])
def test_a_picture_of_one_colour_comes_back_in_it(pipe, color, scale):
    photo = np.full((18, 21, 3), color, np.uint8)
    result = np.asarray(pipe(photo, scale=scale, num_inference_steps=1).images[0])
    assert result.shape == (18 * scale, 21 * scale, 3)
    assert (result == color).all()


def test_a_grey_photo_has_a_grey_result_and_a_coloured_one_keeps_its_colours(pipe):
    grey = noise(20, 24, 1).repeat(3, 2)
    result = np.asarray(pipe(grey, num_inference_steps=1).images[0])
    assert np.ptp(result, axis=2).max() == 0 and np.ptp(result) > 50
    grey[3, 4, 0] ^= 16  # one pixel with a colour
    assert np.ptp(np.asarray(pipe(grey, num_inference_steps=1).images[0]), axis=2).max() > 0


def test_flat_areas_of_a_screenshot_are_exact_and_its_letters_are_the_networks():
    page = Image.new("RGB", (90, 60), (250, 251, 252))
    ImageDraw.Draw(page).text((8, 20), "Words 123", fill=(20, 30, 40))
    photo, drawn = np.asarray(page), noise(240, 360, 3)
    result = keep_flat(drawn, photo)
    flat = np.ones((60, 90), bool)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            flat &= (np.roll(photo, (dy, dx), (0, 1)) == photo).all(2)
    flat = flat.repeat(4, 0).repeat(4, 1)
    assert flat.mean() > 0.5 and (result[flat] == (250, 251, 252)).all()
    letters = (photo != (250, 251, 252)).any(2).repeat(4, 0).repeat(4, 1)
    assert (result[letters] == drawn[letters]).mean() > 0.99


def test_the_change_to_the_network_is_gradual():
    """Between a result of 100 and a flat area of 200, no two neighbours differ by more than a third of the way."""
    photo = np.full((40, 40, 3), 200, np.uint8)
    photo[:, 20:] = noise(40, 20, 3)
    result = keep_flat(np.full((160, 160, 3), 100, np.uint8), photo)
    steps = np.abs(np.diff(result[80, :, 0].astype(int)))
    assert result[80, 0, 0] == 200 and result[80, -1, 0] == 100 and steps.max() <= 34


def test_noise_shades_and_jpeg_blocks_are_not_flat(tmp_path):
    assert not flat_share(noise(64, 64, 3)).any()
    shade = np.linspace(0, 60, 64).round().astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    assert not flat_share(shade).any()
    photo = Image.fromarray(noise(16, 16, 3)).resize((128, 128), Image.Resampling.BICUBIC)
    photo.filter(ImageFilter.GaussianBlur(4)).save(tmp_path / "a.jpg", quality=5)
    blocks = np.asarray(Image.open(tmp_path / "a.jpg"))
    equal = (np.diff(blocks.astype(int), axis=1) == 0).all(2).mean()
    assert equal > 0.2  # there are flat blocks of 8
    assert flat_share(blocks).mean() < 0.01


def test_nothing_to_keep_changes_nothing():
    drawn = noise(64, 64, 3, seed=1)
    assert apply_constraints(drawn, noise(16, 16, 3)) is drawn
    assert keep_grey(drawn, noise(16, 16, 3)) is drawn


@pytest.mark.parametrize("size", [(1, 1), (15, 15), (40, 3), (5, 16)])
def test_pictures_below_16_pixels_are_padded_not_refused(pipe, size):
    photo = noise(*size, 3)
    out = pipe(photo, num_inference_steps=1)
    assert out.images[0].size == (size[1] * 4, size[0] * 4) and out.instances[0].shape == (size[0] * 4, size[1] * 4)


def test_what_lies_under_transparency_does_not_change_a_pillow_picture(pipe):
    rgba = noise(20, 24, 4)
    rgba[..., 3] = np.where(np.arange(24) < 12, 255, 0)
    twin = rgba.copy()
    twin[rgba[..., 3] == 0, :3] = (0, 255, 0)
    ours, theirs = (np.asarray(pipe(Image.fromarray(each), num_inference_steps=1).images[0]) for each in (rgba, twin))
    np.testing.assert_array_equal(ours, theirs)
