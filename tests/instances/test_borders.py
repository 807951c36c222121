"""The shipped network sees borders where they are, and tells places that belong together, at any size of photo."""

import numpy as np
import pytest

from instancersr.instances.borders import see_borders
from instancersr.instances.overlap import borders


@pytest.fixture(params=[(192, 256), (180, 212), (40, 60)], ids=str)
def disc(request) -> tuple[np.ndarray, np.ndarray]:
    """A photo of a disc on a ground, both with grain, and which cells lie in the disc."""
    height, width = request.param
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = np.hypot(rows - height / 2, columns - width / 2) < 0.3 * height
    photo = np.where(inside[..., None], [0.7, 0.45, 0.3], [0.25, 0.4, 0.55])
    photo = photo + 0.03 * np.random.default_rng(0).standard_normal(photo.shape)
    return photo.clip(0, 1), inside[2::4, 2::4]


def test_borders_are_seen_where_they_are(disc):
    photo, inside = disc
    edge = borders(inside)
    far = np.ones(inside.shape, bool)
    for row, column in np.argwhere(edge):
        far[max(row - 4, 0) : row + 4, max(column - 4, 0) : column + 4] = False
    for likely in see_borders(photo).borders:
        assert likely.shape == inside.shape and 0 <= likely.min() <= likely.max() <= 1
        assert likely[edge].mean() > 0.4
        assert not far.any() or likely[far].mean() < 0.1


def test_places_of_one_object_are_alike(disc):
    photo, inside = disc
    for embedding in see_borders(photo).embeddings:
        disc_mean, ground_mean = embedding[:, inside].mean(1), embedding[:, ~inside].mean(1)
        spread = np.square(embedding[:, inside] - disc_mean[:, None]).sum(0).mean()
        assert np.square(disc_mean - ground_mean).sum() > 3 * spread


def test_a_photo_without_borders_has_none():
    seen = see_borders(np.full((96, 96, 3), 0.5))
    assert seen.borders.max() < 0.2
