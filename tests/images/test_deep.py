"""16 bits in, 16 bits out: read and written files are checked with scikit-image's and tifffile's own codecs."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from raw_png import png

from instancersr.images.deep import deepen
from instancersr.images.reading import ImageError, read_frames, read_image
from instancersr.images.results import write_result

tifffile = pytest.importorskip("tifffile", reason="needs tifffile, which scikit-image brings")


@pytest.fixture
def ramp() -> np.ndarray:
    """(24, 32, 3) uint16 with far more levels than 8 bits have, all different."""
    levels = np.linspace(500, 65_000, 24 * 32 * 3).round().astype(np.uint16)
    return levels.reshape(24, 32, 3)


def png_16(path, pixels, *extra):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(png(pixels.shape[1], pixels.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]], rows, extra))


def decode_png_16(path) -> np.ndarray:
    """By another decoder than Pillow's."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV as a second decoder")
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_is_read_exactly(tmp_path, ramp, compression, order):
    tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="rgb", compression=compression, byteorder=order)
    photo = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.deep, ramp)
    np.testing.assert_array_equal(photo.rgb, np.rint(ramp / 257))


def with_alpha(ramp: np.ndarray) -> np.ndarray:
    return np.dstack([ramp, np.maximum(ramp[..., 0], 600)])


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_tiff_of_16_bits_in_planes_is_read_exactly(tmp_path, ramp, channels, order, tile):
    pixels = ramp if channels == 3 else with_alpha(ramp)
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate",
                     byteorder=order, tile=tile, extrasamples=["unassalpha"][: channels - 3])
    photo = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.deep, ramp)
    assert (photo.alpha is None) == (channels == 3)
    if channels == 4:
        np.testing.assert_array_equal(photo.alpha, pixels[..., 3] >> 8)


