"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from .messages import as_line, naming_stdout, printable

if TYPE_CHECKING:
    from instancersr.batch.jobs import Result


class PictureProgress:
    """Bars for files and tiles on a terminal, plain lines elsewhere; results on stdout, errors on stderr.

    Args:
        record: with it, results are JSON records with these values in them, errors too.
        silent: no lines on stdout, which belongs to a picture.
        names: of files, in place of their paths.
    """

    def __init__(self, errors: Console, record: dict[str, Any] | None = None, silent: bool = False,
                 names: dict[str, str] | None = None):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._errors, self._record, self._silent, self._names = errors, record, silent, names or {}
        self.done = self._expected = 0
        self._failed: set[Path] = set()
        self._out = Console()
        self._bars: Progress | None = None
        if errors.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                       TimeRemainingColumn())
            self._bars = Progress(*columns, console=errors, transient=True)
            self._files = self._bars.add_task("files", total=0)
            self._tiles = self._bars.add_task("", total=None)

    def __enter__(self) -> PictureProgress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    @property
    def failed(self) -> int:
        """How many pictures are not done; in a watched folder one may fail and be done later."""
        return len(self._failed)

    @property
    def summary(self) -> str:
        """How many pictures were done, and failed, so far."""
        return f"{self.done} done, {self.failed} failed" if self.failed else f"{self.done} done"

    def conclude(self, left_out: Counter[str], skipped: int) -> None:
        """The last lines: what a folder held that was left out, and the sum of all."""
        from instancersr.batch.planning import RESULTS
        from instancersr.images.folders import counted

        if left_out:
            note = "; --include-results takes in those that this program made" if RESULTS in left_out else ""
            self._errors.print(as_line(counted(left_out) + note), soft_wrap=True)
        skipped_ones = f", {skipped} skipped: there is a result already" if skipped else ""
        self._errors.print(as_line(self.summary + skipped_ones), soft_wrap=True)

    def expect(self, files: int) -> None:
        """So many more are to be done."""
        self._expected += files
        if self._bars:
            self._bars.update(self._files, total=self._expected)

    def begin(self, name: str) -> None:
        if self._bars:
            self._bars.reset(self._tiles, description=printable(name)[:40], total=None)

    def tiles(self, done: int, total: int) -> None:
        if self._bars:
            self._bars.update(self._tiles, completed=done, total=total)

    def say(self, line: str) -> None:
        """A line on stderr."""
        self._print(as_line(line), style="yellow")

    def show(self, result: Result) -> None:
        """What became of a picture."""
        job = result.job
        self.done += result.error is None
        if result.error is not None:
            self._failed.add(job.source)
        else:
            self._failed.discard(job.source)
        if self._record is not None:
            source = str(job.source)
            record = _as_record(result) | self._record | {
                "input": self._names.get(source, source), "notes": [self._named(note) for note in result.notes],
                "error": result.error and self._named(result.error)}
            with naming_stdout():
                typer.echo(json.dumps(record))
        elif result.error is not None:
            self._print(as_line(self._named(result.error)), style="red")
        else:
            for note in result.notes:
                self._print(as_line(f"note: {self._named(note)}"), style="yellow")
            if not self._silent:
                sizes = "{}x{} -> {}x{}".format(*result.input_size, *result.output_size)
                self._print(as_line(self._named(f"{job.source} -> {job.output} ({sizes}, {result.seconds:.1f} s)")))
        if self._bars:
            self._bars.advance(self._files)

    def _named(self, line: str) -> str:
        for path, name in self._names.items():
            line = line.replace(path, name)
        return line

    def _print(self, line: Text, style: str | None = None) -> None:
        """A styled line is for stderr. On a terminal all go through the console that draws the bars."""
        console = self._errors if style or self._bars else self._out
        with naming_stdout() if console is self._out else nullcontext():
            console.print(line, style=style, soft_wrap=True)


def _as_record(result: Result) -> dict[str, Any]:
    """What became of a picture, for a program; `output` and sizes are null where there is an error."""
    job, done = result.job, result.error is None
    return {"input": str(job.source), "output": str(job.output) if done else None,
            "instances": str(job.instances) if done and job.instances else None,
            "input_size": result.input_size if done else None, "output_size": result.output_size if done else None,
            "seconds": round(result.seconds, 3), "notes": result.notes, "error": result.error}


class CountProgress:
    """A bar with pieces a second and the time left; off a terminal, a line a minute.

    Args:
        unit: what is counted, as a plural.
    """

    def __init__(self, errors: Console, unit: str):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._errors, self._unit = errors, unit
        self._first: int | None = None
        self._started = self._told = 0.0
        self._bar = Progress(TextColumn(unit), BarColumn(), MofNCompleteColumn(),
                             TextColumn("{task.fields[rate]:.1f} " + f"{unit}/s"), TimeRemainingColumn(),
                             console=errors, transient=True, disable=not errors.is_terminal)
        self._task = self._bar.add_task(unit, total=None, rate=0.0)

    def __enter__(self) -> CountProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:  # what an earlier run has done says nothing about this one's speed
            self._first, self._started, self._told = done, now, now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        self._bar.update(self._task, completed=done, total=total, rate=rate)
        if not self._errors.is_terminal and now - self._told >= 60:
            self._told = now
            left = (total - done) / rate / 60 if rate else float("inf")
            self._errors.print(as_line(f"{done} of {total} {self._unit}, {rate:.1f} {self._unit}/s, "
                                       f"{left:.0f} minutes left"))
