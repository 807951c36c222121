"""The ControlNet branch (Zhang et al., 2023, arXiv:2302.05543) that guides JointDiT by the LR photo's latent."""

from __future__ import annotations

import copy

import torch
import torch.utils.checkpoint
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .transformer import NORM_EPS, DiTBlock, JointDiT, PatchEmbed, initialize_blocks


class ControlNet(ModelMixin, ConfigMixin):
    """Copies of the backbone's first blocks, fed with the backbone's tokens and z_y (paper, Eq. 3).

    The condition enters through a zero-initialised linear map, and each block's output leaves through another, so
    at the start the branch adds exactly nothing.

    Args:
        condition_channels: channels of z_y.
        patch_size, width, heads, mlp_ratio, mlp_norm_eps: as the backbone's.
        depth: number of blocks copied, at most the backbone's depth.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, condition_channels: int = 32, patch_size: int = 2, width: int = 320, depth: int = 3,
                 heads: int = 5, mlp_ratio: float = 4.0, mlp_norm_eps: float = NORM_EPS):
        super().__init__()
        self.condition_embedder = PatchEmbed(condition_channels, patch_size, width)
        self.condition_proj = _zero_linear(width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio, mlp_norm_eps) for _ in range(depth))
        self.out_proj = nn.ModuleList(_zero_linear(width) for _ in range(depth))
        self.gradient_checkpointing = False
        initialize_blocks(self.blocks)

    @classmethod
    def from_backbone(cls, backbone: JointDiT, condition_channels: int, depth: int) -> ControlNet:
        """A branch whose blocks start as copies of the backbone's first `depth` blocks.

        Raises:
            ValueError: the backbone has fewer blocks.
        """
        config = backbone.config
        if not 1 <= depth <= config.depth:
            raise ValueError(f"ControlNet: depth must be 1..{config.depth}, the backbone's, not {depth}")
        branch = cls(condition_channels, config.patch_size, config.width, depth, config.heads, config.mlp_ratio,
                     config.mlp_norm_eps)
        branch.blocks = nn.ModuleList(copy.deepcopy(block) for block in backbone.blocks[:depth])
        return branch

    def forward(self, tokens: Tensor, conditioning: Tensor, z_y: Tensor) -> list[Tensor]:
        """The features to add to the backbone.

        Args:
            tokens: (B, N, D), from `JointDiT.embed`.
            conditioning: (B, D), likewise.
            z_y: (B, condition_channels, h, w), the latent of the (restored) LR photo.

        Returns:
            One (B, N, D) for each block.
        """
        x = tokens + self.condition_proj(self.condition_embedder(z_y))
        features = []
        for block, project in zip(self.blocks, self.out_proj, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, conditioning, use_reentrant=False)
            else:
                x = block(x, conditioning)
            features.append(project(x))
        return features


def _zero_linear(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
