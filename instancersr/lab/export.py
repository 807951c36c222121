"""A training run, or a pipeline, becomes a model that an upscale runs without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import whole_folder
from ..model import INDEX, find_model
from .graphs import write_graphs
from .method.models import BlockAutoencoder, MapDecoder, RestorationNetwork
from .pipeline import InstanceRSRPipeline
from .training.checkpoint import MODEL, PREFIX, newest_model

PARTS: dict[str, tuple[str, Any]] = {
    "BlockAutoencoder": ("autoencoder", BlockAutoencoder),
    "RestorationNetwork": ("restoration", RestorationNetwork),
    "MapDecoder": ("map_decoder", MapDecoder),
}
"""Class of what a training run of one part leaves -> that part of a model."""


def export(source: str, output: Path, base: str = "builtin") -> None:
    """Writes a model with its graphs.

    Args:
        source: the folder of a training run (finished, stopped or killed: its last checkpoint is taken), one of its
            checkpoints, or what `find_model` takes.
        output: a folder that does not exist yet.
        base: for a run that trains one part alone, the model whose other parts it gets.

    Raises:
        UserError: the run has no checkpoint with a model, or `output` exists.
        OSError: there is no such model.
    """
    trained = _trained(Path(source))
    with whole_folder(output) as folder:
        if trained is None or (trained / INDEX).is_file():
            shutil.copytree(trained or find_model(source).folder, folder, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.onnx", ".git*"))
        else:
            _complete(trained, folder, base)
        write_graphs(folder)


def _trained(folder: Path) -> Path | None:
    """What a training run or one of its checkpoints holds; None where the folder is neither."""
    if folder.name.startswith(PREFIX) and (folder / "state.json").is_file():
        if not (folder / MODEL).is_dir():
            raise UserError(f"{folder}: this checkpoint has no model; go on with its run for one step")
        return folder / MODEL
    if (folder / "run.json").is_file() and not (folder / INDEX).is_file():
        return newest_model(folder)
    return None


def _complete(trained: Path, folder: Path, base: str) -> None:
    """The one part that a run trained, among the other parts of a model."""
    kind = json.loads((trained / "config.json").read_text()).get("_class_name")
    if kind not in PARTS:
        raise UserError(f"{trained}: no model that this version can export ({kind})")
    name, part = PARTS[kind]
    network = part.from_pretrained(trained, low_cpu_mem_usage=False).eval()
    InstanceRSRPipeline.from_pretrained(base, **{name: network}).save_pretrained(folder)
