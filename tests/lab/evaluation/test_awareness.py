"""Instance awareness against cases whose answer is known."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install '.[eval]'")

from instancersr.lab.evaluation.awareness import PatchFeatures, adjusted_rand_index, map_quality, probe_accuracy


def quarters() -> np.ndarray:
    ids = np.ones((64, 64), np.int32)
    ids[:32, 32:], ids[32:, :32], ids[32:, 32:] = 2, 3, 4
    return ids


def test_a_map_with_other_numbers_for_the_same_regions_is_perfect():
    truth = quarters()
    assert map_quality(truth, np.array([0, 9, 4, 7, 1])[truth]) == pytest.approx(1)


def test_one_region_for_everything_has_no_rand_index_and_a_quarter_of_one_instance():
    # Hungarian matching gives the one region to one instance, IoU 1/4; the other three get nothing
    assert map_quality(quarters(), np.ones((64, 64), np.int32)) == pytest.approx((0.25 / 4 + 0) / 2)


def test_rand_index_leaves_unknown_pixels_out():
    truth = quarters()
    predicted = truth.copy()
    truth[:, :16] = 0
    predicted[:, :16] = 5
    assert adjusted_rand_index(truth, predicted) == pytest.approx(1)
    assert np.isnan(adjusted_rand_index(np.zeros((4, 4), int), predicted[:4, :4]))


def pictures(signal: float, count: int, seed: int) -> list[PatchFeatures]:
    """Tokens that carry their instance's own random direction, as strongly as `signal`, under unit noise."""
    rng = np.random.default_rng(seed)
    ids = np.repeat([1, 2, 0], [12, 12, 8])
    return [PatchFeatures(signal * rng.normal(size=(3, 16))[ids] + rng.normal(size=(32, 16)), ids)
            for _ in range(count)]


def test_probe_finds_what_tokens_know_and_nothing_where_they_know_nothing():
    assert probe_accuracy(pictures(3.0, 40, 0), pictures(3.0, 40, 1)) > 0.95
    assert abs(probe_accuracy(pictures(0.0, 40, 0), pictures(0.0, 40, 1)) - 0.5) < 0.05


def test_probe_needs_two_instances_in_a_picture():
    single = [PatchFeatures(np.ones((8, 4)), np.ones(8, int))]
    with pytest.raises(ValueError, match="two instances"):
        probe_accuracy(single, single)
