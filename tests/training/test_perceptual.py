"""The texture term: it hears how rough a feature is, not where its peaks lie."""

import math

import pytest
import torch

from instancersr.training.perceptual import texture_distance


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
