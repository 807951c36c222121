"""Instance maps at another size, and with objects made one."""

import numpy as np
import pytest
from PIL import Image

from instancersr.instances.maps import merge_objects, resize_ids


@pytest.mark.parametrize("size", [(40, 60), (7, 5), (20, 30), (33, 91)])
def test_another_size_is_pillows_nearest_neighbour(size):
    ids = np.random.default_rng(0).integers(0, 9, (20, 30)).astype(np.int32)
    expected = np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
    resized = resize_ids(ids, size)
    assert resized.dtype == np.int32
    np.testing.assert_array_equal(resized, expected)


def test_the_objects_of_a_group_are_one_and_the_others_stay():
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    merged = merge_objects(ids, [(3, 7), (2, 0, 11)])
    assert merged.tolist() == [[2, 1, 2, 3], [4, 5, 6, 3], [8, 9, 10, 2]] and merged.dtype == np.int32
    assert ids[1, 3] == 7  # the map that was given stays


def test_a_later_group_may_build_on_an_earlier_one():
    ids = np.array([[1, 2, 3, 4]], np.int32)
    assert merge_objects(ids, [(1, 2), (3, 1)]).tolist() == [[3, 3, 3, 4]]


@pytest.mark.parametrize(("groups", "message"), [
    ([(1, 9)], "object 9: not in the instance map, which has 1 to 4"),
    ([(9, 1)], "object 9"),
    ([(1, 2), (2, 3)], "object 2: not in the instance map, which has 3 ids up to 4"),
])
def test_an_object_that_is_not_there_is_named(groups, message):
    with pytest.raises(ValueError, match=message):
        merge_objects(np.array([[1, 2, 3, 4]], np.int32), groups)
