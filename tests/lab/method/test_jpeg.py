"""JPEG against the file that Pillow writes."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from instancersr.lab.method.jpeg import jpeg, jpeg_batched, jpeg_codec, quantization_tables

QUALITIES = (30, 60, 75, 95)


def picture(name: str, height: int, width: int) -> torch.Tensor:
    """(3, height, width) in [0, 1] from the middle of one of scikit-image's photos."""
    photo = getattr(data, name)()[80 : 80 + height, 120 : 120 + width]
    return torch.from_numpy(photo).permute(2, 0, 1) / 255


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * torch.log10(((a - b) ** 2).mean().clamp(min=1e-12)).item()


def saved(pixels: np.ndarray, quality: int) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@pytest.mark.parametrize("size", [(128, 128), (97, 133), (130, 71), (104, 88)])
def test_batched_equals_codec_on_photos(name, size):
    source = picture(name, *size).expand(len(QUALITIES), -1, -1, -1)
    ours, pillow = jpeg_batched(source, QUALITIES), jpeg_codec(source, QUALITIES)
    for i, quality in enumerate(QUALITIES):
        difference = (ours[i] - pillow[i]).abs() * 255  # grey levels
        assert difference.mean() < 0.1, quality
        # the edges, where blocks are padded
        assert max(difference[:, -1].mean(), difference[..., -1].mean()) < 0.5, quality
        assert psnr(ours[i], pillow[i]) > max(50, psnr(pillow[i], source[i]) + 15), quality


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(97, 100), st.integers(0, 2**31))
def test_batched_equals_codec_at_any_size(height, width, quality, seed):
    # smooth colours from a handful of random points: every size has gradients that reach its edges
    points = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    source = torch.nn.functional.interpolate(points, (height, width), mode="bicubic").clamp(0, 1)
    ours, pillow = jpeg_batched(source, [quality]), jpeg_codec(source, [quality])
    assert (ours - pillow).abs().mean() * 255 < 0.8


def test_codec_is_the_file_pillow_writes():
    source = picture("astronaut", 50, 70)
    pixels = (source * 255).byte().permute(1, 2, 0).numpy()
    expected = np.asarray(saved(pixels, 40)).transpose(2, 0, 1)
    assert np.array_equal((jpeg_codec(source[None], [40])[0] * 255).round().numpy(), expected)


def test_quantization_tables_are_the_ones_in_the_file():
    for quality in range(1, 101):
        tables = saved(np.zeros((8, 8, 3), np.uint8), quality).quantization
        luma, chroma = quantization_tables([quality])[0].reshape(2, 64).int().tolist()
        assert (luma, chroma) == (tables[0], tables[1]), quality


@pytest.mark.parametrize("function", [jpeg_codec, jpeg_batched])
@pytest.mark.parametrize("level", [0, 1, 77, 128, 254, 255])
def test_constant_gray_is_exact_at_quality_100(function, level):
    source = torch.full((1, 3, 19, 35), level / 255)
    assert torch.equal(function(source, [100]), source)


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (12, 200, 90), (250, 240, 3)])
def test_constant_colors_equal_the_codec(color):
    source = (torch.tensor(color) / 255).view(1, 3, 1, 1).expand(4, -1, 21, 37)
    assert torch.equal(jpeg_batched(source, QUALITIES), jpeg_codec(source, QUALITIES))


def test_each_picture_has_its_own_quality():
    source = torch.stack([picture("coffee", 48, 48), picture("astronaut", 48, 48)])
    for function in (jpeg_codec, jpeg_batched):
        together = function(source, [20, 90])
        alone = torch.cat([function(source[:1], [20]), function(source[1:], [90])])
        assert torch.equal(together, alone)


@pytest.mark.parametrize("function", [jpeg_codec, jpeg_batched])
def test_lower_quality_is_further_from_the_source(function):
    source = picture("astronaut", 96, 96).expand(4, -1, -1, -1)
    result = function(source, [10, 30, 60, 95])
    scores = [psnr(r, s) for r, s in zip(result, source, strict=True)]
    assert scores == sorted(scores)


@pytest.mark.parametrize("function", [jpeg_codec, jpeg_batched])
def test_result_is_8_bit_in_range_and_input_is_kept(function):
    source = torch.rand(2, 3, 33, 41) * 1.4 - 0.2
    before = source.clone()
    result = function(source, [50, 100])
    assert result.shape == source.shape and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1
    assert torch.allclose(result * 255, (result * 255).round(), atol=1e-4)
    assert torch.equal(source, before)


def test_autocast_changes_nothing():
    source = picture("coffee", 40, 40)[None]
    with torch.autocast("cpu", torch.bfloat16):
        inside = jpeg_batched(source, [70])
    assert torch.equal(inside, jpeg_batched(source, [70]))


def test_cpu_takes_the_codec():
    source = picture("coffee", 64, 64)[None]
    assert torch.equal(jpeg(source, [35]), jpeg_codec(source, [35]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_takes_the_batched_coder():
    source = picture("astronaut", 90, 100).expand(4, -1, -1, -1)
    result = jpeg(source.cuda(), QUALITIES)
    assert result.is_cuda
    assert psnr(result.cpu(), jpeg_codec(source, QUALITIES)) > 50


@pytest.mark.parametrize("function", [jpeg_codec, jpeg_batched, jpeg])
@pytest.mark.parametrize(
    ("shape", "qualities", "message"),
    [
        ((3, 8, 8), [50], r"\(B, 3, H, W\)"),
        ((1, 1, 8, 8), [50], r"\(1, 1, 8, 8\)"),
        ((2, 3, 8, 8), [50], "2 pictures but 1 qualities"),
        ((1, 3, 8, 8), [0], "1 to 100"),
        ((1, 3, 8, 8), [101], "101"),
    ],
)
def test_bad_input_is_named(function, shape, qualities, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(shape), qualities)
