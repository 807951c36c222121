"""A model is a folder: `model_index.json`, a folder for each network, and the graphs for ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import first_line
from .recipe import Defaults
from .sampling import Schedule

BUILTIN = Path(__file__).parent / "weights"
INDEX = "model_index.json"
GRAPHS = ("restore", "encode", "denoise", "decode", "finish", "decode_map", "pair_odds")
"""What the graphs of a model compute, each in NAME.onnx: the methods of an engine. `finish` is there with a detail
decoder, `pair_odds` with a map decoder."""


@dataclass(frozen=True)
class Model:
    """A folder with a model, and what its JSON files say."""

    folder: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        """`model_index.json`: settings, and [library, class] of each part.

        Raises:
            OSError: the file cannot be read, or says something else.
        """
        index = read_json(self.folder / INDEX)
        if any(isinstance(each, list) and len(each) != 2 for each in index.values()):
            raise OSError(f"{self.folder / INDEX}: not the index of a model, which has [library, class] for each part; "
                          "get a fresh copy")
        return index

    def has(self, part: str) -> bool:
        """Whether the model has this part."""
        entry = self.index.get(part)
        return isinstance(entry, list) and entry[1] is not None

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a network."""
        return read_json(self.folder / part / "config.json")

    @property
    def defaults(self) -> Defaults:
        named = {"default_steps": "steps", "default_fidelity": "fidelity", "default_quality": "quality"}
        return Defaults(**{name: self.index[key] for key, name in named.items() if key in self.index})

    @property
    def schedule(self) -> Schedule:
        return Schedule.from_config(read_json(self.folder / "scheduler" / "scheduler_config.json"),
                                    self.index.get("anchor_steps"))

    def graph(self, name: str) -> Path:
        """The file of one of GRAPHS."""
        return self.folder / f"{name}.onnx"

    @property
    def has_graphs(self) -> bool:
        """Whether the onnx engine can run it."""
        return self.graph("denoise").is_file()


def read_json(path: Path) -> dict[str, Any]:
    """The keys and values of a model's file.

    Raises:
        OSError: it cannot be read, or holds something else; names the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path}: no valid JSON ({first_line(error)}); get a fresh copy") from error
    if not isinstance(values, dict):
        raise OSError(f"{path}: JSON without keys and values; get a fresh copy")
    return values


def find_model(name: str) -> Model:
    """The model "builtin", of a folder, or of a hub id that is cached or can be fetched.

    Raises:
        OSError: there is no such model.
    """
    if not name:
        raise OSError("its name is empty; 'builtin' is the one in this package")
    folder = BUILTIN if name == "builtin" else Path(name)
    if (folder / INDEX).is_file():
        return Model(folder)
    if (folder / "run.json").is_file() or any(folder.glob("checkpoint-*")):
        raise OSError(f"{folder}: this is a training run; make a model of it with: instancersr export {folder} OUT")
    if name == "builtin" or folder.exists():
        raise OSError(f"{folder}: no model here ({INDEX} is missing)")
    try:
        from huggingface_hub import snapshot_download

        return Model(Path(snapshot_download(name)))
    except ImportError as error:
        raise OSError(f"{name}: no such folder; to fetch models from the hub: pip install huggingface_hub") from error
    except Exception as error:  # the hub's client raises many kinds: bad name, no network, no such repository
        raise OSError(f"{name}: neither a folder with a model nor a hub model that can be fetched now") from error
