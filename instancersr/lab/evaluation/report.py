"""The report of an evaluation: a page with every picture and score, opened from disk, that needs nothing but its files.

`report.html` links to pictures under the same folder by relative paths: folder and page can be moved, zipped and sent.
Style, script and the frame of the page are in report_template.html.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from instancersr.files import whole_file

from .benchmarks import Benchmark, Item
from .methods import Method, rgb
from .tables import heading, less_is_better

CONSTANT = ("memory", "parameters", "steps")
"""Costs that say nothing about a single picture: they stand in the tables of means alone."""

Scores = Mapping[str, Mapping[str, float]]
"""Method -> metric -> value, of one picture."""


def report(benchmarks: Sequence[Benchmark], methods: Sequence[Method],
           records: Iterable[tuple[str, str, str, str, float]], output: Path, means: str) -> str:
    """The page as HTML; pictures that are not in the output folder yet are stored there.

    Args:
        methods: in the order of the columns; those of published scores have no pictures.
        records: benchmark, method, image, metric, value.
        output: the folder that the page is for, with `outputs/BENCHMARK/METHOD/IMAGE.png` of methods that ran.
        means: tables of means as HTML, to stand at the top.
    """
    scores: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for name, method, image, metric, value in records:
        scores.setdefault((name, image), {}).setdefault(method, {})[metric] = value
    sections = []
    for benchmark in benchmarks:
        rows = [(item, scores.get((benchmark.name, item.name), {})) for item in benchmark.items]
        columns = {method.name: list(dict.fromkeys(metric for _, row in rows for metric in row.get(method.name, {})
                                                   if metric not in CONSTANT)) for method in methods}
        files = {method.name: _files(method, benchmark, [item.name for item, row in rows if method.name in row], output)
                 for method in methods}
        sections.append(_section(benchmark, columns, _first_column(methods, columns), rows, files,
                                 {method.name for method in methods if method.published}, output))
    page = (Path(__file__).parent / "report_template.html").read_text(encoding="utf-8")
    return page.replace("<!-- means -->", means).replace("<!-- sections -->", "\n".join(sections))


def output_pictures(benchmark: Benchmark, item: Item, methods: Sequence[Method], output: Path) -> dict[str, np.ndarray]:
    """Pictures of an item for Figure 3, (H, W, 3) uint8: input, the methods that have one, truth."""
    lr = rgb(item.lr)
    size = (lr.width * benchmark.scale, lr.height * benchmark.scale)
    pictures = {"input": np.asarray(lr.resize(size, Image.Resampling.NEAREST))}
    for method in methods:
        path = _files(method, benchmark, [item.name], output).get(item.name)
        if path:
            pictures[method.name] = np.asarray(rgb(path))
    return pictures | ({"truth": np.asarray(rgb(item.hr))} if item.hr else {})


def _files(method: Method, benchmark: Benchmark, measured: Iterable[str], output: Path) -> dict[str, Path]:
    """Item name -> output in the folder; a file that was not measured in this evaluation may be an older one's."""
    if method.published:
        return {}
    if not method.finished:
        made = {name: output / "outputs" / benchmark.name / method.name / f"{name}.png" for name in measured}
        return {name: path for name, path in made.items() if path.exists()}
    folder = output / "pictures" / benchmark.name / "outputs" / method.name
    return {name: _store(source, folder / f"{name}.png") for name, source in method.outputs(benchmark).items()}


