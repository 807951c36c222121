"""Colour fixes against closed forms and SciPy's convolution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import convolve1d

from instancersr.color import COLOR_FIXES, blur, enlarge, match_color


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def test_adain_gives_the_references_mean_and_standard_deviation():
    output = 0.3 + 0.2 * random(2, 3, 40, 28)
    reference = 0.4 + 0.3 * random(2, 3, 10, 7, seed=1)
    result = match_color(output, reference, "adain")
    for moment in (np.mean, np.std):
        np.testing.assert_allclose(moment(result, (2, 3)), moment(reference, (2, 3)), rtol=1e-5)


def test_adain_does_not_amplify_a_flat_channel():
    output = np.full((1, 3, 16, 16), 0.5, np.float32) + 1e-6 * random(1, 3, 16, 16)
    result = match_color(output, random(1, 3, 4, 4), "adain")
    assert result.std() < 0.3 and result[0, 0].std() < 1e-4


def test_wavelet_takes_the_base_from_the_reference_and_keeps_the_detail():
    y, x = np.indices((288, 320))
    # the first blur removes Nyquist exactly
    checkers = np.broadcast_to(0.1 * (-1.0) ** (x + y), (1, 3, 288, 320)).astype(np.float32)
    result = match_color(0.7 + checkers, np.full((1, 3, 72, 80), 0.4, np.float32), "wavelet")
    inner = (..., slice(128, -128), slice(128, -128))  # away from the repeated edge
    np.testing.assert_allclose(result[inner], (0.4 + checkers)[inner], atol=1e-5)


def test_wavelet_removes_a_constant_colour_cast_exactly():
    reference = 0.3 + 0.3 * random(1, 3, 12, 20)
    enlarged = enlarge(reference, (48, 80))
    cast = np.array([0.1, -0.05, 0.02], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(match_color(enlarged + cast, reference, "wavelet"), enlarged, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 80), (12, 20), (31, 90)])
def test_enlargement_is_torchs(size):
    reference = random(1, 3, 12, 20)
    expected = F.interpolate(torch.from_numpy(reference), size=size, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(enlarge(reference, size), expected.numpy(), atol=1e-5)


def test_blur_is_the_dilated_binomial_filter():
    picture = random(1, 1, 37, 50)
    expected = picture[0, 0].astype(float)
    for level in range(7):
        kernel = np.zeros(2 * 2**level + 1)
        kernel[[0, 2**level, -1]] = 0.25, 0.5, 0.25
        for axis in (0, 1):
            expected = convolve1d(expected, kernel, axis=axis, mode="nearest")
    np.testing.assert_allclose(blur(picture)[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_result_is_clamped_new_and_of_the_same_dtype(method):
    output = 3 * random(1, 3, 64, 64) - 1
    before = output.copy()
    result = match_color(output, random(1, 3, 16, 16), method)
    assert result.dtype == np.float32 and result.shape == output.shape
    assert result.min() >= 0 and result.max() <= 1
    assert np.array_equal(output, before)


def test_none_only_clamps():
    output = 3 * random(1, 3, 8, 8) - 1
    assert np.array_equal(match_color(output, random(1, 3, 2, 2), "none"), output.clip(0, 1))


def test_a_batch_equals_its_single_pictures():
    output, reference = random(2, 3, 32, 48), random(2, 3, 8, 12, seed=1)
    for method in COLOR_FIXES:
        single = np.concatenate([match_color(output[i : i + 1], reference[i : i + 1], method) for i in range(2)])
        np.testing.assert_allclose(match_color(output, reference, method), single, atol=1e-6)


def test_unknown_method_names_the_choices():
    with pytest.raises(ValueError, match="'histogram' is unknown; choose one of wavelet, adain, none"):
        match_color(random(1, 3, 8, 8), random(1, 3, 2, 2), "histogram")
