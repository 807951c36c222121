"""A noisy photo is drawn after cleaning: what that is, who gets it, and what it is good for."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from instancersr.damage import CLEANED, automatic_cleaning, estimate_noise
from instancersr.denoising import shrink
from instancersr.edits import Edit
from instancersr.loading import load_upscaler
from instancersr.recipe import Defaults
from instancersr.upscaler import Upscaler

SOURCES = (data.astronaut, data.coffee, data.rocket, data.chelsea)


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    """The shipped weights, drawing without a sample and without anything of y-hat."""
    shipped = load_upscaler(threads=1)
    return Upscaler(shipped.engine, shipped.schedule, Defaults(1, 0.0, "fast"))


def saved(picture: np.ndarray, quality: int) -> np.ndarray:
    memory = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).round().astype(np.uint8)).save(memory, "JPEG", quality=quality)
    return np.asarray(Image.open(memory))


def taken(source) -> np.ndarray:
    """A photo of a good camera, a quarter of its truth's size, as floats."""
    photo = source()[:, :400]
    size = photo.shape[1] // 4, photo.shape[0] // 4
    return gaussian_filter(np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX), float), (0.5, 0.5, 0))


def at_night(source, level: float = 18) -> np.ndarray:
    """The same with a sensor's coloured noise, as a JPEG."""
    picture = taken(source)
    noise = gaussian_filter(np.random.default_rng(3).normal(size=picture.shape), (0.5, 0.5, 0))
    return saved(picture + level * noise / noise.std(), 85)


def pixels(out) -> np.ndarray:
    return np.asarray(out.images[0]).astype(float)


def test_a_shrunk_picture_is_the_mean_of_its_parts():
    picture = np.random.default_rng(0).random((3, 8, 12))
    small = np.stack([np.asarray(Image.fromarray(plane.astype(np.float32)).resize((3, 2), Image.Resampling.BOX))
                      for plane in picture])
    np.testing.assert_allclose(shrink(picture), small, atol=1e-6)


def test_noise_asks_for_it_and_neither_a_good_camera_nor_compression_does():
    assert [automatic_cleaning(at_night(source)) for source in SOURCES] == [CLEANED] * 4
    assert [automatic_cleaning(taken(source).round().astype(np.uint8)) for source in SOURCES] == [0] * 4
    compressed = [automatic_cleaning(saved(taken(source), quality)) for source in SOURCES for quality in (40, 60, 80)]
    assert np.mean(compressed) < 0.4 * CLEANED
    assert 0 <= estimate_noise(np.full((1, 1, 3), 90, np.uint8)) <= 1  # any picture has a number


def test_what_is_drawn_is_the_photo_mixed_with_its_restored_self(upscaler):
    photo = at_night(data.astronaut)[:48, :64]
    y = photo.transpose(2, 0, 1)[None].astype(np.float32) / 255
    restored = np.rint(255 * shrink(upscaler.engine.restore(y)[1][0]).clip(0, 1)).transpose(1, 2, 0)
    mixed = np.rint(0.4 * restored + 0.6 * photo).astype(np.uint8)
    expected = pixels(upscaler(mixed, cleaning=0.0, denoise=1.0))
    assert np.abs(pixels(upscaler(photo, cleaning=0.4, denoise=1.0)) - expected).max() <= 1
    assert np.abs(pixels(upscaler(photo, cleaning=0.0, denoise=1.0)) - expected).max() > 20


def test_it_follows_the_control_of_noise(upscaler):
    photo = at_night(data.coffee)[:48, :64]

    def as_if(share: float, **options) -> bool:
        return np.array_equal(pixels(upscaler(photo, **options)), pixels(upscaler(photo, cleaning=share, **options)))

    assert as_if(CLEANED) and as_if(CLEANED, denoise=1.0) and as_if(CLEANED, fidelity=1.0)
    assert as_if(0.5 * CLEANED, denoise=0.5) and as_if(0.0, denoise=0.0)


def test_an_edge_under_noise_comes_out_sharper_and_its_sides_no_noisier(upscaler):
    clean = np.full((64, 64, 3), 90.0)
    clean[:, 32:] = 160
    noise = gaussian_filter(np.random.default_rng(5).normal(size=clean.shape), (0.5, 0.5, 0))
    photo = saved(clean + 20 * noise / noise.std(), 90)

    def noise_and_step(share: float) -> tuple[float, float]:
        picture = pixels(upscaler(photo, cleaning=share))
        return picture[:, 8:112].std(0).mean(), np.abs(np.diff(picture[..., 1].mean(0))).max()

    (before, step_before), (after, step_after) = noise_and_step(0.0), noise_and_step(1.0)
    assert step_after > 1.08 * step_before and after < 1.1 * before


def test_tiles_are_cleaned_as_the_whole_is(upscaler):
    photo = at_night(data.astronaut)[:64, :96]
    whole, tiled = (pixels(upscaler(photo, cleaning=1.0, tile=tile)) for tile in (None, 48))
    assert np.abs(whole - tiled).mean() < 1


def test_an_edit_goes_on_from_the_cleaned_photo(upscaler):
    photo, everywhere = at_night(data.astronaut)[:48, :64], np.ones((192, 256), bool)
    before = upscaler(photo, keep_latents=True, cleaning=1.0, quality="balanced")
    again = upscaler.edit(before, [Edit(everywhere, seed=5)])
    expected = pixels(upscaler(photo, seed=5, cleaning=1.0, quality="balanced"))
    assert np.abs(pixels(again) - expected).max() <= 1  # features are kept in half precision
    assert np.abs(pixels(before) - expected).max() > 5
    part = np.zeros_like(everywhere)
    part[80:112, 112:144] = True
    same = upscaler.edit(before, [Edit(part, seed=0)])
    assert np.abs(pixels(same) - pixels(before))[part].mean() < 0.3  # only the context is smaller


def test_progress_counts_both_passes(upscaler):
    seen = []
    upscaler(at_night(data.astronaut)[:64, :64], tile=48, cleaning=0.5, progress=lambda *counts: seen.append(counts))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1)) and {total for _, total in seen} == {len(seen)}


def test_clipped_light_stays_white(upscaler):
    photo = at_night(data.astronaut)[:64, :64].copy()
    photo[16:48, 16:48] = 255
    out = np.asarray(upscaler(photo, cleaning=1.0).images[0])
    assert (out[88:168, 88:168] == 255).all()  # beyond where the area fades into what is drawn


@pytest.mark.parametrize("share", [-0.1, 1.5, "much"])
def test_a_share_out_of_its_range_is_named(upscaler, share):
    with pytest.raises(ValueError, match="cleaning must be"):
        upscaler(np.zeros((16, 16, 3), np.uint8), cleaning=share)