def _store(source: Path, path: Path, scale: int = 1) -> Path:
    """Copies a picture as a PNG, enlarged by nearest, unless that has been done since the source changed."""
    stat = source.stat()
    if not (path.exists() and path.stat().st_mtime_ns == stat.st_mtime_ns):
        picture = rgb(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the copy is as old as what it shows
    return path


def _first_column(methods: Sequence[Method], columns: Mapping[str, list[str]]) -> tuple[str, str] | None:
    """What the rows are sorted by at first: the first metric of the first method that is not the bicubic baseline."""
    names = [method.name for method in sorted(methods, key=lambda method: (method.published, method.spec == "bicubic"))]
    return next(((name, columns[name][0]) for name in names if columns[name]), None)


def _section(benchmark: Benchmark, columns: Mapping[str, list[str]], first: tuple[str, str] | None,
             rows: Iterable[tuple[Item, Scores]], files: Mapping[str, Mapping[str, Path]],
             published: Collection[str], output: Path) -> str:
    """A table of a benchmark: for each picture a row of pictures and, under it, their scores."""
    name = escape(benchmark.name)
    has_truth = any(item.hr for item in benchmark.items)
    pictures = f'<th rowspan="2" class="name" scope="col" aria-sort="none">{_sort_button("image", "name")}</th>'
    pictures += "".join(f'<th rowspan="2" scope="col">{each}</th>'
                        for each in ("input", "truth")[: 1 + has_truth])
    pictures += "".join(f'<th colspan="{max(len(metrics), 1)}" scope="colgroup" class="method">{escape(method)}</th>'
                        for method, metrics in columns.items())
    metrics_ = "".join(_metric_heading(method, metric, (method, metric) == first) if metric else "<th></th>"
                       for method, metrics in columns.items() for metric in metrics or [""])
    bodies = [_row(benchmark, columns, item, scores, files, published, output) for item, scores in rows]
    return (f'<section data-benchmark="{name}">\n'
            f"<h2>{name} <small>{len(benchmark.items)} pictures, enlarged {benchmark.scale} times</small></h2>\n"
            f'<p class="order" aria-live="polite"></p>\n<div class="scroll" tabindex="0" role="region" '
            f'aria-label="{name}">\n<table class="pictures">\n<thead><tr>{pictures}</tr>\n<tr>{metrics_}</tr></thead>\n'
            + "\n".join(bodies) + "\n</table>\n</div>\n</section>")


def _row(benchmark: Benchmark, columns: Mapping[str, list[str]], item: Item, scores: Scores,
         files: Mapping[str, Mapping[str, Path]], published: Collection[str], output: Path) -> str:
    folder = output / "pictures" / benchmark.name
    lr = _store(item.lr, folder / "input" / f"{item.name}_x{benchmark.scale}.png", benchmark.scale)
    pictures = f'<th rowspan="2" class="name" scope="rowgroup">{escape(item.name)}</th>'
    pictures += f'<td rowspan="2">{_picture(lr, "input", item, output)}</td>'
    if item.hr:
        truth = _store(item.hr, folder / "truth" / f"{item.name}.png")
        pictures += f'<td rowspan="2">{_picture(truth, "truth", item, output)}</td>'
    for method, metrics in columns.items():
        why = "published numbers only, no picture" if method in published else "no picture"
        pictures += (f'<td colspan="{max(len(metrics), 1)}" class="method">'
                     f"{_picture(files[method].get(item.name), method, item, output, why)}</td>")
    numbers = "".join(_number(scores.get(method, {}), metric)
                      for method, metrics in columns.items() for metric in metrics or [""])
    return (f'<tbody data-image="{escape(item.name)}">\n<tr>{pictures}</tr>\n'
            f'<tr class="scores">{numbers}</tr>\n</tbody>')


def _metric_heading(method: str, metric: str, first: bool) -> str:
    """The script sorts by the heading that says it comes first."""
    worst = "descending" if less_is_better(metric) else "ascending"
    button = _sort_button(heading(metric), f"{method}: {metric}")
    return (f'<th scope="col" aria-sort="none" data-method="{escape(method)}" data-metric="{escape(metric)}" '
            f'data-worst="{worst}"{" data-first" if first else ""}>{button}</th>')


def _sort_button(text: str, label: str) -> str:
    return f'<button type="button" class="sort" title="sort by {escape(label)}">{escape(text)}</button>'


def _picture(path: Path | None, name: str, item: Item, output: Path, otherwise: str = "") -> str:
    if path is None:
        return f'<span class="none">{otherwise}</span>'
    with Image.open(path) as picture:
        width, height = picture.size
    return (f'<button type="button" class="picture" data-name="{escape(name)}">'
            f'<img loading="lazy" width="{width}" height="{height}" src="{quote(path.relative_to(output).as_posix())}" '
            f'alt="{escape(item.name)}, {escape(name)}"></button>')


def _number(scores: Mapping[str, float], metric: str) -> str:
    if metric not in scores:
        return "<td></td>"
    exact = json.dumps(float(scores[metric]))  # as JavaScript reads it, which knows no inf
    return f'<td data-value="{exact}" title="{exact}">{scores[metric]:.4g}</td>'
