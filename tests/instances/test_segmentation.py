"""From a photo and its predicted map to instances: each step against a library or a picture whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from instancersr.instances.regions import LEAST_REGION, describe, find_regions, merge, segment, to_oklab
from instancersr.lab.method.models import MapDecoder


def pieces(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A picture of four flat pieces, 160x192, and their numbers."""
    ids = np.zeros((160, 192), int)
    ids[:, 96:], ids[80:, :48], ids[40:100, 120:160] = 1, 2, 3
    colors = np.array([[0.2, 0.3, 0.7], [0.8, 0.5, 0.3], [0.1, 0.5, 0.2], [0.9, 0.9, 0.8]])
    picture = colors[ids] + noise * np.random.default_rng(0).standard_normal((*ids.shape, 3))
    return picture.clip(0, 1), ids


def test_oklab_is_the_published_one():
    """Ottosson's values of white and red."""
    assert np.allclose(to_oklab(np.array([1.0, 1.0, 1.0])), [1, 0, 0], atol=1e-3)
    assert np.allclose(to_oklab(np.array([1.0, 0.0, 0.0])), [0.628, 0.2249, 0.1258], atol=1e-3)


def test_regions_are_the_pieces_of_a_flat_picture():
    picture, ids = pieces()
    regions = find_regions(picture[::4, ::4])
    assert len(np.unique(regions * 10 + ids[::4, ::4])) == len(np.unique(regions)) == 4


def test_regions_of_a_noisy_picture_respect_borders_and_the_least_area():
    picture, ids = pieces(0.05)
    regions, _, areas = describe(picture, picture)
    assert areas.min() >= LEAST_REGION and areas.sum() == regions.size
    known = ids[2::4, 2::4]
    assert all(len(np.unique(known[regions == r])) == 1 for r in range(len(areas)))


def test_features_do_not_depend_on_the_order_of_a_pair():
    picture, _ = pieces(0.1)
    _, features, areas = describe(picture, picture[::-1])
    assert features.shape == (len(areas), len(areas), MapDecoder().config.features) and len(areas) > 3
    assert np.isfinite(features).all() and np.allclose(features, features.transpose(1, 0, 2), atol=1e-4)


def test_a_picture_without_borders_is_one_instance():
    flat = np.full((64, 64, 3), 0.5)
    assert (segment(flat, flat, lambda pairs: np.full(pairs.shape[:-1], -9.0)) == 1).all()


@pytest.mark.parametrize("above", [0.3, 0.5, 0.7])
def test_merging_equal_areas_is_average_linkage(above):
    rng = np.random.default_rng(1)
    distance = rng.random((30, 30))
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    groups = merge(1 - distance, np.full(30, 7.0), above)
    expected = fcluster(linkage(squareform(distance), "average"), 1 - above, "distance")
    pairs = len(np.unique(groups * 100 + expected))
    assert pairs == len(np.unique(groups)) == len(np.unique(expected)) and groups.dtype == np.int32


def test_merging_weighs_groups_by_their_areas():
    """The small region between two large ones has little say in whether they belong together."""
    likely = np.array([[1, 0.9, 0.2], [0.9, 1, 0.95], [0.2, 0.95, 1]])
    assert len(np.unique(merge(likely, np.array([1.0, 1.0, 1.0]), 0.5))) == 1
    assert len(np.unique(merge(likely, np.array([100.0, 1.0, 100.0]), 0.5))) == 2


def test_the_decoder_standardises_its_input():
    decoder, pairs = MapDecoder(features=3), torch.randn(500, 3) * torch.tensor([1.0, 20.0, 0.1]) + 5
    decoder.standardize(pairs)
    moved = MapDecoder(features=3)
    moved.layers.load_state_dict(decoder.layers.state_dict())
    assert torch.allclose(decoder(pairs), moved((pairs - pairs.mean(0)) / pairs.std(0)), atol=1e-5)
