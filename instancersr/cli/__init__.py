"""The ``instancersr`` command. Heavy imports wait until a command runs: ``--help`` answers at once."""

# isort: off
# In the order of --help.
from . import upscale, train, ablate, merge, export, plan, prepare, evaluate, web, doctor  # noqa: F401
from .app import main

__all__ = ["main"]
