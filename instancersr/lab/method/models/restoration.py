"""The restoration network y -> y-hat: takes blur, noise and JPEG away before the transformer sees the photo."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """conv-ReLU-conv with a skip, without normalisation, as in EDSR (Lim et al., 2017)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class CoarseBranch(nn.Module):
    """Residual blocks at half the resolution: blotches of noise and JPEG's blocks are wider than fine blocks see.

    DMCNN (Zhang et al., 2018, "DMCNN: Dual-domain multi-scale convolutional neural network for compression artifacts
    removal") takes JPEG off at two scales for the same reason. It adds nothing until it is trained.
    """

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 2, stride=2)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.up = nn.Conv2d(channels, 4 * channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> what is to be added to it, of the same shape; h and w are even."""
        return F.pixel_shuffle(self.up(self.body(self.down(features))), 2)


class RestorationNetwork(ModelMixin, ConfigMixin):
    """A residual network at the LR's resolution, one pixel shuffle, added to the bicubic enlargement.

    Its first stage of life is regression (L1), so y-hat is the faithful end of the fidelity scale; DiffBIR
    (Lin et al., 2023) puts such a network in front of its diffusion model for the same reason.

    Args:
        channels: width of the residual blocks.
        blocks: number of residual blocks.
        scale: enlargement.
        coarse_blocks: number of residual blocks at half the resolution, in front of the others; 0: no such branch.
    """

    @register_to_config
    def __init__(self, channels: int = 64, blocks: int = 16, scale: int = 4, coarse_blocks: int = 0):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.coarse = CoarseBranch(channels, coarse_blocks) if coarse_blocks else None
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.tail = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        for block in filter(lambda module: isinstance(module, ResidualBlock), self.modules()):
            nn.init.kaiming_normal_(block.conv1.weight)  # deep residual sums stay O(1) at the start
            nn.init.zeros_(block.conv1.bias)
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
        nn.init.zeros_(self.tail.bias)

    def deepened(self, blocks: int, coarse_blocks: int = 0) -> RestorationNetwork:
        """The same function with at least so many blocks of either kind: what is added changes nothing until trained.

        Added blocks come last, as the identity; the branch of half the resolution begins with an output of 0.
        """
        blocks, coarse_blocks = max(blocks, self.config.blocks), max(coarse_blocks, self.config.coarse_blocks)
        if (blocks, coarse_blocks) == (self.config.blocks, self.config.coarse_blocks):
            return self
        deeper = RestorationNetwork(self.config.channels, blocks, self.config.scale, coarse_blocks)
        deeper.to(self.head.weight)
        deeper.load_state_dict(self.state_dict(), strict=False)
        return deeper

    def forward(self, lr: Tensor) -> Tensor:
        """lr (B, 3, h, w) in [0, 1] -> y-hat (B, 3, scale h, scale w), about [0, 1], not clamped."""
        return self.render(lr, self.features(lr))

    def features(self, lr: Tensor) -> Tensor:
        """lr (B, 3, h, w) in [0, 1] -> what the network knows of it, (B, channels, h, w).

        With a branch of half the resolution, h and w are even.
        """
        features = self.head(lr)
        wide = features if self.coarse is None else features + self.coarse(features)
        return features + self.body(wide)

    def render(self, lr: Tensor, features: Tensor) -> Tensor:
        """y-hat (B, 3, scale h, scale w) from the LR photo and its features."""
        detail = F.pixel_shuffle(self.tail(features), self.config.scale)  # (B, 3, scale h, scale w)
        return detail + enlarge(lr, self.config.scale)


def enlarge(lr: Tensor, scale: int = 4) -> Tensor:
    """Bicubic enlargement, (B, 3, h, w) -> (B, 3, scale h, scale w): y-hat where there is no network."""
    return F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)
