"""Files that are no photo, or more than one: what is read of them, and in what words the rest is refused."""

import io

import numpy as np
import pytest
from PIL import Image, features

from instancersr.images.formats import RAW, READABLE
from instancersr.images.reading import ImageError, read_frames, read_header, read_image
from instancersr.images.results import dropped_frames, write_result


def noise(seed: int = 0, height: int = 40, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# ------------------------------------------------------------------------------------------- other kinds


@pytest.fixture
def no_rawpy(monkeypatch):
    """As where it is not installed: raw files are not read."""
    for suffix in RAW & READABLE.keys():
        monkeypatch.delitem(READABLE, suffix)


@pytest.mark.parametrize("name,begin,said", [
    ("a.pdf", b"%PDF-1.7\n", "PDF"), ("a.mp4", b"\0\0\0\x20ftypisom\0\0\2\0", "video"),
    ("a.mov", b"\0\0\0\x14ftypqt  ", "video"), ("a.mkv", b"\x1aE\xdf\xa3\x01", "video"),
    ("a.avi", b"RIFF\0\0\1\0AVI LIST", "video"), ("a.svg", b"<?xml version='1.0'?>\n<svg>", "SVG"),
    ("a.jpg", b"<!DOCTYPE html><html>", "web page"), ("a.png", b"PK\x03\x04", "zip"),
    ("a.psd", b"8BPS\0\1", "Photoshop"),
    ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1", "raw file"), ("a.raf", b"FUJIFILMCCD-RAW 0201", "raw file"),
    ("a.orf", b"IIRO\x08\0\0\0", "raw file"), ("a.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "raw file"),
    ("a.jxl", b"\xff\x0a\xfa\x7f", "JPEG XL"), ("a.exr", b"\x76\x2f\x31\x01\2", "floating-point"),
])  # fmt: skip
def test_what_is_no_picture_is_called_what_it_is(tmp_path, no_rawpy, name, begin, said):
    (tmp_path / name).write_bytes(begin + bytes(300))
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / name)
    assert said in str(error.value) and str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name,tags", [
    ("a.dng", [(50706, "B", 4, b"\1\4\0\0", True)]), ("a.tif", [(50706, "B", 4, b"\1\4\0\0", True)]), ("a.nef", []),
    ("b.tif", None)])
def test_the_preview_of_a_raw_file_is_not_taken_for_the_photo(tmp_path, no_rawpy, name, tags):
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile, which scikit-image brings")
    with tifffile.TiffWriter(tmp_path / name) as writer:
        if tags is None:  # a reduced picture, and the full one in a sub-directory
            writer.write(noise(), photometric="rgb", subfiletype=1, subifds=1)
        writer.write(noise(), photometric="rgb", extratags=tags or [])
    with pytest.raises(ImageError, match="raw file, what the sensor saw"):
        read_image(tmp_path / name)


def test_a_plain_tiff_is_no_raw_file(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.tif", big_tiff=False)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").rgb, noise())


def test_a_raw_file_is_developed_where_rawpy_is_installed(tmp_path):
    pytest.importorskip("rawpy", reason="the extra 'raw' is not installed")
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile, which scikit-image brings")
    mosaic = np.full((64, 96), 2000, np.uint16)
    tags = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, b"\0\1\1\2", True), (50706, "B", 4, b"\1\4\0\0", True),
            (50708, "s", 0, "Test Camera", True), (50717, "I", 1, 4095, True)]
    tifffile.imwrite(tmp_path / "a.dng", mosaic, photometric=32803, extratags=tags, metadata=None)
    photo = read_image(tmp_path / "a.dng")
    assert photo.rgb.shape == (64, 96, 3) and photo.deep is not None and "developed" in photo.notes[0]


