"""Checkpoints: a folder that torch.distributed.checkpoint writes, one JSON and the model, complete or absent.

A checkpoint is a model: `checkpoint-IMAGES/model` has the averaged weights as `from_pretrained` reads them, so a run
can be used at any time, also one that was killed.

Each process writes its own part of the tensors, and reads what it needs of them: a run of two processes goes on with
one, or with four, sharded or not.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instancersr.errors import UserError, is_out_of_memory
from instancersr.files import replace_folder

from .processes import Processes

# torch.distributed.checkpoint is imported by what writes and reads: it takes as long as the first step of a small run.

PREFIX = "checkpoint-"
MODEL = "model"
"""Folder of the averaged model, in a checkpoint and, at the end, in the run."""


@dataclass
class TrainState:
    """Everything that a run needs to go on to the same trajectory.

    model: the trained network (or a ModuleDict of several). ema: a copy of it that holds the average.
    """

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    images: int = 0


def save_checkpoint(folder: Path, state: TrainState, notes: Mapping[str, object], keep: int, processes: Processes,
                    export: Callable[[Path], None] | None = None) -> Path:
    """Writes `folder/checkpoint-IMAGES` at once (a temporary folder, renamed) and removes all but the last `keep`.

    All processes must call it; they share the file system.

    Args:
        export: writes the averaged model into the folder it is given.
    """
    import torch.distributed.checkpoint as dcp

    target = folder / f"{PREFIX}{state.images:010d}"
    partial = folder / f".partial-{target.name}"
    if processes.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    processes.wait()
    if export is not None:
        export(partial / MODEL)
    _quiet(dcp.save, _tensors(state), partial)  # it flushes what it writes
    if processes.is_main:
        with open(partial / "state.json", "w") as file:
            json.dump({"images": state.images, **notes}, file, indent=1, default=str)
            file.flush()
            os.fsync(file.fileno())
        replace_folder(partial, target)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    processes.wait()
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob(PREFIX + "*") if (p / "state.json").exists())


def newest_model(run: Path) -> Path:
    """The averaged model of a run's last checkpoint: finished, stopped or killed, it is the newest complete one.

    Raises:
        UserError: the folder is no run, or none of its checkpoints has a model yet.
    """
    models = [checkpoint / MODEL for checkpoint in list_checkpoints(run)]
    for model in [*reversed(models), run / MODEL]:  # a run that had nothing to train has no checkpoint
        if model.is_dir():
            return model
    if not (run / "run.json").exists():
        raise UserError(f"{run}: no run of `instancersr train`")
    raise UserError(f"{run}: no checkpoint with a model yet; the first comes after log.checkpoint_images images")


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Puts a checkpoint into `state`.

    Raises:
        ValueError: the checkpoint is of a network of another shape, or damaged.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import set_state_dict

    tensors = _tensors(state)
    try:
        saved = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
        shapes = {name: tuple(getattr(entry, "size", ())) for name, entry in saved.items()}
        if any(shapes.get(name) != tuple(tensor.shape) for name, tensor in _flat(tensors)):
            raise ValueError(f"{checkpoint}: does not fit this configuration; use another output folder, or init to "
                             "begin from its model")
        _quiet(dcp.load, tensors, checkpoint)
    except (CheckpointException, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{checkpoint}: is damaged; move it away, and the same command goes on from the checkpoint "
                         "before it, or from the beginning") from error
    set_state_dict(state.model, state.optimizer, model_state_dict=tensors["model"],
                   optim_state_dict=tensors["optimizer"])
    state.ema.load_state_dict(tensors["ema"])
    state.images = json.loads((checkpoint / "state.json").read_text())["images"]


def _flat(tensors: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors by the names that they have in a checkpoint."""
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, Tensor):
            yield f"{before}{name}", value


def _tensors(state: TrainState) -> dict[str, Any]:
    """By name, so that neither the order of the parameters nor the number of processes matters."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    return {"model": get_model_state_dict(state.model), "ema": get_model_state_dict(state.ema),
            "optimizer": get_optimizer_state_dict(state.model, state.optimizer)}


def _quiet(call: Any, tensors: dict[str, Any], folder: Path) -> None:
    """A single process needs no process group; torch warns each time that it has none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        call(tensors, checkpoint_id=folder)
