"""Checkpoints: a folder that torch.distributed.checkpoint writes and one JSON, complete or absent.

Each process writes its own part of the tensors, and reads what it needs of them: a run of two processes goes on with
one, or with four, sharded or not.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict, set_state_dict

from .processes import Processes

PREFIX = "checkpoint-"


@dataclass
class TrainState:
    """Everything that a run needs to go on to the same trajectory.

    model: the trained network (or a ModuleDict of several). ema: a copy of it that holds the average.
    """

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    images: int = 0


def save_checkpoint(folder: Path, state: TrainState, notes: Mapping[str, object], keep: int,
                    processes: Processes) -> Path:
    """Writes `folder/checkpoint-IMAGES` at once (a temporary folder, renamed) and removes all but the last `keep`.

    All processes must call it; they share the file system.
    """
    target = folder / f"{PREFIX}{state.images:010d}"
    partial = folder / f".partial-{target.name}"
    if processes.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    processes.wait()
    _quiet(dcp.save, _tensors(state), partial)  # it flushes what it writes
    if processes.is_main:
        with open(partial / "state.json", "w") as file:
            json.dump({"images": state.images, **notes}, file, indent=1, default=str)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    processes.wait()
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob(PREFIX + "*") if (p / "state.json").exists())


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Puts a checkpoint into `state`.

    Raises:
        ValueError: the checkpoint is of a network of another shape.
    """
    tensors = _tensors(state)
    try:
        _quiet(dcp.load, tensors, checkpoint)
    except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{checkpoint}: does not fit this configuration; use another output folder") from error
    set_state_dict(state.model, state.optimizer, model_state_dict=tensors["model"],
                   optim_state_dict=tensors["optimizer"])
    state.ema.load_state_dict(tensors["ema"])
    state.images = json.loads((checkpoint / "state.json").read_text())["images"]


def load_average(checkpoint: Path, model: nn.Module) -> None:
    """Puts the averaged weights of a checkpoint into a model of the same parts, or of some of them.

    Raises:
        ValueError: the checkpoint is of a network of another shape.
    """
    tensors = {"ema": get_model_state_dict(model)}
    try:
        _quiet(dcp.load, tensors, checkpoint)
    except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{checkpoint}: does not fit its own configuration; it is of another version") from error
    model.load_state_dict(tensors["ema"])


def _tensors(state: TrainState) -> dict[str, Any]:
    """By name, so that neither the order of the parameters nor the number of processes matters."""
    return {"model": get_model_state_dict(state.model), "ema": get_model_state_dict(state.ema),
            "optimizer": get_optimizer_state_dict(state.model, state.optimizer)}


def _quiet(call: Any, tensors: dict[str, Any], folder: Path) -> None:
    """A single process needs no process group; torch warns each time that it has none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        call(tensors, checkpoint_id=folder)