# ------------------------------------------------------------------------------------------- cut-off JPEGs


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_a_jpeg_without_its_end_marker_is_whole(tmp_path, options):
    smooth = Image.fromarray(noise(0, 6, 8)).resize((96, 72), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "whole.jpg", quality=90, **options)
    data = (tmp_path / "whole.jpg").read_bytes()
    for missing in (1, 2):
        (tmp_path / "cut.jpg").write_bytes(data[:-missing])
        photo = read_image(tmp_path / "cut.jpg")
        np.testing.assert_array_equal(photo.rgb, read_image(tmp_path / "whole.jpg").rgb)
        assert "cut off" in photo.notes[0] and " 0% of" in photo.notes[0]


@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_share_that_a_cut_off_jpeg_lacks_is_said(tmp_path, subsampling):
    """Noise fills a JPEG evenly, so the share of the bytes is nearly that of the picture."""
    Image.fromarray(noise(0, 320, 320)).save(tmp_path / "whole.jpg", quality=90, subsampling=subsampling)
    data = (tmp_path / "whole.jpg").read_bytes()
    for share in (0.25, 0.6):
        (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * (1 - share))])
        photo = read_image(tmp_path / "cut.jpg")
        said = int(photo.notes[0].split("%")[0].rsplit(" ", 1)[1]) / 100
        assert said == pytest.approx(share, abs=0.03)
        rows = int(320 * (1 - share)) - 24
        np.testing.assert_array_equal(photo.rgb[:rows], read_image(tmp_path / "whole.jpg").rgb[:rows])


def test_a_jpeg_of_which_nothing_decodes_is_an_error(tmp_path):
    Image.fromarray(noise(0, 64, 64)).save(tmp_path / "whole.jpg", quality=90)
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: data.index(b"\xff\xda") + 14])
    with pytest.raises(ImageError, match="damaged or cut off"):
        read_image(tmp_path / "cut.jpg")


# ------------------------------------------------------------------------------------------ pages and frames


def test_all_pages_of_a_tiff_whatever_their_sizes(tmp_path):
    pages = [noise(0), noise(1, 30, 20), noise(2)]
    first, *others = map(Image.fromarray, pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    photos = list(read_frames(tmp_path / "a.tif"))
    assert [photo.frames for photo in photos] == [3, 3, 3]
    write_result(tmp_path / "b.tif", [(photo.rgb, photo) for photo in photos])
    back = Image.open(tmp_path / "b.tif")
    for number, page in enumerate(pages):
        back.seek(number)
        np.testing.assert_array_equal(np.asarray(back), page)
    assert "only the first of its 3 pages" in dropped_frames(tmp_path / "a.tif", photos[0], ".png")
    assert dropped_frames(tmp_path / "a.tif", photos[0], ".tiff") is None


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", *([".avif"] if features.check("avif") else [])])
@pytest.mark.parametrize("alpha", [False, True])
def test_all_frames_of_an_animation_with_their_durations(tmp_path, suffix, alpha):
    frames = []
    for number in range(3):
        frame = Image.new("RGBA" if alpha else "RGB", (32, 24), (0, 0, 0, 0) if alpha else "white")
        frame.paste((200, 40 * number, 30), (4 + 8 * number, 4, 12 + 8 * number, 20))
        if alpha:
            frame.putpixel((0, 0), (90, 90, 90, 128))  # libwebp calls an opaque box before nothing a file without alpha
        frames.append(frame)
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=[100, 240, 60], loop=0,
                   **({"lossless": True} if suffix == ".webp" else {"disposal": 2} if suffix == ".gif" else {}))
    photos = list(read_frames(tmp_path / f"a{suffix}"))
    assert len(photos) == 3 and all((photo.alpha is not None) == alpha for photo in photos)
    write_result(tmp_path / f"b{suffix}", [(photo.rgb, photo) for photo in photos])
    back = list(read_frames(tmp_path / f"b{suffix}"))
    assert [photo.duration for photo in back] == [100, 240, 60]
    for number, photo in enumerate(back):
        box = np.s_[6:18, 6 + 8 * number : 10 + 8 * number]
        np.testing.assert_allclose(photo.rgb[box].mean((0, 1)), (200, 40 * number, 30), atol=12)
        if alpha:
            expected = np.zeros((24, 32), int)
            expected[4:20, 4 + 8 * number : 12 + 8 * number] = 255
            assert np.abs(photo.alpha - expected).mean() < 4


