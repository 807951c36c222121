"""Drawn pages: the same for the same seed, print on paper, and photos like others to `prepare`."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from instancersr.lab.data.pages import draw_page, fonts, write_pages
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings


def test_pages_are_the_same_for_the_same_seed_and_differ_from_each_other(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_pages(tmp_path / folder, 3, seed)
    pages = {folder: [file.read_bytes() for file in sorted((tmp_path / folder).iterdir())] for folder in "abc"}
    assert pages["a"] == pages["b"] and len(set(pages["a"] + pages["c"])) == 6


def test_a_page_is_mostly_paper_with_sharp_ink():
    for seed in range(6):
        page = np.asarray(draw_page(np.random.default_rng(seed), fonts(), 256).convert("L"), int)
        paper = np.bincount(page.ravel()).argmax()
        assert np.mean(np.abs(page - paper) < 12) > 0.3
        assert np.abs(np.diff(page, axis=1)).max() > 60


def test_prepare_adds_pages_to_the_photos(photo_folder, tmp_path):
    settings = SampleSettings(size=128)
    manifest = prepare_photos(photo_folder, tmp_path / "out", settings, pages=3, workers=1)
    assert manifest["photos"] == 9 and manifest["with_masks"] == 6 and manifest["settings"]["pages"] == 3
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        page = Image.open(tar.extractfile("page_000002.jpg"))
        assert page.size == (128, 128)
    assert not (tmp_path / "out/.progress/pages").exists()
    assert prepare_photos(photo_folder, tmp_path / "out", settings, pages=3, workers=1) == manifest


def test_a_photo_with_a_pages_name_is_kept(photo_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "page_000000.png")
    manifest = prepare_photos(folder, tmp_path / "out", SampleSettings(), pages=2, workers=1)
    assert (manifest["photos"], manifest["skipped"]) == (2, 1)


@pytest.mark.parametrize("seed", range(2))
def test_other_sizes(seed):
    assert draw_page(np.random.default_rng(seed), fonts(), 200).size == (200, 200)
