"""What research needs: the method, its training, its data, its evaluation.

Importing this package is light: torch is loaded when something is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .method.degradation import degrade
    from .method.losses import (
        denoising_loss,
        dispersive_loss,
        instance_scale_loss,
        representation_alignment_loss,
    )
    from .method.models import ControlNet, JointDiT
    from .method.models.pretrained import load_dit

__all__ = ["ControlNet", "JointDiT", "degrade", "denoising_loss", "dispersive_loss", "instance_scale_loss", "load_dit",
           "representation_alignment_loss"]

_HOMES = {
    "degrade": "degradation",
    "denoising_loss": "losses", "representation_alignment_loss": "losses", "instance_scale_loss": "losses",
    "dispersive_loss": "losses",
    "JointDiT": "models", "ControlNet": "models", "load_dit": "models.pretrained",
}  # fmt: skip
"""Name -> module in `method`."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".method.{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
