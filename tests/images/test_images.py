"""Picture files in and out: every kind a camera or a browser makes, and every kind of broken."""

import io
import warnings
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageCms, features
from raw_png import png

from instancersr.images.folders import image_files
from instancersr.images.metadata import Metadata
from instancersr.images.reading import MAX_PIXELS, ImageError, read_frames, read_image
from instancersr.images.writing import check_writable, write_image

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


@pytest.fixture
def rgb() -> np.ndarray:
    """A smooth picture, 24x20, so that lossy formats come close."""
    y, x = np.mgrid[0:20, 0:24]
    return np.stack([x * 10, y * 12, 255 - x * 5 - y * 5], axis=-1).astype(np.uint8)


@lru_cache  # a profile holds the second it was made in
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def error_of(path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


# ------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_formats_are_read_exactly(tmp_path, rgb, suffix):
    Image.fromarray(rgb).save(tmp_path / f"a{suffix}")
    photo = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(photo.rgb, rgb)
    assert photo.rgb.dtype == np.uint8
    assert photo.alpha is None and replace(photo.metadata, dpi=None) == Metadata()


@pytest.mark.parametrize("suffix", [".jpg", ".webp", pytest.param(".avif", marks=needs_avif)])
def test_lossy_formats_are_read_closely(tmp_path, rgb, suffix):
    Image.fromarray(rgb).save(tmp_path / f"a{suffix}", quality=95)
    np.testing.assert_allclose(read_image(str(tmp_path / f"a{suffix}")).rgb.astype(int), rgb, atol=16)


def test_heic_is_read(tmp_path, rgb):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(np.kron(rgb, np.ones((4, 4, 1), np.uint8)))).save(tmp_path / "a.heic")
    assert read_image(tmp_path / "a.heic").rgb.shape == (80, 96, 3)


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypfake" + bytes(64))
    assert "pip install pillow-heif" in error_of(tmp_path / "a.heic")


def test_grey_and_one_bit_become_rgb(tmp_path, rgb):
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").rgb, np.stack([grey] * 3, -1))
    Image.fromarray(grey > 99).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bit.png").rgb[..., 1], (grey > 99) * 255)


def test_palette_with_and_without_a_transparent_colour(tmp_path, rgb):
    palette = Image.fromarray(rgb).quantize(16)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, np.array(palette.convert("RGB")))
    palette.save(tmp_path / "b.png", transparency=3)
    photo = read_image(tmp_path / "b.png")
    np.testing.assert_array_equal(photo.alpha, np.where(np.array(palette) == 3, 0, 255))


def test_alpha_of_grey_and_colour_is_kept_apart(tmp_path, rgb):
    alpha = rgb[..., 1]
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "rgba.png")
    photo = read_image(tmp_path / "rgba.png")
    np.testing.assert_array_equal(photo.rgb[alpha > 0], rgb[alpha > 0])
    np.testing.assert_array_equal(photo.alpha, alpha)
    Image.fromarray(np.dstack([rgb[..., 0], alpha])).save(tmp_path / "la.png")
    photo = read_image(tmp_path / "la.png")
    np.testing.assert_array_equal(photo.rgb[..., 2][alpha > 0], rgb[..., 0][alpha > 0])
    np.testing.assert_array_equal(photo.alpha, alpha)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 24 * 20).reshape(20, 24).round().astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb[..., 0], np.rint(levels / 257))