@pytest.mark.parametrize(("source", "loop", "target", "expected"), [
    (".gif", None, ".gif", None), (".gif", 0, ".gif", 0), (".gif", 3, ".gif", 3),
    (".gif", None, ".png", 1), (".gif", 3, ".webp", 4),  # a GIF counts repetitions, the others how often it is shown
    (".png", 1, ".gif", None), (".webp", 2, ".webp", 2), (".png", 5, ".gif", 4)])
def test_an_animation_is_shown_as_often_as_its_source(tmp_path, source, loop, target, expected):
    frames = [Image.fromarray(noise(seed)) for seed in range(2)]
    options = {} if loop is None else {"loop": loop}
    frames[0].save(tmp_path / f"a{source}", save_all=True, append_images=frames[1:], duration=100, **options)
    photos = list(read_frames(tmp_path / f"a{source}"))
    write_result(tmp_path / f"b{target}", [(photo.rgb, photo) for photo in photos])
    with Image.open(tmp_path / f"b{target}") as back:
        assert back.n_frames == 2 and back.info.get("loop") == expected


@pytest.mark.parametrize("number", [1, 3])
def test_a_picture_that_an_animation_does_not_show_is_no_frame_of_it(tmp_path, number):
    still, *frames = (Image.fromarray(noise(seed)) for seed in range(number + 1))
    durations = [100, 240, 60][:number]
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=durations)
    photos = list(read_frames(tmp_path / "a.png"))
    assert [photo.duration for photo in photos] == durations and {photo.frames for photo in photos} == {number}
    for photo, frame in zip(photos, frames, strict=True):
        np.testing.assert_array_equal(photo.rgb, np.asarray(frame))
    assert read_header(tmp_path / "a.png").frames == number
    notes = write_result(tmp_path / "b.png", [(photo.rgb, photo) for photo in photos])
    assert len(notes) == 1 and "for viewers that play no animations was left out" in notes[0]
    with Image.open(tmp_path / "b.png") as back:
        assert back.n_frames == number and not back.default_image


def test_a_second_picture_in_a_jpeg_is_named(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(noise(1))])
    photo = read_image(tmp_path / "a.mpo")
    assert photo.frames == 1 and "holds 2 pictures" in photo.notes[0]


def test_a_later_page_that_is_damaged_is_named(tmp_path):
    first, second = (Image.fromarray(noise(seed)) for seed in range(2))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-500])
    with pytest.raises(ImageError, match="damaged"):
        list(read_frames(tmp_path / "a.tif"))


def test_grey_one_bit_and_grey_with_alpha_are_written_as_grey(tmp_path):
    grey = Image.fromarray(noise()[..., 0])
    for number, image in enumerate((grey, grey.convert("1"), Image.merge("LA", (grey, grey)),
                                    Image.merge("RGB", (grey, grey, grey)))):
        image.save(tmp_path / f"{number}.png")
        photo = read_image(tmp_path / f"{number}.png")
        for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", *([".avif"] if features.check("avif") else [])):
            write_result(tmp_path / f"b{suffix}", [(photo.rgb, photo)])
            with Image.open(tmp_path / f"b{suffix}") as back:
                pixels = np.asarray(back.convert("RGB")).astype(int)
                assert np.ptp(pixels, axis=2).max() == 0, suffix
                if suffix in (".png", ".jpg", ".tif", ".bmp"):
                    assert back.mode.startswith("L"), suffix


def test_a_pipe_of_bytes_is_enough(tmp_path):
    """Signatures, not suffixes, say what a file is."""
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "PNG")
    (tmp_path / "stdin").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_image(tmp_path / "stdin").rgb, noise())


def test_a_jpeg_of_which_only_the_head_is_there_says_what_to_do(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "whole.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:100])
    with pytest.raises(ImageError, match="damaged or cut off .* get a fresh copy"):
        read_image(tmp_path / "a.jpg")
