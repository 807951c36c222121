"""Whether a run still learns: a loss that is no number, or that explodes, ends it before it is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping

from instancersr.errors import UserError

FIRST = 20
"""Steps of a start whose mean loss is what later ones are compared with."""
ADVICE = ("The same command goes on from the last checkpoint; lower optimizer.lr or optimizer.clip, or set "
          "precision=fp32")
PATIENCE = 10
"""Steps in a row with an exploded loss that end a run: one bad batch does not."""


class DivergedError(UserError):
    """A run that has stopped learning; one line."""


class LossWatch:
    """Looks at every step's loss.

    Args:
        limit: a loss is exploded if its terms, signs left off, add up to so many times those of the first steps.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self._first: list[float] = []
        self._bad = 0

    @property
    def healthy(self) -> bool:
        """Whether the last step's state may be saved."""
        return self._bad == 0

    def see(self, images: int, terms: Mapping[str, float], gradient: float) -> None:
        """Takes note of a step.

        Args:
            images: seen before the step.
            terms: of the loss.
            gradient: its gradient's norm, before it is clipped.

        Raises:
            DivergedError: the loss or its gradient is no number, or has been exploded for a while.
        """
        bad = [name for name, value in {**terms, "the gradient": gradient}.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(f"training stopped at {images} images: {', '.join(bad)} is not a number; nothing was "
                                f"saved since the last checkpoint. {ADVICE}")
        size = sum(map(abs, terms.values()))
        if len(self._first) < FIRST:
            self._first.append(size)
            return
        self._bad = self._bad + 1 if size > self.limit * sum(self._first) / FIRST else 0
        if self._bad >= PATIENCE:
            raise DivergedError(f"training stopped at {images} images: the loss is {size:.3g}, more than "
                                f"{self.limit:g} times that of the first steps; nothing was saved since it exploded. "
                                f"{ADVICE}")