def test_sixteen_bit_rgb_is_scaled(tmp_path):
    levels = np.random.default_rng(0).integers(0, 65536, (20, 24, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    (tmp_path / "a.png").write_bytes(png(24, 20, 16, 2, rows))
    np.testing.assert_allclose(read_image(tmp_path / "a.png").rgb, levels / 257, atol=1)


def test_cmyk_is_converted_and_its_profile_does_not_stay(tmp_path, rgb):
    cmyk = Image.fromarray(rgb).convert("CMYK")
    cmyk.save(tmp_path / "a.tif")
    plain = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(plain.rgb, rgb)
    assert "CMYK without a colour profile" in plain.notes[0]
    fake = bytearray(srgb_profile())
    fake[16:20] = b"CMYK"
    cmyk.save(tmp_path / "b.tif", icc_profile=bytes(fake))
    photo = read_image(tmp_path / "b.tif")
    assert photo.metadata.icc_profile is None and "colour profile" in photo.notes[0]


def test_profile_and_exif_are_kept_and_the_orientation_applied(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    exif[0x010F] = "Camera maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:02:20 20:20:20"
    options = {"quality": 100, "subsampling": 0, "exif": exif, "icc_profile": srgb_profile()}
    Image.fromarray(rgb).save(tmp_path / "a.jpg", **options)
    photo = read_image(tmp_path / "a.jpg")
    np.testing.assert_allclose(photo.rgb.astype(int), np.rot90(rgb, -1), atol=6)
    assert photo.metadata.icc_profile == srgb_profile()
    back = Image.Exif()
    back.load(photo.metadata.exif)
    assert back[0x0112] == 1 and back[0x010F] == "Camera maker"
    assert back.get_ifd(0x8769)[0x9003] == "2020:02:20 20:20:20"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_the_same_upright_picture(tmp_path, rgb, orientation):
    stored = {
        1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.swapaxes(0, 1),
        6: np.rot90(rgb, 1), 7: np.rot90(rgb, 2).swapaxes(0, 1), 8: np.rot90(rgb, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, rgb)


def test_damaged_exif_does_not_stop_a_picture(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert read_image(tmp_path / "a.jpg").rgb.shape == rgb.shape


def test_storage_tags_of_a_tiff_do_not_travel(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.tif", description="a cat", compression="tiff_lzw")
    back = Image.Exif()
    back.load(read_image(tmp_path / "a.tif").metadata.exif)
    assert dict(back) == {270: "a cat"}


# -------------------------------------------------------------------------------------------------- errors


def test_missing_folder_empty_and_text(tmp_path):
    assert "no such file" in error_of(tmp_path / "no.png")
    assert "is a folder" in error_of(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty" in error_of(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("hello, this is no picture\n" * 40)
    assert "not a picture" in error_of(tmp_path / "text.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole{suffix}")
    data = (tmp_path / f"whole{suffix}").read_bytes()
    for fraction in (0.02, 0.3, 0.7):
        path = tmp_path / f"{fraction}{suffix}"
        path.write_bytes(data[: int(len(data) * fraction)])
        if suffix == ".jpg" and fraction > 0.02:
            assert "cut off" in read_image(path).notes[0]
        else:
            error_of(path)


def test_damaged_bytes_never_raise_anything_else(tmp_path, rgb):
    rng = np.random.default_rng(0)
    for suffix in (".png", ".jpg", ".tif", ".webp", ".bmp"):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, {".tif": "TIFF", ".jpg": "JPEG"}.get(suffix, suffix[1:].upper()))
        for _ in range(30):
            data = bytearray(buffer.getvalue())
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(256)
            (tmp_path / f"a{suffix}").write_bytes(data)
            try:
                read_image(tmp_path / f"a{suffix}")
            except ImageError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (9_200, 9_200), (8_200, 10_000)])
def test_too_large_is_refused_by_its_header(tmp_path, width, height):
    assert width * height > MAX_PIXELS
    (tmp_path / "big.png").write_bytes(png(width, height, 8, 2, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = error_of(tmp_path / "big.png")
    assert "80 megapixels" in message


def test_a_size_that_pillow_warns_of_is_judged_by_our_limit(tmp_path):
    (tmp_path / "big.png").write_bytes(png(10_000, 10_000, 8, 2, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "10000x10000 is over the limit of 80 megapixels" in error_of(tmp_path / "big.png")
        with pytest.raises(ImageError, match="damaged or cut off"):  # large enough, but without pixels
            read_image(tmp_path / "big.png", 100_000_000)


def test_reading_in_threads_leaves_the_filters_of_warnings_alone(tmp_path, rgb):
    """They belong to the whole process: `warnings.catch_warnings` in two threads restores what the other one set."""
    for number in range(2):
        Image.fromarray(rgb).save(tmp_path / f"{number}.tif", save_all=True, append_images=[Image.fromarray(rgb)])
    before = list(warnings.filters)
    first, second = (read_frames(tmp_path / f"{number}.tif") for number in range(2))
    for frames in (first, second):
        next(frames)
        assert warnings.filters == before
    first.close()  # in this order two threads end as well
    second.close()
    assert warnings.filters == before


def test_the_limit_holds_where_pillow_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "big.png").write_bytes(png(60_000, 60_000, 8, 2, b""))
    assert "60000x60000 is over the limit" in error_of(tmp_path / "big.png")


def test_kinds_of_pixels_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)).save(tmp_path / "f.tif")
    assert "floating-point" in error_of(tmp_path / "f.tif")
    Image.fromarray(np.full((20, 20), 2**20, np.int32)).save(tmp_path / "i.tif")
    assert "32-bit" in error_of(tmp_path / "i.tif")


# ------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_lossless_formats_are_written_exactly(tmp_path, rgb, suffix):
    assert write_image(tmp_path / f"a{suffix}", rgb) == []
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / f"a{suffix}")), rgb)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", pytest.param(".avif", marks=needs_avif)])
def test_profile_and_exif_are_written_with_the_new_size(tmp_path, rgb, suffix):
    exif = Image.Exif()
    exif[0x010F] = "Camera maker"
    exif.get_ifd(0x8769).update({0xA002: 6, 0xA003: 5, 0x9003: "2020:02:20 20:20:20"})
    path = tmp_path / f"a{suffix}"
    write_image(path, rgb, metadata=Metadata(exif=exif.tobytes(), icc_profile=srgb_profile()))
    photo = read_image(path)
    assert photo.metadata.icc_profile == srgb_profile()
    back = Image.Exif()
    back.load(photo.metadata.exif)
    assert back[0x010F] == "Camera maker"
    assert dict(back.get_ifd(0x8769)) == {0xA002: 24, 0xA003: 20, 0x9003: "2020:02:20 20:20:20"}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_written(tmp_path, rgb, suffix):
    write_image(tmp_path / f"a{suffix}", rgb, alpha=rgb[..., 1])
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").alpha, rgb[..., 1])


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_alpha_is_laid_over_white_where_it_cannot_be_kept(tmp_path, rgb, suffix):
    (note,) = write_image(tmp_path / f"a{suffix}", rgb, alpha=np.zeros((20, 24), np.uint8))
    assert "no transparency" in note and str(tmp_path) in note
    photo = read_image(tmp_path / f"a{suffix}")
    assert photo.alpha is None and photo.rgb.min() == 255


def test_bmp_notes_the_lost_profile(tmp_path, rgb):
    (note,) = write_image(tmp_path / "a.bmp", rgb, metadata=Metadata(icc_profile=srgb_profile()))
    assert "no colour profile" in note


def test_an_existing_file_is_replaced_and_nothing_else_is_left(tmp_path, rgb):
    (tmp_path / "写真 ñ.png").write_text("old")
    write_image(tmp_path / "写真 ñ.png", rgb)
    assert [p.name for p in tmp_path.iterdir()] == ["写真 ñ.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "写真 ñ.png").rgb, rgb)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, rgb, monkeypatch, failure):
    """Whatever fails in the codec, here after some bytes."""
    (tmp_path / "a.png").write_text("old")

    def save(self, file, **_):
        file.write(b"half a picture")
        raise failure

    monkeypatch.setattr(Image.Image, "save", save)
    expected = ImageError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_image(tmp_path / "a.png", rgb)
    assert expected is KeyboardInterrupt or "No space left on device" in str(caught.value)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.png", "old")]


@pytest.fixture
def limit_files():
    """Files of this process end at so many bytes: a write across it is short, as on a full disk, the next one fails."""
    resource = pytest.importorskip("resource", reason="needs limits of Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".png", ".tif", ".webp", pytest.param(".avif", marks=needs_avif)])
@pytest.mark.parametrize("missing", [1, 5000])
def test_a_file_of_which_the_disk_takes_only_a_part_is_no_result(tmp_path, limit_files, suffix, missing):
    """Pillow's own writing through a descriptor passes over a last write that is short."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 130, 3), np.uint8)
    write_image(tmp_path / f"a{suffix}", noise)
    size = (tmp_path / f"a{suffix}").stat().st_size
    (tmp_path / f"a{suffix}").write_text("old")
    limit_files(size - missing)
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / f"a{suffix}", noise)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(f"a{suffix}", "old")]


def test_unwritable_targets_are_refused_before_the_work(tmp_path, rgb):
    reasons = {"a.xyz": "cannot write a .xyz", "a": "suffix-less", "no/a.png": "does not exist"}
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            write_image(tmp_path / name, rgb)
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        check_writable(tmp_path / "dir.png")
    with pytest.raises(ImageError, match="16384x20 is beyond the 16383 pixels of WEBP"):
        check_writable(tmp_path / "a.webp", 16384, 20)
    with pytest.raises(ImageError, match="65501x20 is beyond the 65500 pixels of JPEG"):
        check_writable(tmp_path / "a.jpg", 65_501, 20)
    write_image(tmp_path / "a.jpg", np.zeros((1, 65_500, 3), np.uint8))  # what is let through can be written
    (tmp_path / "a.jpg").unlink()
    check_writable(tmp_path / "a.png", 70_000, 20)
    assert [p.name for p in tmp_path.iterdir()] == ["dir.png"]


def test_a_closed_folder_is_refused(tmp_path, permissions_hold, rgb):
    tmp_path.chmod(0o500)
    with pytest.raises(ImageError, match="no permission|Permission denied"):
        write_image(tmp_path / "a.png", rgb)


def test_image_files_lists_pictures_sorted_without_hidden_ones(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.heic", ".git/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [p.relative_to(tmp_path).as_posix() for p in image_files(tmp_path)]
    assert names == ["a.jpg", "b.PNG", "sub/c.webp", "sub/deep/d.heic"]
    assert [p.name for p in image_files(tmp_path, recursive=False)] == ["a.jpg", "b.PNG"]
