"""The terms on texture: how rough a feature is, not where its peaks lie, and no pattern of the network's own."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from instancersr.lab.training.config import ConfigError, PerceptualConfig
from instancersr.lab.training.perceptual import (
    excess_grain,
    fine_bands,
    random_window,
    repeated_pattern,
    repeated_steps,
    texture_distance,
    turn,
    variety_error,
)
from instancersr.lab.training.stages.objective import perceptual_loss


def noise(seed: int, deviation: float, size: int = 32) -> torch.Tensor:
    return 1 + deviation * torch.randn(2, 6, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_same_features_are_at_no_distance():
    assert texture_distance([noise(0, 1.0)], [noise(0, 1.0)]) == 0


def test_the_distance_is_the_logarithm_of_the_ratio_of_deviations_both_ways():
    for ours, theirs in ((0.5, 1.0), (1.0, 0.5)):
        distance = texture_distance([noise(0, ours, 64)], [noise(0, theirs, 64)])
        assert distance.item() == pytest.approx(math.log(2), abs=0.05)


def test_another_sample_of_a_texture_is_nearer_than_a_smooth_area():
    truth = [noise(0, 1.0)]
    assert texture_distance([noise(1, 1.0)], truth) < 0.2 < texture_distance([noise(0, 0.1)], truth)


def test_features_that_are_never_there_are_harmless():
    """Some of VGG's are zero on every photo."""
    truth, output = noise(0, 1.0), noise(0, 1.0).requires_grad_()
    truth[:, 0] = 0
    distance = texture_distance([output * torch.tensor([0.0, 1, 1, 1, 1, 1])[:, None, None]], [truth])
    distance.backward()
    assert distance == 0 and torch.isfinite(output.grad).all()


def test_a_pattern_of_the_period_costs_its_deviation_and_grain_next_to_nothing():
    cell = torch.tensor([[1.0, -1.0, 1.0, -1.0]] * 4)
    pattern = 0.02 * cell.repeat(16, 16).expand(2, 3, 64, 64)
    grain = 0.02 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert repeated_pattern(pattern).item() == pytest.approx(0.02, rel=0.05)
    assert repeated_pattern(grain) < 0.2 * repeated_pattern(pattern)


def test_smooth_differences_are_no_pattern():
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert repeated_pattern(torch.zeros(1, 3, 64, 64)) == pytest.approx(0, abs=1e-8)
    assert repeated_pattern(ramp) < 2e-3