def test_grey_of_16_bits_in_one_plane_and_ink_in_four(tmp_path, ramp):
    Image.fromarray(ramp[..., 0]).save(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[data.index(struct.pack("<HHI", 284, 3, 1)) + 8] = 2  # the tag that tells planes
    (tmp_path / "a.tif").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").deep[..., 2], ramp[..., 0])
    tifffile.imwrite(tmp_path / "b.tif", np.stack([ramp[..., 0]] * 4), photometric="separated",
                     planarconfig="separate")
    with pytest.raises(ImageError, match="in planes are not supported"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_of_16_bits_whose_0_is_white_is_no_negative(tmp_path, ramp, compression):
    grey = ramp[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", 65_535 - grey, photometric="miniswhite", compression=compression,
                     extratags=[(274, "H", 1, 3, True)])  # upside down as well
    photo = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.deep[..., 0], grey[::-1, ::-1])
    write_result(tmp_path / "b.tif", [(photo.rgb, photo)])
    with tifffile.TiffFile(tmp_path / "b.tif") as result:
        assert result.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
        np.testing.assert_array_equal(result.pages[0].asarray(), grey[::-1, ::-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_level_of_a_png_of_16_bits_is_told_from_its_neighbours(tmp_path, ramp, channels):
    pixels = ramp[..., :channels].copy()
    pixels[:5] = 1000
    pixels[5:8] = 1001  # the same upper byte
    pixels[8:10, :, 0] = 1000
    pixels[8:10, :, 1:] = 1001
    png_16(tmp_path / "a.png", pixels, (b"tRNS", struct.pack(">H", 1000) * channels))
    photo = read_image(tmp_path / "a.png")
    rows = 10 if channels == 1 else 5
    expected = np.full(ramp.shape[:2], 255)
    expected[:5], expected[8:rows] = 0, 0
    np.testing.assert_array_equal(photo.alpha, expected)
    seen = expected > 0
    np.testing.assert_array_equal(photo.deep[seen], pixels.repeat(3 // channels, 2)[seen])


def test_what_is_read_with_8_of_its_16_bits_is_said(tmp_path, ramp):
    ink = np.dstack([ramp, ramp[..., :1]])
    png_16(tmp_path / "grey_and_alpha.png", ramp[..., :2])
    tifffile.imwrite(tmp_path / "premultiplied.tif", with_alpha(ramp), photometric="rgb", extrasamples=["assocalpha"])
    tifffile.imwrite(tmp_path / "ink.tif", ink, photometric="separated")
    tifffile.imwrite(tmp_path / "planes.tif", ramp.transpose(2, 0, 1), photometric="rgb", planarconfig="separate",
                     compression="zlib")
    for path in sorted(tmp_path.iterdir()):
        photo = read_image(path)
        assert photo.deep is None and f"{path}: it was read with 8 of its 16 bits" in photo.notes[0], path
    np.testing.assert_array_equal(read_image(tmp_path / "planes.tif").rgb, ramp >> 8)
    tifffile.imwrite(tmp_path / "eight.tif", (ink >> 8).astype(np.uint8), photometric="separated")
    assert not any("16 bits" in note for note in read_image(tmp_path / "eight.tif").notes)


def test_a_png_of_16_bits_is_read_exactly_and_upright(tmp_path, ramp):
    png_16(tmp_path / "a.png", ramp)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").deep, ramp)
    tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    expected = np.stack([np.asarray(ImageOps.exif_transpose(_turned(ramp[..., c]))) for c in range(3)], -1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").deep, expected)


def _turned(channel: np.ndarray) -> Image.Image:
    image = Image.fromarray(channel.astype(np.int32))
    image.getexif()[274] = 6
    return image


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_results_of_16_bits_are_written_exactly(tmp_path, ramp, channels):
    source = ramp if channels == 3 else ramp[..., :1] if channels == 1 else np.dstack([ramp, np.full(ramp.shape[:2],
                                                                                                    65_535, np.uint16)])
    png_16(tmp_path / "a.png", source)
    photo = read_image(tmp_path / "a.png")
    for suffix, decode in ((".png", decode_png_16), (".tif", tifffile.imread)):
        write_result(tmp_path / f"b{suffix}", [(photo.rgb, photo)])  # at scale 1 the result is the source itself
        pixels = decode(tmp_path / f"b{suffix}")
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, source.squeeze(), err_msg=suffix)


def test_a_smooth_ramp_has_no_steps_and_new_detail_stays():
    source = np.linspace(20_000, 22_000, 64).round().astype(np.uint16)[None, :, None].repeat(8, 0).repeat(3, 2)
    picture = np.asarray(Image.fromarray(np.rint(source / 257).astype(np.uint8)).resize((256, 32), 3)).copy()
    assert len(np.unique(picture)) < 12
    picture[10:20, 100:110] = 200  # what the model drew
    deep = deepen(picture, source)
    assert len(np.unique(deep)) > 200
    assert (deep[10:20, 100:110] == 200 * 257).all()
    np.testing.assert_allclose(np.diff(deep[0, 8:-8, 0].astype(int)), 2000 / 252, atol=2)


def test_12_bits_in_16_keep_their_range_and_a_file_of_8_bits_says_what_was_changed(tmp_path, ramp):
    twelve = ramp // 16
    tifffile.imwrite(tmp_path / "a.tif", twelve, photometric="rgb")
    photo = read_image(tmp_path / "a.tif")
    assert photo.stretch == 16 and photo.rgb.max() > 240  # what the model sees is not nearly black
    write_result(tmp_path / "b.png", [(photo.rgb, photo)])
    np.testing.assert_array_equal(decode_png_16(tmp_path / "b.png"), twelve)
    notes = write_result(tmp_path / "b.jpg", [(photo.rgb, photo)])
    assert any("12 of its 16 bits" in note for note in notes) and any("8 of the source's 16 bits" in n for n in notes)


def test_pages_of_8_and_of_12_in_16_bits_keep_their_tones(tmp_path, ramp):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write((ramp >> 8).astype(np.uint8), photometric="rgb")
        file.write(ramp >> 4, photometric="rgb")
    photos = list(read_frames(tmp_path / "a.tif"))
    notes = write_result(tmp_path / "b.tif", [(photo.rgb, photo) for photo in photos])
    with tifffile.TiffFile(tmp_path / "b.tif") as result:
        first, second = (page.asarray() for page in result.pages)
    np.testing.assert_array_equal(first, ramp >> 8)
    np.testing.assert_allclose(second.astype(int), ramp >> 8, atol=1)
    assert any("not all of its pages have 16" in note for note in notes)


def test_pages_of_16_bits(tmp_path, ramp):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([ramp, ramp[::-1]]), photometric="rgb")
    photos = list(read_frames(tmp_path / "a.tif"))
    write_result(tmp_path / "b.tif", [(photo.rgb, photo) for photo in photos])
    pages = [page.asarray() for page in tifffile.TiffFile(tmp_path / "b.tif").pages]
    np.testing.assert_array_equal(pages, [ramp, ramp[::-1]])


@pytest.mark.parametrize("pixels,said", [(np.zeros((20, 20, 3), np.float32), "floating-point"),
                                         (np.zeros((20, 20), np.float32), "floating-point"),
                                         (np.zeros((20, 20, 3), np.uint32), "more than 16 bits")])
def test_other_numbers_are_refused_in_one_right_sentence(tmp_path, pixels, said):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    with pytest.raises(ImageError, match=said):
        read_image(tmp_path / "a.tif")
