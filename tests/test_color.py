"""Colour fixes against closed forms and SciPy's convolution."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d

from instancersr.color import COLOR_FIXES, blur, match_color


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_adain_gives_the_references_mean_and_standard_deviation():
    output = 0.3 + 0.2 * random(2, 3, 40, 28)
    reference = 0.4 + 0.3 * random(2, 3, 10, 7, seed=1)
    result = match_color(output, reference, "adain")
    for moment in (torch.mean, lambda x, dim: x.std(dim, correction=0)):
        torch.testing.assert_close(moment(result, dim=(2, 3)), moment(reference, dim=(2, 3)))


def test_adain_does_not_amplify_a_flat_channel():
    output = torch.full((1, 3, 16, 16), 0.5) + 1e-6 * random(1, 3, 16, 16)
    result = match_color(output, random(1, 3, 4, 4), "adain")
    assert result.std() < 0.3 and result[0, 0].std() < 1e-4


def test_wavelet_takes_the_base_from_the_reference_and_keeps_the_detail():
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    checkers = (0.1 * (-1.0) ** (x + y)).expand(1, 3, -1, -1)  # the first blur removes Nyquist exactly
    result = match_color(0.7 + checkers, torch.full((1, 3, 24, 32), 0.4), "wavelet")
    inner = (..., slice(32, -32), slice(32, -32))  # away from the repeated edge
    torch.testing.assert_close(result[inner], (0.4 + checkers)[inner])


def test_wavelet_removes_a_constant_colour_cast_exactly():
    reference = 0.3 + 0.3 * random(1, 3, 12, 20)
    enlarged = torch.nn.functional.interpolate(reference, size=(48, 80), mode="bicubic")
    cast = torch.tensor([0.1, -0.05, 0.02]).view(1, 3, 1, 1)
    torch.testing.assert_close(match_color(enlarged + cast, reference, "wavelet"), enlarged)


def test_blur_is_the_dilated_binomial_filter():
    picture = random(1, 1, 37, 50)
    expected = picture[0, 0].double().numpy()
    for level in range(5):
        kernel = np.zeros(2 * 2**level + 1)
        kernel[[0, 2**level, -1]] = 0.25, 0.5, 0.25
        for axis in (0, 1):
            expected = convolve1d(expected, kernel, axis=axis, mode="nearest")
    np.testing.assert_allclose(blur(picture)[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_result_is_clamped_new_and_of_the_same_dtype(method):
    output = (3 * random(1, 3, 64, 64) - 1).bfloat16()
    before = output.clone()
    result = match_color(output, random(1, 3, 16, 16), method)
    assert result.dtype == torch.bfloat16 and result.shape == output.shape
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(output, before)


def test_none_only_clamps():
    output = 3 * random(1, 3, 8, 8) - 1
    assert torch.equal(match_color(output, random(1, 3, 2, 2), "none"), output.clamp(0, 1))


def test_a_batch_equals_its_single_pictures():
    output, reference = random(2, 3, 32, 48), random(2, 3, 8, 12, seed=1)
    for method in COLOR_FIXES:
        single = torch.cat([match_color(output[i : i + 1], reference[i : i + 1], method) for i in range(2)])
        torch.testing.assert_close(match_color(output, reference, method), single)


def test_unknown_method_names_the_choices():
    with pytest.raises(ValueError, match="'histogram' is unknown; choose one of wavelet, adain, none"):
        match_color(random(1, 3, 8, 8), random(1, 3, 2, 2), "histogram")
