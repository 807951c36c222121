"""What is asked of an upscale: a call's arguments, checked, with the model's defaults in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import get_args

from .color import COLOR_FIXES
from .geometry import SCALE, SMALLEST
from .presets import Quality

QUALITIES: tuple[Quality, ...] = get_args(Quality)
"""fast: the photo is drawn without a sample. balanced: the model's own number. best: BEST_STEPS, and fidelity 0."""
BEST_STEPS = 4


@dataclass(frozen=True)
class Defaults:
    """What a model does where the call does not say: sampling steps, fidelity, one of QUALITIES."""

    steps: int = 4
    fidelity: float = 0.0
    quality: Quality = "balanced"


@dataclass(frozen=True)
class Recipe:
    """A call's arguments, checked, with the model's defaults in.

    from_sample: whether the photo is drawn from a sample, or else from y-hat alone. maps: whether instances are wanted.
    keep: whether edits may follow. layer: of the noise, 1 for the second pass of an enlargement beyond the model's own.
    The others are as in `Upscaler.__call__`.
    """

    scale: float
    steps: int
    seed: int
    start_from: str
    fidelity: float
    strength: float
    color_fix: str
    tile: int | None
    tile_batch: int
    overlap: int
    from_sample: bool
    maps: bool
    keep: bool
    denoise: float | None = None
    cleaning: float = 0.0
    layer: int = 0

    @property
    def shown(self) -> float:
        """The fidelity that fidelity and strength together ask for."""
        return 1 - self.strength * (1 - self.fidelity) if self.strength != 1 else self.fidelity

    @property
    def fidelities(self) -> set[float]:
        """Those of the pictures that are made: for edits also the two ends of a strength."""
        return {self.shown, self.fidelity, 1.0} if self.keep else {self.shown}

    @property
    def samples(self) -> bool:
        """Whether a sample is needed at all."""
        return self.maps or self.keep or (self.from_sample and self.shown < 1)


def check(recipe: Recipe) -> None:
    """Raises a ValueError that names the first argument that is out of its range."""
    for name in ("scale", "fidelity", "strength", "denoise", "cleaning"):
        check_number(name, getattr(recipe, name))
    for name in ("steps", "seed", "tile", "tile_batch", "overlap"):
        check_number(name, getattr(recipe, name), Integral)
    if not 1 <= recipe.scale <= SCALE**2:
        raise ValueError(f"scale must be 1 to {SCALE**2}, not {recipe.scale}")
    if recipe.steps < 1:
        raise ValueError(f"num_inference_steps must be 1 or more, not {recipe.steps}")
    if not 0 <= recipe.seed < 2**64:
        raise ValueError(f"seed must be 0 to 2^64 - 1, not {recipe.seed}")
    check_choice("start_from", recipe.start_from, ("noise", "lr"))
    if recipe.denoise is not None and not 0 <= recipe.denoise <= 1:  # the fidelity may follow from it
        raise ValueError(f"denoise must be 0 to 1, or None for the model's own, not {recipe.denoise}")
    for name in ("fidelity", "strength", "cleaning"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise ValueError(f"{name} must be 0 to 1, not {getattr(recipe, name)}")
    check_choice("color_fix", recipe.color_fix, COLOR_FIXES)
    if recipe.tile is not None and recipe.tile < SMALLEST:
        raise ValueError(f"tile must be at least {SMALLEST}, not {recipe.tile}")
    if recipe.tile_batch < 1:
        raise ValueError(f"tile_batch must be 1 or more, not {recipe.tile_batch}")
    if recipe.overlap < 0:
        raise ValueError(f"overlap must be 0 or more, not {recipe.overlap}")


def check_number(name: str, value: object, kind: type = Real) -> None:
    """Raises a ValueError where the value of the argument with this name, if there is one, is no such number."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} must be a {'whole ' if kind is Integral else ''}number, not {value!r}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ValueError where the value of the argument with this name is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
