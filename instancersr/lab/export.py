"""A training run, or a pipeline, becomes a model that an upscale runs without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load, save_file
from torch import Tensor

from ..denoising import GRAIN_PARTS
from ..doctor import CHECKSUMS, checksums, read_checksums, write_checksums
from ..errors import UserError
from ..files import whole_folder
from ..model import INDEX, Model, find_model, read_json
from ..tensors import same_shapes, stored_tensors
from .graphs import write_graphs
from .merging import load_pipeline
from .method.models import BlockAutoencoder, MapDecoder, RestorationNetwork
from .training.checkpoint import MODEL, PREFIX, newest_model

PARTS: dict[str, tuple[str, Any]] = {
    "BlockAutoencoder": ("autoencoder", BlockAutoencoder),
    "RestorationNetwork": ("restoration", RestorationNetwork),
    "MapDecoder": ("map_decoder", MapDecoder),
}
"""Class of what a training run of one part leaves -> that part of a model."""
COMPACT = {"restoration": torch.float16, "detail_decoder": torch.float16, "transformer": torch.bfloat16,
           "controlnet": torch.bfloat16} | dict.fromkeys(GRAIN_PARTS.values(), torch.float16)
"""Part -> in what its weights are stored where the model is to be small."""
EIGHT_BITS = ("transformer", "controlnet")
"""Parts whose large matrices then have float8 E4M3, the type that diffusers' layerwise casting keeps weights in."""
LARGE = 2**15
"""Numbers from which a matrix is large."""


def export(source: str, output: Path, base: str = "builtin", grain: str | None = None, compact: bool = False) -> None:
    """Writes a model with its graphs.

    Args:
        source: the folder of a training run (finished, stopped or killed: its last checkpoint is taken), one of its
            checkpoints, or what `find_model` takes.
        output: a folder that does not exist yet.
        base: for a run that trains one part alone, the model whose other parts it gets.
        grain: a model, as for `source`, that leaves noise and grain in: its restoration network and detail decoder
            become the grain parts, which the control `denoise` needs. They are stored in half precision.
        compact: store weights in half precision, large matrices of transformer and control branch in 8 bits.

    Raises:
        UserError: the run has no checkpoint with a model, the model is damaged, `output` exists or lies in the model,
            or the grain's networks have other shapes.
        OSError: there is no such model.
    """
    trained = _trained(Path(source))
    copied = find_model(source).folder if trained is None else trained
    is_whole = (copied / INDEX).is_file()
    if is_whole and output.resolve().is_relative_to(copied.resolve()):
        raise UserError(f"{output}: lies in the model {copied}, which would be copied into itself; name a folder "
                        "outside it")
    with whole_folder(output) as folder:
        if is_whole:
            load_pipeline(str(copied))  # what is damaged is named where it lies, not in the copy
            shutil.copytree(copied, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.onnx", ".git*"))
        else:
            _complete(copied, folder, base)
        if grain is not None:
            _add_grain(Model(folder), grain)
        if compact:
            _make_compact(Model(folder))
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
    """The one part that a run trained, among the other parts of a model; grain parts went with the part before it."""
    kind = read_json(trained / "config.json").get("_class_name")
    if kind not in PARTS:
        raise UserError(f"{trained}: no model that this version can export ({kind})")
    name, part = PARTS[kind]
    network = part.from_pretrained(trained, low_cpu_mem_usage=False).eval()
    parts = {name: network} | (dict.fromkeys(GRAIN_PARTS.values()) if name in GRAIN_PARTS else {})
    load_pipeline(base, **parts).save_pretrained(folder)


def _add_grain(model: Model, grain: str) -> None:
    """Puts the networks of another model into this one as its grain parts, and into its record of checksums."""
    trained = _trained(Path(grain))
    if trained is not None and not (trained / INDEX).is_file():
        raise UserError(f"{grain}: this run trained one part alone; make a model of it first with: "
                        f"instancersr export {grain} OUT")
    other = find_model(grain if trained is None else str(trained))
    load_pipeline(str(other.folder))  # what is damaged is named
    present = [part for part in GRAIN_PARTS if model.has(part)]
    if not present:
        raise UserError("--grain: this model has neither a restoration network nor a detail decoder")
    for part in present:
        own, tensors = (stored_tensors(each.folder / part) for each in (model, other))
        if not same_shapes(own, tensors):
            raise UserError(f"{grain}: its {part} has not the shape of this model's")
        folder = model.folder / GRAIN_PARTS[part]
        folder.mkdir(exist_ok=True)
        save_file({name: torch.from_numpy(each.read()).half() for name, each in tensors.items()},
                  folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})
        config = {key: value for key, value in other.config(part).items() if key != "_name_or_path"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    index = model.index | {GRAIN_PARTS[part]: model.index[part] for part in present}
    (model.folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    _record(model, GRAIN_PARTS.values())


def _make_compact(model: Model) -> None:
    """Rounds the weights of a model's files."""
    for part, dtype in COMPACT.items():
        for file in model.folder.glob(f"{part}/*.safetensors"):
            weights = load(file.read_bytes())  # in memory: the file itself is written anew
            save_file({name: _rounded(weight, dtype, part in EIGHT_BITS) for name, weight in weights.items()}, file,
                      {"format": "pt"})
    _record(model, COMPACT)


def _rounded(weight: Tensor, dtype: torch.dtype, eight_bits: bool) -> Tensor:
    """In the smallest type that holds all of it; what has as few bits already stays as it is."""
    large = eight_bits and weight.dim() == 2 and weight.numel() >= LARGE
    for smaller in [torch.float8_e4m3fn] * large + [dtype]:
        if weight.element_size() > smaller.itemsize and weight.float().abs().max() <= torch.finfo(smaller).max:
            return weight.to(smaller)
    return weight


def _record(model: Model, parts: Iterable[str]) -> None:
    """Puts the files of these parts into the model's record of checksums, where it has one."""
    if (model.folder / CHECKSUMS).is_file():
        new = {name: digest for name, digest in checksums(model.folder).items() if name.split("/")[0] in parts}
        write_checksums(model.folder, read_checksums(model.folder) | new)
