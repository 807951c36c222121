"""What a run shows: live progress, `losses.jsonl`, TensorBoard scalars and sample grids."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from instancersr.errors import MissingPackage

PLAIN_INTERVAL = 30.0
"""Seconds between two lines where the output is no terminal."""


class Display:
    """A context in which a run is shown.

    Args:
        folder: the run's output folder.
        total: images at the end.
        start: images already seen; later lines of an interrupted run's log are dropped, they come again.
        shown: whether anything is; of several processes one shows the run.
        wandb: project of Weights & Biases to log to as well.
    """

    def __init__(self, folder: Path, total: int, start: int, shown: bool = True, wandb: str | None = None):
        self.folder, self.total, self.shown = folder, total, shown
        self.console = Console(quiet=not shown)
        self._start = self._shown_images = start
        self._shown_at = time.monotonic()
        self._recent: dict[str, float] = {}
        self._log = self._open_log(folder / "losses.jsonl", start) if shown else None
        self._board = _tensorboard(folder, self.console) if shown else None
        self._wandb = _wandb(folder, wandb) if shown and wandb else None
        self._progress = Progress(
            TextColumn("{task.completed:,.0f} / {task.total:,.0f} images"), BarColumn(),
            TextColumn("{task.fields[rate]:.1f} images/s"), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"), console=self.console, disable=not self.console.is_terminal)
        self._task = self._progress.add_task("train", total=total, completed=start, rate=0.0, terms="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._progress.stop()
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    @staticmethod
    def _open_log(path: Path, start: int):
        kept = []
        if path.exists():
            # a killed run may have left half a line at the end
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["images"] <= start]
        path.write_text("".join(line + "\n" for line in kept))
        return open(path, "a", buffering=1)

    def step(self, images: int, terms: dict[str, float], learning_rate: float) -> None:
        """Records one step. terms: every loss term and their sum."""
        if self._log is None:
            return
        self._log.write(json.dumps({"images": images, **terms}) + "\n")
        for name, value in terms.items():
            self._recent[name] = 0.98 * self._recent.get(name, value) + 0.02 * value
            if self._board is not None:
                self._board.add_scalar(f"loss/{name}", value, images)
        if self._board is not None:
            self._board.add_scalar("learning_rate", learning_rate, images)
        if self._wandb is not None:
            losses = {f"loss/{name}": value for name, value in terms.items()}
            self._wandb.log({"images": images, "learning_rate": learning_rate, **losses})
        text = "  ".join(f"{name} {value:.4f}" for name, value in self._recent.items())
        elapsed = time.monotonic() - self._shown_at
        rate = (images - self._shown_images) / max(elapsed, 1e-9)
        self._progress.update(self._task, completed=images, rate=rate, terms=text)
        if elapsed > PLAIN_INTERVAL:
            if not self.console.is_terminal:
                left = (self.total - images) / max(rate, 1e-9) / 60
                line = f"{images:,} / {self.total:,} images  {rate:.1f} images/s  {left:.0f} min left  {text}"
                self.console.print(line, soft_wrap=True, highlight=False)
            self._shown_images, self._shown_at = images, time.monotonic()

    def look(self, images: int, scores: dict[str, float], rows: list[Tensor]) -> None:
        """Records validation scores and a grid: one row for each of `rows`, (B, 3, H, W) in [0, 1]."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.console.print(f"validation at {images:,} images: {text}", soft_wrap=True, highlight=False)
        with open(self.folder / "validation.jsonl", "a") as file:
            file.write(json.dumps({"images": images, **scores}) + "\n")
        grid = sample_grid(rows)
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        Image.fromarray(grid).save(folder / f"{images:010d}.png")
        if self._board is not None:
            self._board.add_image("samples", grid, images, dataformats="HWC")
            for name, value in scores.items():
                self._board.add_scalar(f"validation/{name}", value, images)
        if self._wandb is not None:
            import wandb

            named = {f"validation/{name}": value for name, value in scores.items()}
            self._wandb.log({"images": images, "samples": wandb.Image(grid), **named})


def sample_grid(rows: list[Tensor]) -> np.ndarray:
    """Rows of (B, 3, H, W) in [0, 1] -> (len(rows) H, B W, 3) uint8."""
    pictures = [row.detach().float().cpu().clamp(0, 1).permute(2, 0, 3, 1).flatten(1, 2) for row in rows]  # (H, BW, 3)
    return np.concatenate([(p.numpy() * 255).round().astype(np.uint8) for p in pictures])


def _tensorboard(folder: Path, console: Console):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("TensorBoard is not installed; scalars go to losses.jsonl alone")
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _wandb(folder: Path, project: str):
    """The run's record at Weights & Biases, the same one after each start."""
    try:
        import wandb
    except ImportError as error:
        raise MissingPackage(error, "wandb") from error
    identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    run = wandb.init(project=project, name=folder.name, id=identity, resume="allow", dir=str(folder))
    run.define_metric("*", step_metric="images")
    return run
