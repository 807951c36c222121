"""The method `command`: another project's own script, run in its own environment over a whole benchmark.

Ready entries for peers are in configs/evaluation/peers.yaml.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from PIL import Image
from pydantic import Field

from instancersr.errors import UserError, reason
from instancersr.files import write_whole

from ..training.config import Section
from .benchmarks import Benchmark, Item, pair_outputs, pictures, stem

MIB = 2**20


class MethodError(UserError):
    """A method failed while it ran; the others can go on."""


class CommandSettings(Section):
    """A script of another project. Relative paths are seen from `repository`, where the command runs."""

    command: str
    """Words with placeholders: {input_dir}, {output_dir}, {scale}, {python} and the keys of `checkpoints`. No shell
    reads it, so a path may have spaces in it."""
    repository: Path
    """A checkout of the project."""
    python: str = "python"
    """The interpreter of the project's environment."""
    checkpoints: dict[str, Path] = {}
    """Files or folders that must be there."""
    outputs: Path = Path(".")
    """Where under {output_dir} the script puts its pictures."""
    steps: int | None = Field(None, ge=1)
    parameters: float | None = Field(None, gt=0)
    """As published: a foreign process does not tell."""
    url: str = ""
    """Where the project is."""
    source: str = ""
    """Where the command line is written."""
    downloads: list[str] = []
    """Weights that the script fetches by itself."""
    note: str = ""


class Command:
    """Runs the script once for all pictures of a benchmark that have no output yet, and picks outputs up by name.

    Everything stays in the working folder: `input` with PNGs under the inputs' own names, `output`, `stdout.txt`,
    `stderr.txt` and `costs.json`.

    Args:
        name: of the method.

    Raises:
        UserError: the command has an unknown placeholder or is no command line.
    """

    def __init__(self, name: str, settings: CommandSettings):
        self._name, self._settings = name, settings
        self._line(Path("input"), Path("output"), 4)

    def missing(self) -> str | None:
        """Why it cannot run here: a checkout or checkpoint that is not there."""
        settings, hint = self._settings, f"methods.{self._name}"
        where = f" of {settings.url}" if settings.url else ""
        if not settings.repository.is_dir():
            return f"no checkout{where} at {settings.repository}; set {hint}.repository"
        for key, path in settings.checkpoints.items():
            if not (settings.repository / path).exists():
                return f"no checkpoint {settings.repository / path}; set {hint}.checkpoints.{key}"
        if shutil.which(self._python()) is None and "{python}" in settings.command:
            return f"no interpreter {self._python()}; set {hint}.python to that of the project's environment"
        return None

    def files(self) -> list[Path]:
        """The checkpoints that are files."""
        paths = (self._settings.repository / path for path in self._settings.checkpoints.values())
        return [path for path in paths if path.is_file()]

    def output(self, item: Item, benchmark: Benchmark, work: Path) -> tuple[Path, dict[str, float]]:
        """The file of an item's output, after running the script where it is missing, and what a picture cost.

        Seconds are those of the last run, with loading, over its pictures; memory is the process's own, not a GPU's.

        Raises:
            MethodError: the script failed or left outputs out; names its last line of stderr.
        """
        names = [f"{each.name} {each.lr.stat().st_size} {each.lr.stat().st_mtime_ns}" for each in benchmark.items]
        version = hashlib.sha256("\n".join([self._settings.model_dump_json(), *names]).encode()).hexdigest()[:16]
        folder = work.resolve() / version
        outputs = folder / "output" / self._settings.outputs
        costs = folder / "costs.json"
        if not costs.exists():
            whole = _whole(outputs)
            measured = self._run([each for each in benchmark.items if each.name not in whole], benchmark.scale, folder)
            self._paired(outputs, benchmark, folder)
            write_whole(costs, json.dumps(measured))
        return self._paired(outputs, benchmark, folder)[item.name], json.loads(costs.read_text())

    def _paired(self, outputs: Path, benchmark: Benchmark, folder: Path) -> dict[str, Path]:
        try:
            return pair_outputs(self._name, outputs, benchmark)
        except UserError as error:
            raise MethodError(f"{error}; what the command said is in {folder / 'stdout.txt'} and stderr.txt") from error

    def _run(self, items: list[Item], scale: int, folder: Path) -> dict[str, float]:
        costs: dict[str, float | None] = {"parameters": self._settings.parameters, "steps": self._settings.steps}
        if items:
            costs |= self._run_on(items, scale, folder)
        return {name: float(value) for name, value in costs.items() if value is not None}

    def _run_on(self, items: list[Item], scale: int, folder: Path) -> dict[str, float | None]:
        source, target = folder / "input", folder / "output"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        target.mkdir(exist_ok=True)
        for item in items:
            with Image.open(item.lr) as picture:
                picture.convert("RGB").save(source / f"{item.lr.stem}.png")  # some scripts see only *.png
        started = time.monotonic()
        status, memory = self._call(self._line(source, target, scale), folder)
        seconds = time.monotonic() - started
        if status:
            lines = (folder / "stderr.txt").read_text(errors="replace").strip().splitlines()
            raise MethodError(f"{self._name}: its command ended with {status}: {lines[-1] if lines else 'no message'} "
                              f"({folder / 'stderr.txt'})")
        return {"memory": memory, "seconds": seconds / len(items)}

    def _call(self, line: list[str], folder: Path) -> tuple[int, float | None]:
        """Exit code, and peak resident memory in MiB where the system tells that of one process."""
        with (folder / "stdout.txt").open("wb") as said, (folder / "stderr.txt").open("wb") as errors:
            try:
                process = subprocess.Popen(line, cwd=self._settings.repository, stdin=subprocess.DEVNULL,
                                           stdout=said, stderr=errors)
            except OSError as error:
                raise MethodError(f"{self._name}: {line[0]} cannot be run ({reason(error)})") from error
            if not hasattr(os, "wait4"):
                return process.wait(), None
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:  # Ctrl-C: the script stops with us
                process.kill()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
            unit = 1 if os.uname().sysname == "Darwin" else 1024
            return process.returncode, usage.ru_maxrss * unit / MIB

    def _python(self) -> str:
        """A path is not resolved: a virtual environment knows itself by its own link."""
        python = self._settings.python
        return os.path.abspath(self._settings.repository / python) if os.path.dirname(python) else python

    def _line(self, source: Path, target: Path, scale: int) -> list[str]:
        settings = self._settings
        places = {"input_dir": source, "output_dir": target, "scale": scale, "python": self._python()}
        places |= {key: (settings.repository / path).resolve() for key, path in settings.checkpoints.items()}
        try:
            return [word.format_map(places) for word in shlex.split(settings.command)]
        except KeyError as error:
            raise UserError(f"methods.{self._name}.command: no placeholder {{{error.args[0]}}}; choose from "
                            f"{', '.join(places)}") from None
        except (ValueError, IndexError) as error:
            raise UserError(f"methods.{self._name}.command: not a command line ({error})") from None


def _whole(folder: Path) -> set[str]:
    """Names of the outputs that are there and can be read to their end: a killed script leaves half a picture."""
    found: set[str] = set()
    try:
        paths = pictures(folder)
    except UserError:  # none yet
        return found
    for path in paths.values():
        try:
            with Image.open(path) as picture:
                picture.load()
        except (OSError, SyntaxError):
            continue
        found.add(stem(path))
    return found
