"""`instancersr evaluate`: benchmarks x methods x metrics -> records, a summary with intervals, a table."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from pydantic import Field
from torch import Tensor

from ..training.config import Section
from .benchmarks import Benchmark, Item, pair_folders
from .methods import Method, digest, rgb
from .metrics import METRICS, Metric, load_metrics

RESAMPLES = 2000

Record = tuple[str, str, str, str, float]
"""benchmark, method, image, metric, value."""


class BenchmarkConfig(Section):
    """Folders of inputs and truths; without `hr`, metrics that need the truth are left out."""

    lr: Path
    hr: Path | None = None
    scale: int = Field(4, ge=1)


class EvaluationConfig(Section):
    """What is compared on what, by which metrics; `methods` are name: SPEC."""

    output: Path
    benchmarks: dict[str, BenchmarkConfig]
    methods: dict[str, str]
    metrics: list[str] = ["psnr", "ssim", "lpips", "dists", "niqe"]
    weights: Path | None = None
    """A folder with the metrics' weights in torch_home."""


def evaluate(config: EvaluationConfig, tell: Callable[[str], None] = lambda line: None) -> Path:
    """Measures what is not measured yet and writes records.csv, summary.csv and table.md into `config.output`.

    `seconds`, the time an output took, is recorded as a metric of methods that ran here.

    Args:
        tell: gets lines for a person: what is left out and why, progress.

    Raises:
        UserError: files are missing or do not fit each other, or a name is unknown; before anything is computed.
    """
    benchmarks = [pair_folders(name, each.lr, each.hr, each.scale) for name, each in config.benchmarks.items()]
    methods = [Method(name, spec) for name, spec in config.methods.items()]
    for method in methods:
        for benchmark in benchmarks:
            method.check(benchmark)
    if config.weights:
        os.environ["TORCH_HOME"] = str(config.weights.resolve() / "torch_home")
    metrics, missing = load_metrics(config.metrics)
    for name, reason in missing.items():
        tell(f"{name} is left out: {reason}")
    config.output.mkdir(parents=True, exist_ok=True)
    journal = Journal(config.output / "journal.jsonl")
    records: list[Record] = []
    for benchmark in benchmarks:
        for method in methods:
            if method.published:
                records += [(benchmark.name, method.name, image, metric, scores[metric])
                            for image, scores in method.scores(benchmark).items()
                            for metric in config.metrics if metric in scores]
            else:
                records += _measure(method, benchmark, metrics, journal, config.output, tell)
    summary = summarize(records)
    _write_csv(config.output / "records.csv", ("benchmark", "method", "image", "metric", "value"), records)
    _write_csv(config.output / "summary.csv", ("benchmark", "method", "metric", "mean", "low", "high", "n"), summary)
    left_out = "".join(f"\n{name} is left out: {reason}\n" for name, reason in missing.items())
    _replace(config.output / "table.md", markdown(summary) + published(config.benchmarks) + left_out)
    return config.output


class Journal:
    """Values that are known already, one JSON line each, on disk as soon as they are known."""

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
            file.flush()
            os.fsync(file.fileno())

    def _ends_a_line(self) -> bool:
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def summarize(records: Iterable[Record]) -> list[tuple[str, str, str, float, float, float, int]]:
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


def markdown(summary: Iterable[tuple[str, str, str, float, float, float, int]]) -> str:
    """A table of means, a row a method and a column a metric, for each benchmark."""
    means = {(benchmark, method, metric): mean for benchmark, method, metric, mean, *_ in summary}
    text = ""
    for benchmark in dict.fromkeys(key[0] for key in means):
        methods = dict.fromkeys(key[1] for key in means if key[0] == benchmark)
        metrics = dict.fromkeys(key[2] for key in means if key[0] == benchmark)
        text += f"## {benchmark}\n\n| method | {' | '.join(map(_heading, metrics))} |\n"
        text += "|---" * (len(metrics) + 1) + "|\n"
        for method in methods:
            cells = (means.get((benchmark, method, metric)) for metric in metrics)
            text += f"| {method} | {' | '.join('' if mean is None else f'{mean:.4f}' for mean in cells)} |\n"
        text += "\n"
    return text


def published(benchmarks: Iterable[str]) -> str:
    """Tables of published scores of those of the benchmarks that papers know by this name, marked as such."""
    known = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
    rows = [(f"{name} (published, not measured here: {known['source']})", method, metric, mean, mean, mean, 0)
            for name in benchmarks for metric, scores in known["benchmarks"].get(name, {}).items()
            for method, mean in scores.items()]
    return markdown(rows)


def _heading(metric: str) -> str:
    less_is_better = metric == "seconds" or METRICS[metric].less_is_better
    return f"{metric} {'↓' if less_is_better else '↑'}"


def _measure(method: Method, benchmark: Benchmark, metrics: dict[str, Metric], journal: Journal, output: Path,
             tell: Callable[[str], None]) -> list[Record]:
    records: list[Record] = []
    source = method.fingerprint()
    folder = output / "outputs" / benchmark.name / method.name
    started, computed = time.monotonic(), 0
    for item in benchmark.items:
        version = digest(f"{source} {benchmark.scale}", *(path for path in (item.lr, item.hr) if path))
        wanted = [name for name in metrics if item.hr or not METRICS[name].needs_truth]

        def known(name: str, item: Item = item, version: str = version) -> float | None:
            return journal.get(benchmark.name, method.name, item.name, name, version)

        todo = [name for name in wanted if known(name) is None]
        if todo:
            computed += 1
            picture = _output(method, benchmark, item, folder / f"{item.name}.png", version, journal)
            truth = tensor(rgb(item.hr)) if item.hr else picture
            for name in todo:
                with torch.inference_mode():
                    value = metrics[name](picture, truth).item()
                journal.add(value, benchmark.name, method.name, item.name, name, version)
        shown = wanted if method.finished else [*wanted, "seconds"]
        records += [(benchmark.name, method.name, item.name, name, value)
                    for name in shown if (value := known(name)) is not None]
    rate = computed / max(time.monotonic() - started, 1e-9)
    tell(f"{benchmark.name}, {method.name}: {len(benchmark.items)} images, {computed} of them now, {rate:.2f} images/s")
    return records


def _output(method: Method, benchmark: Benchmark, item: Item, path: Path, version: str, journal: Journal) -> Tensor:
    """The output, kept as a PNG unless it is a finished one; the journal knows of which version the PNG is."""
    if method.finished:
        return tensor(method.output(item, benchmark))
    key = (benchmark.name, method.name, item.name, "seconds", version)
    if journal.get(*key) is None or not path.exists():
        started = time.monotonic()
        picture = method.output(item, benchmark)
        seconds = time.monotonic() - started
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        picture.save(part, format="PNG")
        part.replace(path)
        journal.add(seconds, *key)
    return tensor(rgb(path))


def tensor(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _write_csv(path: Path, head: tuple[str, ...], rows: Iterable[tuple]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    part.replace(path)


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
