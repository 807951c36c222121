"""JPEG against the file that Pillow writes."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from instancersr.lab.method.jpeg import jpeg, to_levels


@pytest.mark.parametrize("quality", [1, 40, 95])
@pytest.mark.parametrize("size", [(50, 70), (97, 33)])
def test_it_is_the_file_pillow_writes(quality, size):
    pixels = data.astronaut()[80 : 80 + size[0], 120 : 120 + size[1]]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    picture = pixels.astype(np.float32) / 255
    before = picture.copy()
    assert np.array_equal(to_levels(jpeg(picture, quality)), np.asarray(Image.open(file)))
    assert np.array_equal(picture, before)


def test_levels_are_rounded_and_clamped():
    assert to_levels(np.array([-1, 0, 0.4 / 255, 0.6 / 255, 1, 1.7], np.float32)).tolist() == [0, 0, 0, 1, 255, 255]
    levels = np.arange(256, dtype=np.float32) / 255
    assert to_levels(levels).tolist() == list(range(256))
