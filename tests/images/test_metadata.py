"""What stands beside the pixels goes over to the result, as far as its format can hold it, and the rest is named."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, features
from raw_png import png

from instancersr.images.metadata import PROGRAM, Metadata
from instancersr.images.pixels import Photo
from instancersr.images.reading import read_header, read_image
from instancersr.images.results import write_result
from instancersr.images.writing import write_image

FORMATS = [".jpg", ".png", ".tif", ".webp", ".bmp", *([".avif"] if features.check("avif") else [])]
XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
       b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
       b'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmp:Rating="5" tiff:Orientation="6" tiff:ImageWidth="24">'
       b"<exif:PixelXDimension>24</exif:PixelXDimension></rdf:Description></rdf:RDF></x:xmpmeta>")
IPTC = b"\x1c\x02\x78\x00\x05hello"  # a caption


def picture(height: int = 20, width: int = 24) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5, y * 6, 255 - x * 2 - y * 2], -1).astype(np.uint8)


def results(photo: Photo) -> list[tuple[np.ndarray, Photo]]:
    return [(photo.rgb.repeat(4, 0).repeat(4, 1), photo)]


@pytest.fixture
def source(tmp_path):
    """A JPEG on its side with all that a JPEG can hold: photographers' programs write such files."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0131] = 6, "A camera", "Some Editor 3"
    exif.get_ifd(0x8769).update({0xA002: 24, 0xA003: 20, 0x9003: "2020:02:20 20:20:20"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 14.0)})
    resources = b"8BIM\x04\x04\0\0" + len(IPTC).to_bytes(4, "big") + IPTC + b"\0" * (len(IPTC) % 2)
    segment = b"Photoshop 3.0\0" + resources
    path = tmp_path / "source.jpg"
    Image.fromarray(picture()).save(path, exif=exif, dpi=(300, 240), xmp=XMP, comment="hello",
                                    extra=b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_a_format_holds_is_there_and_the_rest_is_named(tmp_path, source, suffix):
    photo = read_image(source)
    assert photo.rgb.shape == (24, 20, 3) and photo.metadata.iptc == IPTC
    path = tmp_path / f"result{suffix}"
    said = " ".join(write_result(path, results(photo)))
    kept = read_image(path).metadata
    if suffix == ".tif":
        kept = replace(kept, comment=Image.open(path).getexif()[270])  # as the description
    for name, value in (("comment", "hello"), ("iptc", IPTC)):
        assert (getattr(kept, name) == value) != (("IPTC" if name == "iptc" else name) in said), name
    assert (kept.xmp is not None) != ("XMP" in said)
    assert kept.dpi == pytest.approx((240, 300), abs=0.01)  # turned as the picture was
    if suffix == ".bmp":
        assert "EXIF" in said
        return
    assert b'xmp:Rating="5"' in kept.xmp and b'tiff:Orientation="1"' in kept.xmp
    assert b'tiff:ImageWidth="80"' in kept.xmp and b"<exif:PixelXDimension>80<" in kept.xmp
    with Image.open(path) as image:
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1 and exif[0x010F] == "A camera"
        details = exif.get_ifd(0x8769)
        assert (details[0xA002], details[0xA003], details[0x9003]) == (80, 96, "2020:02:20 20:20:20")
        assert exif.get_ifd(0x8825)[2] == (48.0, 8.0, 14.0)
        assert exif[0x0131].startswith(PROGRAM) and "Some Editor 3" in exif[0x0131]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_resolution_is_kept_and_a_file_without_one_gets_none(tmp_path, suffix):
    for dpi in ((300, 300), None):
        options = {"dpi": dpi} if dpi else {}
        Image.fromarray(picture()).save(tmp_path / f"a{suffix}", **options)
        photo = read_image(tmp_path / f"a{suffix}")
        write_result(tmp_path / f"b{suffix}", results(photo))
        found = read_image(tmp_path / f"b{suffix}").metadata.dpi
        assert found == (pytest.approx(dpi, abs=0.01) if dpi else None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_the_resolution_turns_with_the_picture(tmp_path, suffix, orientation):
    """Inches say how large the picture is in print: a wide one that lies on its side is a high one."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == ".webp":  # there it stands in EXIF alone
        exif[282], exif[283], exif[296] = 300.0, 150.0, 2
    Image.fromarray(picture(30, 30)).save(tmp_path / f"a{suffix}", exif=exif, dpi=(300, 150))
    photo = read_image(tmp_path / f"a{suffix}")
    write_result(tmp_path / "b.png", results(photo))
    found = read_image(tmp_path / "b.png").metadata.dpi
    assert found == pytest.approx((300, 150) if orientation < 5 else (150, 300), abs=0.02)


def test_texts_of_a_png_stay_in_a_png_and_are_named_elsewhere(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "me")
    texts.add_itxt("Title", "Größe")
    Image.fromarray(picture()).save(tmp_path / "a.png", pnginfo=texts)
    photo = read_image(tmp_path / "a.png")
    assert write_result(tmp_path / "b.png", results(photo)) == []
    assert read_image(tmp_path / "b.png").metadata.text == {"Author": "me", "Title": "Größe"}
    (note,) = write_result(tmp_path / "b.jpg", results(photo))
    assert "Author" in note and "Title" in note


@pytest.mark.parametrize("text", ["{abc123}," * 200_000, "ü" * 700_000, "a" * (2**20 - 1), "a" * 2**20],
                         ids=["long", "long in UTF-8", "below the limit", "at the limit"])
def test_a_png_with_long_texts_opens(tmp_path, text):
    """Pillow refuses a packed text that unpacks to more than 1 MiB, and with it the picture."""
    records = b"\x1c\x02\x78\x84\0" + (600_000).to_bytes(4, "big") + bytes(600_000)
    assert write_image(tmp_path / "a.png", picture(), metadata=Metadata(text={"workflow": text}, iptc=records)) == []
    kept = read_image(tmp_path / "a.png").metadata
    assert kept.text == {"workflow": text} and kept.iptc == records


def test_texts_of_a_png_that_can_be_packed_are_small(tmp_path):
    write_image(tmp_path / "a.png", picture(), metadata=Metadata(text={"workflow": "{abc123}," * 100_000}))
    assert (tmp_path / "a.png").stat().st_size < 20_000


def test_a_colour_profile_that_no_png_can_be_opened_with_is_left_out_and_named(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().ljust(2**20, b"\0")
    (note,) = write_image(tmp_path / "a.png", picture(), metadata=Metadata(icc_profile=profile))
    assert "colour profile over 1 MB" in note
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, picture())
    assert write_image(tmp_path / "a.tif", picture(), metadata=Metadata(icc_profile=profile)) == []
    assert read_image(tmp_path / "a.tif").metadata.icc_profile == profile


SRGB_COLORS = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
P3_COLORS = (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)


@pytest.mark.parametrize(("gamma", "colors", "more", "said"), [
    (45_455, SRGB_COLORS, (), ""), (45_455, P3_COLORS, (), "primaries (cHRM)"),
    (100_000, SRGB_COLORS, (), "gamma (gAMA)"), (55_556, P3_COLORS, (), "gamma (gAMA) and primaries (cHRM)"),
    (100_000, P3_COLORS, ((b"sRGB", b"\0"),), "")])
def test_a_png_with_colours_of_its_own_says_that_they_were_taken_for_srgb(tmp_path, gamma, colors, more, said):
    chunks = ((b"gAMA", struct.pack(">I", gamma)), (b"cHRM", struct.pack(">8I", *colors)), *more)
    rows = b"".join(b"\0" + row.tobytes() for row in picture())
    (tmp_path / "a.png").write_bytes(png(24, 20, 8, 2, rows, chunks))
    notes = write_result(tmp_path / "b.png", results(read_image(tmp_path / "a.png")))
    assert [f"{tmp_path / 'a.png'}: its {said}, not sRGB's, were left out; its colours were taken for sRGB"
            ] * bool(said) == notes


def test_exif_over_64_kb_loses_its_largest_parts_in_a_jpeg_and_the_picture_is_written(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8769).update({0x927C: bytes(40_000), 0x9286: b"ASCII\0\0\0" + bytes(30_000),
                                 0x9003: "2020:02:20 20:20:20"})
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    photo = read_image(tmp_path / "a.png")
    assert write_result(tmp_path / "b.webp", results(photo)) == []
    (note,) = write_result(tmp_path / "b.jpg", results(photo))
    assert "MakerNote" in note and "UserComment" not in note
    kept = Image.open(tmp_path / "b.jpg").getexif()
    assert kept[0x010F] == "A camera" and 0x927C not in kept.get_ifd(0x8769)
    assert kept.get_ifd(0x8769)[0x9003] == "2020:02:20 20:20:20" and 0x9286 in kept.get_ifd(0x8769)


def test_the_thumbnail_of_the_source_is_not_the_results(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8769)[0x9003] = "2020:02:20 20:20:20"
    block = exif.tobytes()
    # a second directory, as cameras write it for a thumbnail, behind the first
    body = bytearray(block[6:])
    thumbnail = b"\xff\xd8thumbnail\xff\xd9"
    order = "little" if body[:2] == b"II" else "big"
    (first,) = (int.from_bytes(body[4:8], order),)
    entries = int.from_bytes(body[first : first + 2], order)
    link = first + 2 + 12 * entries
    at = len(body)
    body[link : link + 4] = at.to_bytes(4, order)
    entry = lambda tag, value: tag.to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order) + value.to_bytes(4, order)  # noqa: E731, E501
    body += (2).to_bytes(2, order) + entry(513, at + 30) + entry(514, len(thumbnail)) + bytes(4) + thumbnail
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + bytes(body))
    assert b"thumbnail" in (tmp_path / "a.jpg").read_bytes()
    write_result(tmp_path / "b.jpg", results(read_image(tmp_path / "a.jpg")))
    assert b"thumbnail" not in (tmp_path / "b.jpg").read_bytes()
    assert Image.open(tmp_path / "b.jpg").getexif()[0x010F] == "A camera"


def test_a_gain_map_is_not_promised_by_what_has_none(tmp_path):
    hdr = XMP.replace(b'xmp:Rating="5"', b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"')
    main, gain = Image.fromarray(picture()), Image.fromarray(picture()[..., 0])
    main.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[gain], xmp=hdr)
    photo = read_image(tmp_path / "a.jpg")
    assert any("gain map" in note for note in photo.notes) and photo.frames == 1
    write_result(tmp_path / "b.jpg", results(photo))
    assert b"hdrgm" not in (tmp_path / "b.jpg").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_file_says_that_this_program_wrote_it(tmp_path, suffix):
    Image.fromarray(picture()).save(tmp_path / f"theirs{suffix}")
    assert not read_header(tmp_path / f"theirs{suffix}").is_result
    write_image(tmp_path / f"ours{suffix}", picture())
    assert read_header(tmp_path / f"ours{suffix}").is_result


def test_a_grey_file_gets_a_grey_profile_with_the_tones_of_the_colour_one(tmp_path):
    """The same grey value means the same light: littleCMS converts both to the same numbers."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = picture()[..., :1].repeat(3, 2)
    write_image(tmp_path / "a.png", grey, metadata=Metadata(icc_profile=profile))
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "L" and image.info["icc_profile"][16:20] == b"GRAY"
    (tmp_path / "grey.icc").write_bytes(image.info["icc_profile"])
    back = ImageCms.profileToProfile(image, str(tmp_path / "grey.icc"), ImageCms.createProfile("sRGB"),
                                     outputMode="RGB")
    np.testing.assert_allclose(np.asarray(back).astype(int), grey, atol=1)


def test_lossless_is_without_loss_and_quality_changes_the_size(tmp_path):
    from instancersr.images.writing import Compression

    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    write_image(tmp_path / "a.webp", noise, compression=Compression(lossless=True))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.webp").convert("RGB")), noise)
    for suffix in (".jpg", ".webp", *([".avif"] if ".avif" in FORMATS else [])):
        sizes = []
        for quality in (20, 95):
            write_image(tmp_path / f"q{suffix}", noise, compression=Compression(quality))
            sizes.append((tmp_path / f"q{suffix}").stat().st_size)
        assert sizes[0] < 0.6 * sizes[1]
    if ".avif" in FORMATS:
        (note,) = write_image(tmp_path / "a.avif", noise, compression=Compression(lossless=True))
        worst = np.abs(np.asarray(Image.open(tmp_path / "a.avif").convert("RGB")).astype(int) - noise).max()
        assert "not quite lossless" in note and 0 < worst <= 3


def test_damaged_exif_is_left_out_and_named(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    photo = read_image(tmp_path / "a.jpg")
    assert photo.metadata.exif is None and "EXIF block is damaged" in photo.notes[0]
    assert write_result(tmp_path / "b.jpg", [(photo.rgb, replace(photo, notes=()))]) == []
