"""A training run, or a pipeline, becomes a model that an upscale runs without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ..errors import UserError
from ..files import whole_folder
from ..model import INDEX, find_model
from .graphs import write_graphs
from .pipeline import InstanceRSRPipeline
from .training.checkpoint import PREFIX, list_checkpoints, load_average
from .training.config import AnyTrainConfig
from .training.trainer import OBJECTIVES

ONE_PART = {"autoencoder": "autoencoder", "restoration": "restoration", "map": "map_decoder"}
"""Task of a training run -> the only part of a model that it trains."""


def export(source: str, output: Path, base: str = "builtin") -> None:
    """Writes a model with its graphs.

    Args:
        source: the folder of a training run (finished, stopped or killed: its last checkpoint is taken), one of its
            checkpoints, or what `find_model` takes.
        output: a folder that does not exist yet.
        base: for a run that trains one part alone, the model whose other parts it gets.

    Raises:
        UserError: the run has no checkpoint, its configuration is of another version, or `output` exists.
        OSError: there is no such model.
    """
    checkpoint = _last_checkpoint(Path(source))
    with whole_folder(output) as folder:
        if checkpoint is None:
            shutil.copytree(find_model(source).folder, folder, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.onnx", ".git*"))
        else:
            _assemble(checkpoint, folder, base)
        write_graphs(folder)


def _last_checkpoint(folder: Path) -> Path | None:
    """Of a training run; None where the folder is none."""
    if folder.name.startswith(PREFIX) and (folder / "state.json").is_file():
        return folder
    found = list_checkpoints(folder)
    if not found and (folder / "run.json").is_file() and not (folder / INDEX).is_file():
        raise UserError(f"{folder}: this run has no checkpoint yet; wait for the first, or lower log.checkpoint_images")
    return found[-1] if found else None


def _assemble(checkpoint: Path, folder: Path, base: str) -> None:
    """The averaged networks of a checkpoint, and what they were trained with, as a pipeline."""
    notes = json.loads((checkpoint / "state.json").read_text())
    config = _without_losses(_configuration(notes["config"], checkpoint))
    objective = OBJECTIVES[config.task](config)
    try:
        load_average(checkpoint, objective.model)
    except ValueError as error:
        raise UserError(str(error)) from error
    part = ONE_PART.get(config.task)
    if part is None:
        if notes.get("residual_std"):
            objective.model["transformer"].register_to_config(residual_std=notes["residual_std"])
        objective.export(objective.model.eval(), folder)
        return
    objective.export(objective.model.eval(), folder / "trained")
    pipeline: Any = InstanceRSRPipeline.from_pretrained(config.pipeline if config.task == "map" else base)
    trained = type(objective.model).from_pretrained(folder / "trained", low_cpu_mem_usage=False).eval()
    shutil.rmtree(folder / "trained")
    type(pipeline)(**(pipeline.components | _settings(pipeline) | {part: trained})).save_pretrained(folder)


def _configuration(values: dict[str, Any], checkpoint: Path) -> AnyTrainConfig:
    kinds: Any = Annotated[AnyTrainConfig, Field(discriminator="task")]
    try:
        return TypeAdapter(kinds).validate_python(values)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{checkpoint}: its configuration is of another version ({where})") from error


def _settings(pipeline: Any) -> dict[str, Any]:
    return {key: pipeline.config[key] for key in ("default_steps", "default_fidelity", "default_quality")}


def _without_losses(config: AnyTrainConfig) -> AnyTrainConfig:
    """The configuration without what is only needed to train: teachers and judges, which may not be here."""
    if config.task == "restoration":
        return config.model_copy(update={"perceptual": config.perceptual.model_copy(update={"weight": 0.0})})
    if config.task == "diffusion":
        quiet = config.sampler.perceptual.model_copy(update={"weight": 0.0})
        sampler = config.sampler.model_copy(update={"perceptual": quiet, "adversarial_weight": 0.0})
        alignment = config.alignment.model_copy(update={"teacher": None})
        return config.model_copy(update={"sampler": sampler, "alignment": alignment})
    return config
