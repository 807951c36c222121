"""The engine on ONNX Runtime: graphs whose weights are the model's own safetensors files, opened when needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..cores import usable_cores
from ..denoising import MIXED_GRAPHS, MIXTURES, denoises, mix_weights
from ..errors import UserError, is_out_of_memory
from ..model import Model

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "rocm": "ROCMExecutionProvider",
             "directml": "DmlExecutionProvider", "coreml": "CoreMLExecutionProvider",
             "openvino": "OpenVINOExecutionProvider"}
"""Device -> the execution provider that computes there."""
AUTOMATIC = ("cuda", "rocm", "directml", "cpu")
"""Devices that are taken unasked, the best first. CoreML and OpenVINO compile for each size of tile, which takes longer
than most photos."""
FATAL = 4
"""Level of ONNX Runtime's log from which it writes on stderr: what goes wrong is in its exceptions as well."""


ort.set_default_logger_severity(FATAL)


@dataclass(frozen=True)
class SessionSettings:
    """How sessions are opened.

    device: one of PROVIDERS. threads: of the CPU, None for ONNX Runtime's choice.
    shared: whether other work needs the cores too, so that idle threads must not spin.
    """

    device: str = "cpu"
    threads: int | None = None
    shared: bool = False


def pick_device(device: str) -> str:
    """The device for a name; "auto" is the best that the installed ONNX Runtime has.

    Raises:
        UserError: this ONNX Runtime has no provider for it.
    """
    present = [name for name, provider in PROVIDERS.items() if provider in ort.get_available_providers()]
    if device == "auto":
        return next(name for name in AUTOMATIC if name in present)
    if device not in present:
        raise UserError(f"onnxruntime {ort.__version__} has no {device} here, only {', '.join(present)}; "
                        "try --device auto")
    return device


def open_session(graph: Path, settings: SessionSettings, weights: Mapping[str, np.ndarray] | None = None,
                 ) -> ort.InferenceSession:
    """A graph, ready to run.

    Args:
        graph: an .onnx file; its weights are read from the files that it points into.
        settings: where and how to compute.
        weights: tensors in their place, by the names of the graph's initializers (PART.NAME in the safetensors file of
            the part), of the dtype and shape of those; bfloat16 as uint16. They must live as long as the session. Those
            that the graph does not hold are left out.
    """
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = settings.threads or own_threads()
    if settings.shared:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights:
        text = graph.read_bytes()  # has the names of its initializers as they are
        held = {name: value for name, value in weights.items() if name.encode() in text}
        values = [ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value, _onnx_type(value)) for value in held.values()]
        options.add_external_initializers(list(held), values)
    providers = list(dict.fromkeys([PROVIDERS[settings.device], PROVIDERS["cpu"]]))
    return ort.InferenceSession(graph, options, providers=providers)


def _onnx_type(value: np.ndarray) -> int:
    return {"float32": 1, "float16": 10, "uint16": 16}[value.dtype.name]  # numbers of TensorProto.DataType


def own_threads() -> int:
    """Threads of a session where nobody says how many.

    0 leaves the number to ONNX Runtime, which then also binds threads to cores, so it must be free to use all of them.
    """
    usable = usable_cores()
    return 0 if usable == os.cpu_count() else usable


class Sessions:
    """The sessions of a model's graphs, each opened when it is first asked for. Threads may share them.

    Args:
        weights: in place of the model's own, as for `open_session`.
    """

    def __init__(self, model: Model, settings: SessionSettings, weights: Mapping[str, np.ndarray] | None = None):
        self._model, self._settings, self._weights = model, settings, weights
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()

    def __getitem__(self, graph: str) -> ort.InferenceSession:
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = open_session(self._model.graph(graph), self._settings, self._weights)
            return self._sessions[graph]


class OnnxEngine:
    """See `Engine`.

    Args:
        model: with graphs.
        settings: where and how to compute.
    """

    name = "onnx"
    precision = "float32"

    def __init__(self, model: Model, settings: SessionSettings):
        self._model, self._settings = model, settings
        self._sessions = self._mixed = Sessions(model, settings)
        self._mixtures = lru_cache(MIXTURES)(self._mixture)
        transformer = model.config("transformer")
        self.device = settings.device
        self.latent_channels = transformer["in_channels"] // 2
        self.spread_positions = transformer["base_grid"] is not None
        self.finishes = model.has("detail_decoder")
        self.pair_features = model.config("map_decoder")["features"] if model.has("map_decoder") else 0
        self.denoises = denoises(model)

    def denoising(self, denoise):
        return self._mixtures(denoise)

    def _mixture(self, denoise: float) -> OnnxEngine:
        mixture = copy(self)
        mixture._mixed = Sessions(self._model, self._settings, mix_weights(self._model, denoise))
        return mixture

    def restore(self, y):
        out = self._run("restore", y=y)
        return out.get("features"), out["restored"]

    def encode(self, pictures):
        return self._run("encode", pictures=pictures)["latents"]

    def denoise(self, z_t, z_y, timestep, offset):
        batch = len(z_t)
        out = self._run("denoise", z_t=z_t, z_y=z_y, timestep=np.full(batch, timestep, np.int64),
                        offset=np.tile(np.array([offset], np.int64), (batch, 1)))
        return out["clean"], out.get("tokens")

    def decode(self, z_x, features, tokens):
        return self._run("decode", z_x=z_x, features=features, tokens=tokens)["photo"]

    def finish(self, restored, features):
        return self._run("finish", restored=restored, features=features)["photo"]

    def decode_map(self, z_m):
        return self._run("decode_map", z_m=z_m)["map"]

    def pair_odds(self, pairs):
        return self._run("pair_odds", pairs=pairs)["odds"]

    def _run(self, graph: str, **inputs: np.ndarray | None) -> dict[str, np.ndarray]:
        session = (self._mixed if graph in MIXED_GRAPHS else self._sessions)[graph]
        given = {each.name: np.ascontiguousarray(inputs[each.name]) for each in session.get_inputs()}
        names = [each.name for each in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, given), strict=True))
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            if is_out_of_memory(error):
                raise MemoryError("not enough memory for a tile") from error
            raise