def test_steps_at_a_grid_cost_their_deviation_wherever_it_begins():
    """Blocks of 32 pixels that are brighter and darker in turn: one step of 31 others at 0, in both directions."""
    checks = (torch.arange(160) // 32 % 2).float()
    blocks = (0.04 * (checks[:, None] - checks[None]).abs()).expand(2, 3, 160, 160)
    flat = torch.zeros_like(blocks)
    expected = 0.04 * ((1 - 1 / 32) / 32) ** 0.5
    for start in (0, 11):
        box = (..., slice(start, start + 128), slice(start, start + 128))
        assert repeated_steps(blocks[box], flat[box]).item() == pytest.approx(expected, rel=0.1)
    assert repeated_steps(blocks, blocks) == pytest.approx(0, abs=1e-8)
    grain = 0.04 * torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert repeated_steps(grain, torch.zeros_like(grain)) < 0.2 * expected


def test_the_first_band_holds_the_finest_detail_and_a_flat_area_has_none():
    checks = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float().expand(1, 3, 32, 32)
    finest, *coarser = fine_bands(checks)
    inside = (..., slice(4, 28), slice(4, 28))
    assert torch.allclose(finest[inside], checks[inside] - 0.5, atol=1e-6)  # the filter's response at Nyquist is 0
    assert all(band[..., 8:24, 8:24].abs().max() < 1e-6 for band in coarser)
    assert all(band.abs().max() < 1e-6 for band in fine_bands(torch.full((1, 3, 32, 32), 0.3)))


@pytest.mark.parametrize("period", [4, 8, 16])
def test_each_band_has_its_share_of_a_wave(period):
    """[1 2 1] / 4 passes cos(w / 2)^2 of a wave of w = 2 pi / period, cos(w)^2 and cos(2 w)^2 with longer reaches."""
    w, passed = 2 * math.pi / period, 1.0
    wave = torch.cos(torch.arange(64) * w).expand(1, 3, 64, 64)
    for band, half in zip(fine_bands(wave), (w / 2, w, 2 * w), strict=True):
        share, passed = passed * math.sin(half) ** 2, passed * math.cos(half) ** 2
        assert torch.allclose(band[..., 8:56, 8:56], share * wave[..., 8:56, 8:56], atol=1e-5)


def test_grain_costs_where_the_truth_is_flat_and_hardly_where_it_is_rough():
    """White noise of deviation s has s |h| in the band of filter h; it is counted in units of two grey levels."""
    smooth, filters = np.ones((1, 1)), []
    for reach in (1, 2, 4):
        wider = np.zeros((2 * reach + 1, 2 * reach + 1))
        wider[::reach, ::reach] = np.outer([1, 2, 1], [1, 2, 1]) / 16
        smooth, before = convolve2d(smooth, wider), np.pad(smooth, reach)
        filters.append(before - smooth)
    flat = torch.full((2, 3, 128, 128), 0.5)
    grain, texture = (torch.randn(flat.shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected = np.mean([20 * np.linalg.norm(filter) / 2 for filter in filters])
    found = excess_grain(flat + 20 / 255 * grain, flat)
    assert found.item() == pytest.approx(expected, rel=0.03)
    assert excess_grain(flat + 40 / 255 * grain, flat).item() == pytest.approx(2 * expected, rel=0.03)
    rough = flat + 80 / 255 * texture
    assert excess_grain(rough + 20 / 255 * grain, rough) < 0.05 * found
    assert excess_grain(flat, rough) == excess_grain(rough, rough) == 0  # what is missing is others' to judge


def test_two_versions_should_differ_as_much_as_the_restored_photo_errs():
    """A chequerboard is all in the finest band. Two levels, and a fifth of what is restored, are no choice."""
    flat, board = torch.full((1, 3, 64, 64), 0.5), (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    truth = flat + 12 / 255 * board

    def error(differ: float, truth=truth, restored=flat) -> float:
        return 255 * variety_error(flat + differ / 255 * board, flat, truth, restored, 0.5).item() ** 0.5

    assert error(5) == pytest.approx(0, abs=1e-3)  # half of 12 less 2
    assert error(3) == pytest.approx(2, abs=1e-3) and error(6) == pytest.approx(1, abs=1e-3)
    assert error(0, truth=flat + 2 / 255 * board) == pytest.approx(0, abs=1e-3)
    assert error(1, truth=flat) == pytest.approx(1, abs=1e-3)  # nothing is left to choose, and yet they differ
    known = flat + 20 / 255 * board
    assert error(3, truth=known + 12 / 255 * board, restored=known) == pytest.approx(0, abs=1e-3)
    hue = torch.tensor([1.0, -2.0, 1.0]).view(3, 1, 1) * board
    assert error(5, truth=flat + 12 / 255 * hue) == pytest.approx(5, abs=1e-3)  # colours are not asked for


def test_windows_are_the_same_place_of_both():
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = random_window(picture, picture + 1, 48, torch.Generator().manual_seed(1))
    assert ours.shape == (2, 3, 48, 48) and torch.equal(ours + 1, theirs)
    assert (picture.unfold(2, 48, 1).unfold(3, 48, 1) == ours[:, :, None, None]).all((0, 1, 4, 5)).any()


def test_windows_of_bf16_pictures_can_be_shrunk():
    """Autocast on a CPU gives such pictures, and torch shrinks none."""
    grey = torch.full((1, 3, 32, 32), 0.5, dtype=torch.bfloat16)
    for zoom in (1, 2):
        for window in random_window(grey, grey, 16, torch.Generator().manual_seed(0), zoom):
            assert window.dtype == torch.float32
            torch.testing.assert_close(window, torch.full((1, 3, 16, 16), 0.5))


def test_zoomed_windows_show_up_to_so_much_more_at_one_size():
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)  # a pixel's value is its column
    steps = []
    for seed in range(40):
        ours, theirs = random_window(ramp, ramp + 1, 16, torch.Generator().manual_seed(seed), zoom=2)
        assert ours.shape == (1, 3, 16, 16) and torch.allclose(ours + 1, theirs, atol=1e-4)
        steps.append((ours[0, 0, 0, 12] - ours[0, 0, 0, 4]).item() / 8)  # columns of the picture to one of the window
    assert 1 <= min(steps) < 1.15 and 1.85 < max(steps) <= 2 + 1e-4


def test_turns_are_the_same_for_both_pictures_and_keep_slopes_and_colours():
    """Of a plane, any turn or mirror keeps the length of the gradient; each colour has one of its own."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.tensor([1.0, 2.0, 3.0])
    plane = (slopes[:, None, None] * torch.arange(64)).expand(2, 3, 64, 64) / 64
    directions, orders = [], set()
    for _ in range(400):
        output, truth = turn(plane, plane + 1, generator)
        assert torch.allclose(output + 1, truth, atol=1e-5)
        middle = output[0, :, 28:36, 28:36]  # no corner of the square ever comes there
        down, right = (middle.diff(dim=axis).mean((1, 2)) * 64 for axis in (1, 2))
        assert torch.allclose(torch.hypot(down, right).sort().values, slopes, atol=1e-3)
        orders.add(tuple(torch.hypot(down, right).round().int().tolist()))
        directions.append(math.degrees(math.atan2(down[0], right[0])) % 360)
    assert len(orders) == 6
    straight = [round(angle / 90) % 4 for angle in directions if abs((angle + 45) % 90 - 45) < 0.05]
    assert len(straight) == pytest.approx(200, abs=40)
    assert all(straight.count(quarter) == pytest.approx(50, abs=25) for quarter in range(4))
    widest_gap = torch.tensor(sorted(directions)).diff().max()
    assert widest_gap < 12  # every direction comes up: 200 angles at random leave no gap of twelve degrees


def test_lpips_sees_turned_windows_where_the_recipe_says_so():
    """One window and one difference have one value; turned, many; and no difference still has none."""
    try:
        plain, turned = (perceptual_loss(PerceptualConfig(weight=1, turned=turned)) for turned in (False, True))
    except ConfigError as error:
        pytest.skip(str(error))
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 64, 64, generator=generator)  # as large as the window
    stripes = (truth + 0.1 * torch.sin(torch.arange(64.0))).clamp(0, 1)
    assert len({round(plain(stripes, truth, generator).item(), 5) for _ in range(6)}) == 1
    assert len({round(turned(stripes, truth, generator).item(), 5) for _ in range(6)}) > 3
    assert all(turned(truth, truth, generator).item() == pytest.approx(0, abs=1e-6) for _ in range(6))
