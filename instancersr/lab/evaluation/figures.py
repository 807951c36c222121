"""The paper's figures from recorded data, each as PNG and SVG.

Every function takes numbers or pictures that a command has recorded and returns the files it wrote; nothing is computed
here that is not drawn. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .awareness import PatchFeatures

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
DPI = 200


@dataclass
class Series:
    """A curve with a band: x, and mean, low and high of y, (N,) each."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Box:
    """A region of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def tsne_figure(cases: Mapping[str, PatchFeatures], path: Path, seed: int = 0) -> list[Path]:
    """Figure 1: t-SNE of the tokens of one picture, coloured by instance, with silhouette scores, a panel a case.

    The silhouette (Rousseeuw, 1987) is that of the tokens themselves, cosine distance, not of the drawing.

    Raises:
        ValueError: a case has fewer than two instances or fewer than five tokens.
    """
    from sklearn.manifold import TSNE

    pyplot = _pyplot()
    figure, panels = pyplot.subplots(1, len(cases), figsize=(4 * len(cases), 4), squeeze=False)
    for panel, (name, features) in zip(panels[0], cases.items(), strict=True):
        known = features.ids > 0
        tokens, ids = features.tokens[known], features.ids[known]
        score = silhouette(features)
        places = TSNE(perplexity=min(30.0, (len(tokens) - 1) / 3), init="pca", random_state=seed).fit_transform(tokens)
        for number, instance in enumerate(np.unique(ids)):
            panel.scatter(*places[ids == instance].T, s=8, color=COLORS[number % len(COLORS)])
        panel.set(title=f"{name}: silhouette {score:.3f}", xticks=[], yticks=[])
    return _save(figure, path)


def silhouette(features: PatchFeatures) -> float:
    """Mean silhouette of the tokens by instance, cosine distance, -1 to 1.

    Raises:
        ValueError: fewer than two instances or fewer than five tokens are known.
    """
    from sklearn.metrics import silhouette_score

    known = features.ids > 0
    if len(np.unique(features.ids[known])) < 2 or known.sum() < 5:
        raise ValueError("silhouette: at least two instances and five patches are needed")
    return float(silhouette_score(features.tokens[known], features.ids[known], metric="cosine"))


def curve_figure(series: Mapping[str, Series], x_label: str, y_label: str, path: Path,
                 logarithmic: bool = False) -> list[Path]:
    """Figures 4a to 4c: one line a series, with its band."""
    pyplot = _pyplot()
    figure, panel = pyplot.subplots(figsize=(5, 3.5))
    for color, (name, curve) in zip(COLORS, series.items(), strict=False):
        panel.plot(curve.x, curve.mean, color=color, marker="o", markersize=3, label=name)
        panel.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    if logarithmic:
        panel.set_xscale("log")
        ticks = sorted({x for curve in series.values() for x in curve.x})
        panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
        panel.minorticks_off()
    panel.set(xlabel=x_label, ylabel=y_label)
    panel.grid(alpha=0.3)
    if len(series) > 1:
        panel.legend(frameon=False)
    return _save(figure, path)


def comparison_figure(rows: Sequence[tuple[Mapping[str, np.ndarray], Box]], path: Path) -> list[Path]:
    """Figure 3: a row a photo: the last picture whole with its box, then the box of every picture, enlarged.

    Args:
        rows: for each photo its pictures by method, (H, W, 3) uint8 of one size (the truth last), and the box.

    Raises:
        ValueError: pictures of a row differ in size, or the box leaves them.
    """
    pyplot = _pyplot()
    columns = 1 + max(len(pictures) for pictures, _ in rows)
    figure, panels = pyplot.subplots(len(rows), columns, figsize=(2.2 * columns, 2.4 * len(rows)), squeeze=False)
    for line, (pictures, box) in zip(panels, rows, strict=True):
        whole = list(pictures.values())[-1]
        _check_row(pictures, whole.shape, box)
        for panel in line:
            panel.axis("off")
        line[0].imshow(whole)
        line[0].add_patch(pyplot.Rectangle((box.left, box.top), box.width, box.height, fill=False, color="#D55E00"))
        for panel, (name, picture) in zip(line[1:], pictures.items(), strict=False):
            panel.imshow(picture[box.top : box.top + box.height, box.left : box.left + box.width],
                         interpolation="nearest")
            panel.set_title(name, fontsize=8)
    return _save(figure, path)


def _check_row(pictures: Mapping[str, np.ndarray], shape: tuple[int, ...], box: Box) -> None:
    for name, picture in pictures.items():
        if picture.shape != shape:
            raise ValueError(f"comparison: {name} is {picture.shape[1]}x{picture.shape[0]}, "
                             f"the truth is {shape[1]}x{shape[0]}")
    if min(box.left, box.top) < 0 or box.left + box.width > shape[1] or box.top + box.height > shape[0]:
        raise ValueError(f"comparison: the box {box} leaves the picture, {shape[1]}x{shape[0]}")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")  # files alone: no window system is needed
    matplotlib.rcParams["svg.hashsalt"] = "instancersr"  # the same data give the same file
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> list[Path]:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=DPI, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
    return files
