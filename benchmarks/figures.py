"""Puts the scores of docs/figures.yaml into the tables of README, model card and docs.

    python benchmarks/figures.py            # writes every table that a document asks for
    python benchmarks/figures.py --check    # names those that are not as the file says, and ends with exit code 1

A document asks for a table by the comment `<!-- figures: NAME -->`. What stands from there to `<!-- end of figures -->`
is written by this program: the table of that name in docs/figures.yaml, and the commands that made its scores.
"""

import argparse
import datetime
import re
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "instancersr/weights/README.md")
REGION = re.compile(r"^<!-- figures: (\S+) -->\n.*?^<!-- end of figures -->$", re.DOTALL | re.MULTILINE)
UNKNOWN = "–"


class Figures:
    """What docs/figures.yaml holds, and the Markdown that is made of it."""

    def __init__(self, file: Path):
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        self.shipped: str = data["shipped"]
        self.methods: dict[str, str] = data["methods"]
        self.metrics: dict[str, list] = data["metrics"]
        self.measurements: dict[str, dict] = data["measurements"]
        self.tables: dict[str, dict] = data["tables"]

    def region(self, name: str) -> str:
        """A table between its two comments, with the commands below it."""
        if name not in self.tables:
            sys.exit(f"docs/figures.yaml has no table {name!r}; it has {', '.join(self.tables)}")
        table = self.tables[name]
        heads, rows, used = self._wide(table) if isinstance(table["columns"], dict) else self._long(table)
        lines = ["| " + " | ".join(["", *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([f"<!-- figures: {name} -->", *lines, *self._commands(used), "<!-- end of figures -->"])

    def _wide(self, table: dict) -> tuple[list[str], list[list[str]], list[str]]:
        """Heads, rows and measurements of a table whose columns are of several measurements."""
        columns = [path.split(".") for path in table["columns"].values()]
        rows = [[self._name(method), *(self._cell(measurement, method, metric) for measurement, metric in columns)]
                for method in table["rows"]]
        return list(table["columns"]), rows, [measurement for measurement, _ in columns]

    def _long(self, table: dict) -> tuple[list[str], list[list[str]], list[str]]:
        """The same of a table with some metrics of each measurement, one below the other."""
        rows = [[f"{label}: {self._name(method)}" if label else self._name(method),
                 *(self._cell(measurement, method, metric, table.get("intervals", False))
                   for metric in table["columns"])]
                for label, measurement in table["of"].items() for method in table["rows"]]
        return [self.metrics[metric][0] for metric in table["columns"]], rows, list(table["of"].values())

    def _name(self, method: str) -> str:
        return f"**InstanceRSR {self.shipped}**" if method == "shipped" else self.methods.get(method, method)

    def _cell(self, measurement: str, method: str, metric: str, interval: bool = False) -> str:
        scores = self.measurements[measurement]["scores"]
        value = scores.get(self.shipped if method == "shipped" else method, {}).get(metric, UNKNOWN)
        mean, *ends = (self._number(end, metric) for end in (value if isinstance(value, list) else [value]))
        return f"{mean} ({' to '.join(ends)})" if interval and ends else mean

    def _number(self, value: float | str | datetime.date, metric: str) -> str:
        """As the field prints scores: .251, 27.25."""
        if not isinstance(value, int | float):
            return str(value)
        text = str(Decimal(str(value)).quantize(Decimal(10) ** -self.metrics[metric][1], ROUND_HALF_UP))
        return text.removeprefix("0") if value < 1 else text

    def _commands(self, measurements: list[str]) -> list[str]:
        made = [self.measurements[name] for name in measurements if "command" in self.measurements[name]]
        if not made:
            return []
        needs = dict.fromkeys(thing for measurement in made for thing in measurement["needs"])
        commands = dict.fromkeys(measurement["command"].strip() for measurement in made)
        return ["", f"<!-- needs: {', '.join(needs)} -->", "```sh", *commands, "```"]


def documents(root: Path) -> list[Path]:
    return [path for pattern in DOCUMENTS for path in sorted(root.glob(pattern)) if not path.is_symlink()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository's folder")
    arguments = parser.parse_args()
    figures = Figures(arguments.root / "docs" / "figures.yaml")
    differ = False
    for path in documents(arguments.root):
        text = path.read_text(encoding="utf-8")
        new = REGION.sub(lambda found: figures.region(found[1]), text)
        for found in REGION.finditer(text):
            if found[0] not in new:
                differ = True
                print(f"{path.relative_to(arguments.root)}: {found[1]}")
        if not arguments.check and new != text:
            path.write_text(new, encoding="utf-8")
    sys.exit(arguments.check and differ)


if __name__ == "__main__":
    main()
