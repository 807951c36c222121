"""The random numbers of a training step: each image's own, so that they do not depend on who computes what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STRIDE = 1_000_003
"""Between the seeds of two runs."""


class Draws:
    """Random numbers for a batch, or for a part of one.

    Image number n of a run draws from a generator seeded by n: one process or many, the whole batch at once or in
    parts, the first attempt or a resumed one, it draws the same. Everything is drawn on the CPU, where the same seed
    gives the same numbers on every machine.

    Args:
        seed: of the run.
        numbers: of the images, one for each sample of the batch.
        step: number of the step's first image.
    """

    def __init__(self, seed: int, numbers: Sequence[int], step: int = 0):
        self.images = [torch.Generator().manual_seed(seed * STRIDE + number) for number in numbers]
        self.shared = torch.Generator().manual_seed(-1 - seed * STRIDE - step)
        """For what all images of the step have in common, such as where LPIPS' window lies."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape), standard normal."""
        return torch.stack([torch.randn(tuple(shape), generator=g) for g in self.images])

    def uniform(self) -> Tensor:
        """(B,) in [0, 1)."""
        return torch.cat([torch.rand(1, generator=g) for g in self.images])

    def integers(self, high: int) -> Tensor:
        """(B,) in 0..high-1."""
        return torch.cat([torch.randint(high, (1,), generator=g) for g in self.images])
