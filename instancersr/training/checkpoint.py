"""Checkpoints: a folder of safetensors and one JSON, complete or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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


def save_checkpoint(folder: Path, state: TrainState, notes: Mapping[str, object], keep: int) -> Path:
    """Writes `folder/checkpoint-IMAGES` at once (a temporary folder, renamed) and removes all but the last `keep`."""
    target = folder / f"{PREFIX}{state.images:010d}"
    partial = folder / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_contiguous(state.model.state_dict()), partial / "model.safetensors")
    save_file(_contiguous(state.ema.state_dict()), partial / "ema.safetensors")
    save_file(_optimizer_tensors(state), partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps({"images": state.images, **notes}, indent=1, default=str))
    _flush(partial)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob(PREFIX + "*") if (p / "state.json").exists())


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Puts a checkpoint into `state`.

    Raises:
        ValueError: the checkpoint is of a network of another shape.
    """
    try:
        state.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        state.ema.load_state_dict(load_file(checkpoint / "ema.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: does not fit this configuration; use another output folder") from error
    tensors = load_file(checkpoint / "optimizer.safetensors")
    for name, parameter in _trained(state.model):
        moments = {key: tensors[f"{name}/{key}"] for key in ("exp_avg", "exp_avg_sq", "step")
                   if f"{name}/{key}" in tensors}
        if moments:
            state.optimizer.state[parameter] = {
                key: value.to(parameter.device) if key != "step" else value for key, value in moments.items()}
    state.images = json.loads((checkpoint / "state.json").read_text())["images"]


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    return {f"{name}/{key}": value.contiguous()
            for name, parameter in _trained(state.model)
            for key, value in state.optimizer.state.get(parameter, {}).items()}


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _flush(folder: Path) -> None:
    """A renamed folder must not be found with empty files after a power cut."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
