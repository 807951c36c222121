"""The instances of a network's patches."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_ids(ids: Tensor, grid: tuple[int, int]) -> Tensor:
    """The instance that most pixels of each patch belong to.

    Args:
        ids: (B, H, W) integers.
        grid: rows and columns of patches; they divide H and W.

    Returns:
        (B, grid[0] * grid[1]) int64 in row order; 0 where most pixels have no instance.
    """
    batch, height, width = ids.shape
    cells = ids.reshape(batch, grid[0], height // grid[0], grid[1], width // grid[1])
    cells = cells.permute(0, 1, 3, 2, 4).reshape(batch, grid[0] * grid[1], -1)
    return torch.mode(cells.long(), dim=-1).values
