"""`instancersr evaluate`: benchmarks x methods x metrics -> records, a summary with intervals, a table."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instancersr.errors import UserError
from instancersr.files import whole_file, write_whole
from instancersr.installation import how_to_install

from ..training.config import Section
from .benchmarks import Benchmark, BenchmarkConfig, Item, open_benchmark
from .figures import Box, comparison_figure
from .methods import COSTS, Method, digest, rgb
from .metrics import METRICS, Metric, load_metrics
from .peers import MethodError
from .report import output_pictures, report
from .tables import SummaryRow, html, html_page, latex, make_tables, markdown

RESAMPLES = 2000
WHOLE_SET = "(all)"
"""The image of a record that is about all pictures of a benchmark together, such as FID."""

RECORD = ("benchmark", "method", "image", "metric", "value")
Record = tuple[str, str, str, str, float]


class EvaluationConfig(Section):
    """What is compared on what, by which metrics; `methods` are name: SPEC, or {spec: SPEC} and settings."""

    output: Path
    benchmarks: dict[str, BenchmarkConfig]
    methods: dict[str, str | dict[str, Any]]
    metrics: list[str] = ["psnr", "ssim", "lpips", "dists", "niqe"]
    weights: Path | None = None
    """A folder with the metrics' weights in torch_home."""
    boxes: dict[str, dict[str, tuple[int, int, int, int]]] = {}
    """Benchmark -> image -> left, top, width and height of what Figure 3 enlarges, in pixels of the truth."""


