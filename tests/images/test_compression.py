"""How hard a file was compressed, as the file itself says."""

import io

import numpy as np
import pytest
from PIL import Image

from instancersr.images.compression import jpeg_quality
from instancersr.images.reading import read_image


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("quality", [10, 12, 30, 49, 50, 51, 75, 90, 95])
def test_the_quality_that_pillow_saved_with_is_read_back(tmp_path, quality):
    noise().save(tmp_path / "a.jpg", quality=quality)
    read = read_image(tmp_path / "a.jpg").quality
    assert abs(read - quality) <= 1 or quality < 25 and 0 <= read - quality <= 5


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_other_files_say_nothing_of_it(format):
    file = io.BytesIO()
    noise().save(file, format)
    assert jpeg_quality(Image.open(file)) is None
    assert jpeg_quality(noise()) is None


def test_a_rotated_file_keeps_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise().save(tmp_path / "a.jpg", quality=40, exif=exif)
    photo = read_image(tmp_path / "a.jpg")
    assert photo.rgb.shape == (32, 24, 3) and abs(photo.quality - 40) <= 1
