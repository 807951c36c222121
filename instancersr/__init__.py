"""Real-world image super-resolution that knows what it is looking at.

Importing this package is light: everything else is loaded when something is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lab.pipeline import InstanceRSRPipeline
    from .loading import upscale

__all__ = ["InstanceRSRPipeline", "upscale"]

_HOMES = {"upscale": ".loading", "InstanceRSRPipeline": ".lab.pipeline"}
"""Name -> module. The pipeline needs the extra `torch`."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