def evaluate(config: EvaluationConfig, tell: Callable[[str], None] = lambda line: None,
             show: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Measures what is not measured yet and writes records, summary, tables and report into `config.output`.

    records.csv and records.parquet, summary.csv, table.md, table.tex and table.html, report.html; with `boxes`,
    figures/figure3-comparison.png and .svg.
    What an output cost, `COSTS`, is recorded like metrics for methods that ran here. A method that cannot run here, or
    fails, is left out with the reason.

    Args:
        tell: gets lines for a person: what is left out and why, progress.
        show: gets how many images, of each method, are measured in this run and how many will be.

    Raises:
        UserError: files are missing, damaged or do not fit each other, or a name or a setting is wrong; before
            anything is computed.
    """
    methods = [Method(name, spec) for name, spec in config.methods.items()]
    benchmarks = _open_benchmarks(config)
    for method in methods:
        for benchmark in benchmarks:
            method.check(benchmark)
    boxes = _boxes(config, benchmarks)
    if config.weights:
        os.environ["TORCH_HOME"] = str(config.weights.resolve() / "torch_home")
    metrics, missing = load_metrics(config.metrics)
    missing |= {method.name: reason for method in methods if (reason := method.missing())}
    notes: list[str] = []

    def leave_out(name: str, reason: str) -> None:
        notes.append(f"{name} is left out: {reason}")
        tell(notes[-1])

    for name, reason in missing.items():
        leave_out(name, reason)
    methods = [method for method in methods if method.name not in missing]
    config.output.mkdir(parents=True, exist_ok=True)
    journal = Journal(config.output / "journal.jsonl")
    todo = [(method, benchmark, _unmeasured(method, benchmark, metrics, journal))
            for method in methods if not method.published for benchmark in benchmarks]
    _check_readable(todo)
    total = sum(len(items) for *_, items in todo)
    done = itertools.count(1)
    show(0, total)
    records: list[Record] = []
    for benchmark in benchmarks:
        for method in methods:
            if method.published:
                records += [(benchmark.name, method.name, image, metric, scores[metric])
                            for image, scores in method.scores(benchmark).items()
                            for metric in config.metrics if metric in scores]
                continue
            try:
                records += _measure(method, benchmark, metrics, journal, config.output, tell, leave_out,
                                    lambda: show(next(done), total))
            except MethodError as error:
                leave_out(f"{method.name} on {benchmark.name}", str(error))
    _write_results(config.output, benchmarks, methods, records, notes, tell)
    if boxes:
        rows = [(output_pictures(benchmark, item, methods, config.output), box) for benchmark, item, box in boxes]
        comparison_figure(rows, config.output / "figures" / "figure3-comparison")
    return config.output


def _write_results(output: Path, benchmarks: Sequence[Benchmark], methods: Sequence[Method],
                   records: Sequence[Record], notes: Sequence[str], tell: Callable[[str], None]) -> None:
    summary = summarize(records)
    _write_csv(output / "records.csv", RECORD, records)
    _write_parquet(output / "records.parquet", RECORD, records, tell)
    _write_csv(output / "summary.csv", ("benchmark", "method", "metric", "mean", "low", "high", "n"), summary)
    tables = make_tables(summary, {method.name for method in methods if method.published})
    write_whole(output / "table.md", markdown(tables, notes))
    write_whole(output / "table.tex", latex(tables, notes))
    write_whole(output / "table.html", html_page(html(tables, notes)))
    write_whole(output / "report.html", report(benchmarks, methods, records, output, html(tables, notes)))


def _boxes(config: EvaluationConfig, benchmarks: Sequence[Benchmark]) -> list[tuple[Benchmark, Item, Box]]:
    """What Figure 3 shows.

    Raises:
        UserError: there is no such benchmark or image, it has no truth, or the box leaves it.
    """
    items = {benchmark.name: {item.name: item for item in benchmark.items} for benchmark in benchmarks}
    if config.boxes and not find_spec("matplotlib"):
        raise UserError(f"boxes: Figure 3 needs matplotlib; {how_to_install('eval')}")
    found = []
    for name, images in config.boxes.items():
        for image, values in images.items():
            item = items.get(name, {}).get(image)
            if item is None or item.hr is None:
                raise UserError(f"boxes.{name}.{image}: no such image with a truth in the benchmarks")
            box, (width, height) = Box(*values), rgb(item.hr).size
            if min(values) < 0 or box.left + box.width > width or box.top + box.height > height:
                raise UserError(f"boxes.{name}.{image}: {list(values)} leaves the picture, {width}x{height}")
            found.append((next(each for each in benchmarks if each.name == name), item, box))
    return found


def _open_benchmarks(config: EvaluationConfig) -> list[Benchmark]:
    """In their order; those whose inputs have to be made come last, so that a mistake in another stops before that."""
    work = config.output / "synthetic"
    last = sorted(config.benchmarks, key=lambda name: config.benchmarks[name].preset is not None)
    opened = {name: open_benchmark(name, config.benchmarks[name], work) for name in last}
    return [opened[name] for name in config.benchmarks]


class Journal:
    """Values that are known already, one JSON line each, out of this process's hands as soon as they are known."""

    def __init__(self, path: Path):
        self._path = path
        self._values: dict[tuple[str, ...], float] = {}
        if path.exists():
            for line in path.read_bytes().split(b"\n")[:-1]:  # what a kill cut off has no end of line
                try:
                    *key, value = json.loads(line)
                except ValueError:  # cut off, then continued by the next run
                    continue
                self._values[tuple(key)] = value

    def get(self, *key: str) -> float | None:
        return self._values.get(key)

    def add(self, value: float, *key: str) -> None:
        self._values[key] = value
        with self._path.open("a") as file:
            file.write(("" if self._ends_a_line() else "\n") + json.dumps([*key, value]) + "\n")

    def _ends_a_line(self) -> bool:
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def summarize(records: Iterable[Record]) -> list[SummaryRow]:
    """Mean over images and its 95 % interval by the percentile bootstrap, for each benchmark, method and metric."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for benchmark, method, _, metric, value in records:
        groups.setdefault((benchmark, method, metric), []).append(value)
    rows = []
    for key, values in groups.items():
        drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
        low, high = np.percentile(np.array(values)[drawn].mean(1), [2.5, 97.5], method="inverted_cdf")
        rows.append((*key, float(np.mean(values)), float(low), float(high), len(values)))
    return rows


def _version(source: str, benchmark: Benchmark, item: Item) -> str:
    """Changes when the method, whose fingerprint is `source`, the input or the truth does."""
    return digest(f"{source} {benchmark.scale}", *(path for path in (item.lr, item.hr) if path))


def _wanted(metrics: Iterable[str], item: Item) -> list[str]:
    return [name for name in metrics if not METRICS[name].of_set and (item.hr or not METRICS[name].needs_truth)]


def _unknown(method: Method, benchmark: Benchmark, item: Item, metrics: Iterable[str], journal: Journal,
             version: str) -> list[str]:
    """Metrics of an image that are not in the journal yet, and `seconds` where its output has not been made."""
    names = _wanted(metrics, item) + ([] if method.finished else ["seconds"])
    return [name for name in names if journal.get(benchmark.name, method.name, item.name, name, version) is None]


def _unmeasured(method: Method, benchmark: Benchmark, metrics: Iterable[str], journal: Journal) -> list[Item]:
    """Images that are not done yet."""
    source = method.fingerprint()
    return [item for item in benchmark.items
            if _unknown(method, benchmark, item, metrics, journal, _version(source, benchmark, item))]


def _check_readable(todo: Iterable[tuple[Method, Benchmark, list[Item]]]) -> None:
    """Raises a UserError that names an input, truth or finished output that cannot be read to its end."""
    files: list[Path | None] = []
    for method, benchmark, items in todo:
        finished = method.outputs(benchmark) if method.finished else {}
        for item in items:
            files += [item.lr, item.hr, finished.get(item.name)]
    for file in dict.fromkeys(files):
        if file is not None:
            rgb(file)


def _measure(method: Method, benchmark: Benchmark, metrics: dict[str, Metric], journal: Journal, output: Path,
             tell: Callable[[str], None], leave_out: Callable[[str, str], None],
             advance: Callable[[], None]) -> list[Record]:
    records: list[Record] = []
    failed: dict[str, str] = {}
    source = method.fingerprint()
    started, computed = time.monotonic(), 0
    for item in benchmark.items:
        version, wanted = _version(source, benchmark, item), _wanted(metrics, item)

        def known(name: str, item: Item = item, version: str = version) -> float | None:
            return journal.get(benchmark.name, method.name, item.name, name, version)

        if todo := _unknown(method, benchmark, item, metrics, journal, version):
            computed += 1
            picture = _output(method, benchmark, item, output, version, journal)
            truth = tensor(rgb(item.hr)) if item.hr else picture
            for name in wanted:
                if name not in todo:
                    continue
                try:
                    with torch.inference_mode():
                        value = metrics[name](picture, truth).item()
                except (RuntimeError, ValueError, AssertionError) as error:  # as of a picture too small for the metric
                    failed.setdefault(name, f"{item.name}: {error}")
                else:
                    journal.add(value, benchmark.name, method.name, item.name, name, version)
            advance()
        records += [(benchmark.name, method.name, item.name, name, value)
                    for name in [*wanted, *COSTS] if (value := known(name)) is not None]
    for name, reason in failed.items():
        leave_out(f"{name} of some images of {method.name} on {benchmark.name}", reason)
    records += _measure_set(method, benchmark, metrics, journal, output, source)
    rate = computed / max(time.monotonic() - started, 1e-9)
    tell(f"{benchmark.name}, {method.name}: {len(benchmark.items)} images, {computed} of them now, {rate:.2f} images/s")
    return records


def _measure_set(method: Method, benchmark: Benchmark, metrics: dict[str, Metric], journal: Journal, output: Path,
                 source: str) -> list[Record]:
    """Metrics of all pictures together, once every output is there; their image is `WHOLE_SET`."""
    truths = [item.hr for item in benchmark.items if item.hr]
    wanted = [name for name in metrics if METRICS[name].of_set and len(truths) == len(benchmark.items)]
    finished = method.outputs(benchmark) if method.finished else {}
    files = [finished.get(item.name) or _path(output, benchmark, method, item) for item in benchmark.items]
    version = digest(f"{source} {benchmark.scale}", *(item.lr for item in benchmark.items), *truths)
    records = []
    for name in wanted:
        value = journal.get(benchmark.name, method.name, WHOLE_SET, name, version)
        if value is None:
            value = metrics[name](files, truths).item()
            journal.add(value, benchmark.name, method.name, WHOLE_SET, name, version)
        records.append((benchmark.name, method.name, WHOLE_SET, name, value))
    return records


def _path(output: Path, benchmark: Benchmark, method: Method, item: Item) -> Path:
    return output / "outputs" / benchmark.name / method.name / f"{item.name}.png"


def _output(method: Method, benchmark: Benchmark, item: Item, output: Path, version: str, journal: Journal) -> Tensor:
    """The output, kept as a PNG unless it is a finished one; the journal knows of which version the PNG is."""
    path, work = _path(output, benchmark, method, item), output / "commands" / benchmark.name / method.name
    if method.finished:
        return tensor(method.output(item, benchmark, work).picture)
    key = (benchmark.name, method.name, item.name)
    if journal.get(*key, "seconds", version) is None or not path.exists():
        made = method.output(item, benchmark, work)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            made.picture.save(file, "PNG")
        for name in COSTS:  # seconds are the last: they say that the output is there
            if name in made.costs:
                journal.add(made.costs[name], *key, name, version)
    return tensor(rgb(path))


def tensor(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _write_csv(path: Path, head: tuple[str, ...], rows: Iterable[tuple]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([head, *rows])
    write_whole(path, text.getvalue())


def _write_parquet(path: Path, head: tuple[str, ...], rows: Sequence[tuple], tell: Callable[[str], None]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        path.unlink(missing_ok=True)  # an earlier one would not be that of these records
        tell(f"{path.name} is left out: it needs more packages ({error}); {how_to_install('eval')}")
        return
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(head)
    with whole_file(path) as file:
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(head, columns, strict=True))), file)
