"""Files with random damage: they are read or refused in one line, and what is read can be written."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from instancersr.images.metadata import Metadata
from instancersr.images.reading import ImageError, read_frames, read_header, read_image
from instancersr.images.results import write_result
from instancersr.images.writing import write_image

FILES = 750
SUFFIXES = [".jpg", ".png", ".tif", ".webp", ".bmp", *([".avif"] if features.check("avif") else [])]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[tuple[str, bytes]]:
    """Files of each format with all metadata that it holds, two pages, and an animation."""
    folder = tmp_path_factory.mktemp("sources")
    y, x = np.mgrid[0:20, 0:24]
    rgb = np.stack([x * 10, y * 12, 255 - x * 5 - y * 5], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    exif.get_ifd(0x8769).update({0xA002: 24, 0x9003: "2020:02:20 20:20:20", 0x9286: b"ASCII\0\0\0comment"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 14.0)})
    metadata = Metadata(exif=exif.tobytes(), dpi=(300, 300), xmp=b"<x:xmpmeta>rating</x:xmpmeta>", comment="hello",
                        iptc=b"\x1c\x02\x78\x00\x05hello", text={"Author": "me"})
    for suffix in SUFFIXES:
        write_image(folder / f"a{suffix}", rgb, metadata=metadata)
    first, second = Image.fromarray(rgb), Image.fromarray(rgb[::-1])
    for suffix in (".tif", ".gif", ".webp"):
        first.save(folder / f"b{suffix}", save_all=True, append_images=[second], duration=100)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("Title", "Größe", zip=True)
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "c.png", pnginfo=texts, exif=exif)
    return [(path.suffix, path.read_bytes()) for path in sorted(folder.iterdir())]


def test_damage_is_one_line_or_a_picture_and_leaves_no_half_file(tmp_path, sources, capfd):
    rng = np.random.default_rng(26)
    done = 0
    for number in range(FILES):
        suffix, data = sources[number % len(sources)]
        damaged = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(6, rng.choice([200, 700, len(data)]), rng.choice([1, 2, 5, 20])) % len(data)
        damaged[places] = rng.integers(0, 256, len(places))
        path, result = tmp_path / f"in{suffix}", tmp_path / f"out{rng.choice(SUFFIXES)}"
        path.write_bytes(damaged.tobytes()[: rng.integers(10, len(data)) if rng.random() < 0.1 else None])
        try:
            read_header(path)
            photo = next(read_frames(path))
            write_result(result, [(photo.rgb, photo)])
        except ImageError as error:
            line = str(error)
            assert "\n" not in line
            assert line.startswith(str(path)) or (line.startswith(str(result)) and "is beyond the" in line), line
        else:
            assert read_image(result).rgb.shape == photo.rgb.shape
            result.unlink()
            done += 1
        assert {each.name for each in tmp_path.iterdir()} == {path.name}
        path.unlink()
    capfd.readouterr()  # what the codecs say of it
    assert FILES // 5 < done < FILES


def test_the_sources_are_whole(tmp_path, sources):
    for suffix, data in sources:
        Image.open(io.BytesIO(data)).load()
        (tmp_path / f"a{suffix}").write_bytes(data)
        assert read_image(tmp_path / f"a{suffix}").rgb.shape in ((24, 20, 3), (20, 24, 3))
