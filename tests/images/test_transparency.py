"""Transparency: nothing shows of what lies under it, and no ghost of it appears where there was none."""

import numpy as np
from PIL import Image

from instancersr.images.transparency import enlarge_alpha, fill_hidden


def disc() -> np.ndarray:
    y, x = np.mgrid[0:40, 0:40]
    return np.clip((14 - np.hypot(y - 20, x - 20)) * 128 + 128, 0, 255).astype(np.uint8)


def test_hidden_colours_are_those_beside_them_and_visible_ones_stay():
    alpha, rng = disc(), np.random.default_rng(0)
    black = rng.integers(0, 256, (40, 40, 3), np.uint8)
    green = black.copy()
    black[alpha == 0], green[alpha == 0] = 0, (0, 255, 0)
    filled = fill_hidden(black, alpha)
    np.testing.assert_array_equal(filled, fill_hidden(green, alpha))
    np.testing.assert_array_equal(filled[alpha > 0], black[alpha > 0])
    assert (filled[0, 0] == black[alpha > 0]).all(1).any()


def test_a_mask_without_or_with_nothing_visible_is_left_alone():
    rgb = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    for level in (0, 255):
        assert fill_hidden(rgb, np.full((9, 9), level, np.uint8)) is rgb


def test_an_enlarged_mask_has_smooth_edges_and_no_ghosts():
    alpha = disc()
    large = enlarge_alpha(alpha, (160, 160))
    for level in (0, 255):  # three pixels from everything else
        inside = np.asarray(Image.fromarray((alpha == level).astype(np.uint8) * 255).resize((160, 160), 2)) == 255
        assert inside.sum() > 3000 and (large[inside] == level).all(), level
    assert np.abs(np.diff(large.astype(int), axis=1)).max() < 110  # the source has steps of 255 in two pixels
    plain = np.asarray(Image.fromarray(alpha).resize((160, 160), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(large - plain).mean() < 1
