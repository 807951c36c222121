"""The tables of an evaluation: the same rows as Markdown, LaTeX and HTML, measured and published side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import yaml

from .metrics import METRICS

SummaryRow = tuple[str, str, str, float, float, float, int]
"""benchmark, method, metric, mean, low, high, n."""

WHOLE = ("memory", "parameters", "steps")
"""What tables give without decimals."""

MEASURED = "measured here"

LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$"})


@dataclass(frozen=True)
class Group:
    """Rows of one origin: what the origin is, and method -> metric -> mean."""

    origin: str
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Table:
    """What is known of one benchmark: a column a metric, a group of rows an origin."""

    benchmark: str
    metrics: tuple[str, ...]
    groups: tuple[Group, ...]

    def headings(self) -> list[str]:
        return ["method", *map(heading, self.metrics)]

    def cells(self, group: Group) -> list[list[str]]:
        """The rows of a group as text; a cell without a number is empty."""
        return [[method, *(_number(metric, means.get(metric)) for metric in self.metrics)]
                for method, means in group.rows.items()]


def make_tables(summary: Iterable[SummaryRow], published_methods: Collection[str] = ()) -> list[Table]:
    """A table for each benchmark: what was measured here, then what was published, each row and group marked as such.

    Args:
        published_methods: those methods of the summary whose scores were read, not measured.
    """
    papers = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
    means: dict[str, dict[str, dict[str, float]]] = {}
    for benchmark, method, metric, mean, *_ in summary:
        means.setdefault(benchmark, {}).setdefault(method, {})[metric] = mean
    tables = []
    for benchmark, methods in means.items():
        paper: dict[str, dict[str, float]] = {}
        for metric, scores in papers["benchmarks"].get(benchmark, {}).items():
            for method, mean in scores.items():
                paper.setdefault(f"{method} (published)", {})[metric] = mean
        groups = (
            Group(MEASURED, {name: row for name, row in methods.items() if name not in published_methods}),
            Group("published scores of each image, not measured here",
                  {name: row for name, row in methods.items() if name in published_methods}),
            Group(f"published, not measured here: {papers['source']}", paper))
        metrics = dict.fromkeys(metric for group in groups for row in group.rows.values() for metric in row)
        tables.append(Table(benchmark, tuple(metrics), tuple(group for group in groups if group.rows)))
    return tables


def less_is_better(metric: str) -> bool:
    """The direction of a metric or, of what is recorded beside the metrics, a cost such as `seconds`."""
    return METRICS[metric].less_is_better if metric in METRICS else True


def _number(metric: str, mean: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.0f}" if metric in WHOLE else f"{mean:.4f}"


def heading(metric: str) -> str:
    """Its name, unit and an arrow to the better side."""
    return f"{metric}{', MiB' if metric == 'memory' else ''} {'↓' if less_is_better(metric) else '↑'}"


def markdown(tables: Iterable[Table], notes: Iterable[str] = ()) -> str:
    """Tables under headings, then a paragraph a note."""
    text = ""
    for table in tables:
        text += f"## {table.benchmark}\n\n| {' | '.join(table.headings())} |\n"
        text += "|---" * (len(table.metrics) + 1) + "|\n"
        for group in table.groups:
            text += f"| *{group.origin}* |{'  |' * len(table.metrics)}\n"
            rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.cells(group)]
            text += "".join(f"| {row} |\n" for row in rows)
        text += "\n"
    return text + "".join(f"\n{note}\n" for note in notes)


def latex(tables: Iterable[Table], notes: Iterable[str] = ()) -> str:
    """A `table` each, for a document that uses the package booktabs; the notes stand in each caption."""
    text = "% needs \\usepackage{booktabs}\n"
    after = "".join(f" {note[:1].upper()}{note[1:]}." for note in notes)
    for table in tables:
        parts = []
        for group in table.groups:
            lines = [rf"\multicolumn{{{len(table.metrics) + 1}}}{{l}}{{\emph{{{group.origin.translate(LATEX)}}}}} \\"]
            lines += [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in table.cells(group)]
            parts.append("\n".join(lines))
        text += "\n".join([
            "", r"\begin{table}", r"\centering", rf"\caption{{{(table.benchmark + '.' + after).translate(LATEX)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.metrics)}}}", r"\toprule",
            " & ".join(cell.translate(LATEX) for cell in table.headings()) + r" \\", r"\midrule",
            "\n\\midrule\n".join(parts), r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])
    return text


def html(tables: Iterable[Table], notes: Iterable[str] = ()) -> str:
    """A `<table>` each, a `<tbody>` a group, and a `<p>` a note: to be put into a page."""
    text = ""
    for table in tables:
        text += f'<table class="means">\n<caption>{escape(table.benchmark)}</caption>\n<thead><tr>'
        text += "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.headings()) + "</tr></thead>\n"
        for group in table.groups:
            kind = "measured" if group.origin == MEASURED else "published"
            text += (f'<tbody class="{kind}">\n<tr><th colspan="{len(table.metrics) + 1}" scope="rowgroup">'
                     f"{escape(group.origin)}</th></tr>\n")
            for name, *numbers in table.cells(group):
                text += f'<tr><th scope="row">{escape(name)}</th>'
                text += "".join(f"<td>{number}</td>" for number in numbers) + "</tr>\n"
            text += "</tbody>\n"
        text += "</table>\n"
    return text + "".join(f"<p>{escape(note)}</p>\n" for note in notes)


def html_page(body: str) -> str:
    """A page of its own for tables from `html`."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }}
body {{ margin: 2rem }}
table {{ border-collapse: collapse; margin-bottom: 2rem }}
caption {{ text-align: left; font-size: 1.3rem; font-weight: 600; padding: .5rem 0 }}
th, td {{ padding: .2rem .8rem; text-align: right; font-variant-numeric: tabular-nums }}
th[scope=row], th[scope=rowgroup], th:first-child {{ text-align: left; font-weight: normal }}
th[scope=rowgroup] {{ font-style: italic; opacity: .75 }}
thead, tbody {{ border-bottom: 1px solid }}
</style>
{body}</html>
"""
