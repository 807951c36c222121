"""The figures show the data they were given."""

import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install '.[eval]'")
pytest.importorskip("sklearn", reason="needs scikit-learn: pip install '.[eval]'")

from instancersr.lab.evaluation.awareness import PatchFeatures
from instancersr.lab.evaluation.figures import Box, Series, comparison_figure, curve_figure, silhouette, tsne_figure


def tokens(apart: float) -> PatchFeatures:
    """Two instances whose directions are `apart` times as strong as the noise on them."""
    rng = np.random.default_rng(0)
    ids = np.repeat([0, 1, 2], [4, 20, 20])
    return PatchFeatures(apart * np.eye(3, 8)[ids] + rng.normal(size=(44, 8)), ids)


def test_silhouette_is_high_only_where_instances_are_apart():
    assert silhouette(tokens(30.0)) > 0.9
    assert abs(silhouette(tokens(0.0))) < 0.05
    with pytest.raises(ValueError, match="two instances"):
        silhouette(PatchFeatures(np.ones((9, 2)), np.ones(9, int)))


def test_tsne_prints_the_silhouette_of_each_case(tmp_path):
    png, svg = tsne_figure({"with": tokens(30.0), "without": tokens(0.0)}, tmp_path / "deep" / "fig1")
    assert Image.open(png).size[0] > 1000
    assert f"with: silhouette {silhouette(tokens(30.0)):.3f}" in svg.read_text()
    assert svg.read_text().count("<use") >= 80  # forty dots of known instances in each of two panels


def test_curves_are_drawn_where_the_data_say(tmp_path):
    steps = Series([1, 10, 100], [1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [1.5, 2.5, 3.5])
    _, svg = curve_figure({"ours": steps}, "steps", "quality", tmp_path / "fig4b", logarithmic=True)
    text = svg.read_text()
    # the dots lie on a straight line, as the logarithms of x and y are both evenly spaced
    marks = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*fill: #0072b2', text)
    dots = np.array([[float(x), float(y)] for x, y in marks if float(x) > 0])  # the band's is at 0
    assert len(dots) == 3
    assert np.allclose(dots[1], dots[[0, 2]].mean(0), atol=0.1) and dots[0, 1] > dots[2, 1]
    again = tmp_path / "again"
    curve_figure({"ours": steps}, "steps", "quality", again, logarithmic=True)
    assert again.with_suffix(".svg").read_text() == text


def test_comparison_shows_the_box_of_every_picture(tmp_path):
    red = np.zeros((32, 40, 3), np.uint8)
    red[8:16, 10:20] = (255, 0, 0)
    blue = np.roll(red, 2, axis=2)
    png, _ = comparison_figure([({"ours": blue, "truth": red}, Box(10, 8, 10, 8))], tmp_path / "fig3")
    picture = np.asarray(Image.open(png).convert("RGB")).astype(int)
    third = picture.shape[1] // 3
    # the whole picture holds little red; the enlarged boxes are all blue and all red
    assert ((picture[:, third : 2 * third] == (0, 0, 255)).all(2)).mean() > 0.3
    assert ((picture[:, 2 * third :] == (255, 0, 0)).all(2)).mean() > 0.3
    with pytest.raises(ValueError, match="leaves the picture"):
        comparison_figure([({"truth": red}, Box(35, 8, 10, 8))], tmp_path / "fig3")
