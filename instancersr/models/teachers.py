"""The frozen teacher of Eq. 5 and the projector onto its features."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Projector(nn.Sequential):
    """REPA's MLP from the tokens to the teacher's width: three linear maps, (B, N, D) -> (B, N, T)."""

    def __init__(self, width: int, teacher_width: int, hidden: int = 2048):
        super().__init__(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                         nn.Linear(hidden, teacher_width))


class Dinov2Teacher(nn.Module):
    """A frozen DINOv2 whose patch features lie on the transformer's token grid.

    Args:
        name: hub name (`facebook/dinov2-base`) or local folder in `transformers` layout.
        layer: the block whose tokens are used, counted from 1; None for the last one after its layer norm.

    Raises:
        OSError: the weights are neither in the folder nor in the hub's cache nor can they be fetched.
    """

    def __init__(self, name: str | Path, layer: int | None = None):
        super().__init__()
        from transformers import Dinov2Model

        self.model = Dinov2Model.from_pretrained(name).eval().requires_grad_(False)
        self.layer = layer
        if layer is not None:  # the blocks after it need not run
            self.model.encoder.layer = self.model.encoder.layer[:layer]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])

    @property
    def width(self) -> int:
        """T, the width of the features."""
        return self.model.config.hidden_size

    @torch.no_grad()
    def forward(self, hr: Tensor, grid: tuple[int, int]) -> Tensor:
        """Clean HR photos (B, 3, H, W) in [0, 1] -> (B, grid[0] * grid[1], T), in row order."""
        patch = self.model.config.patch_size
        x = (hr - self.mean) / self.std
        x = F.interpolate(x, (patch * grid[0], patch * grid[1]), mode="bicubic", align_corners=False, antialias=True)
        if self.layer is None:
            tokens = self.model(x).last_hidden_state
        else:  # not last_hidden_state: that has the layer norm which belongs to the last block
            tokens = self.model(x, output_hidden_states=True).hidden_states[-1]
        return tokens[:, -grid[0] * grid[1] :]  # class and register tokens come first
