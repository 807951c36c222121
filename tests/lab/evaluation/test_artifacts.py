"""Closed forms: noise of a known level, and steps of a known height at the grid."""

import numpy as np
import pytest

from instancersr.lab.evaluation.artifacts import flat_ratio, grid_ratio


def noisy(level: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, level, (256, 256, 1))
    return np.repeat(np.round(np.clip(128 + noise, 0, 255)), 3, 2).astype(np.uint8)


def test_grain_of_twice_the_deviation_has_four_times_the_energy():
    assert flat_ratio([(noisy(4, 1), noisy(2, 0))]) == pytest.approx(4, rel=0.1)


def test_cells_where_the_truth_is_not_flat_do_not_count():
    truth = noisy(2, 0)
    truth[:, :128] = np.random.default_rng(1).integers(0, 256, (256, 128, 3))
    output = truth.copy()
    output[:, :64] = 0
    assert flat_ratio([(output, truth)]) == pytest.approx(1, rel=0.1)


def test_a_slope_has_no_grid_and_steps_at_every_block_show():
    columns = np.arange(256)
    slope = np.broadcast_to((columns // 2)[None, :, None], (256, 256, 3)).astype(float)
    picture = slope + slope.transpose(1, 0, 2)
    assert grid_ratio([picture]) == pytest.approx(1)
    blocks = (columns // 32 % 2) * 3
    assert grid_ratio([picture + blocks[None, :, None] + blocks[:, None, None]]) > 2
    shifted = np.roll(blocks, 16)  # blocks that begin elsewhere are not the file's own
    assert grid_ratio([picture + shifted[None, :, None] + shifted[:, None, None]]) < 0.5
