"""The pipeline on its device, for a person: what goes wrong is one line."""

from __future__ import annotations

import os
from typing import Any, Literal

from .jobs import ModelError

Device = Literal["auto", "cpu", "cuda", "mps"]


def load_pipeline(model: str, device: Device = "auto", threads: int | None = None) -> Any:
    """An InstanceRSRPipeline on its device (Any: diffusers hides its methods from type checkers).

    Args:
        model: "builtin", a folder saved by `save_pretrained`, or a hub id.
        threads: of torch on the CPU; None leaves its choice.

    Raises:
        ModelError: the model cannot be loaded, or the device is not there.
    """
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch

    if threads:
        torch.set_num_threads(threads)
    name = pick_device(device)
    try:
        from ..lab.pipeline import InstanceRSRPipeline

        pipe: Any = InstanceRSRPipeline.from_pretrained(model)
        return pipe.to(name)
    except Exception as error:  # the hub, safetensors and JSON have their own exceptions
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(f"cannot load the model {model}: {lines[0]}") from error


def pick_device(device: Device) -> str:
    """The name torch has for it; "auto" is the best that is there.

    Raises:
        ModelError: this machine has no such device.
    """
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[device]:
        raise ModelError(f"torch finds no {device} device on this machine; try --device auto")
    return device
