"""Real-world image super-resolution that knows what it is looking at.

Importing this package is light: torch is loaded when something is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lab.pipeline import InstanceRSRPipeline, upscale

__all__ = ["InstanceRSRPipeline", "upscale"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".lab.pipeline", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
