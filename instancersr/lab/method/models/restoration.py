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


class RestorationNetwork(ModelMixin, ConfigMixin):
    """A residual network at the LR's resolution, one pixel shuffle, added to the bicubic enlargement.

    Its first stage of life is regression (L1), so y-hat is the faithful end of the fidelity scale; DiffBIR
    (Lin et al., 2023) puts such a network in front of its diffusion model for the same reason.

    Args:
        channels: width of the residual blocks.
        blocks: number of residual blocks.
        scale: enlargement.
    """

    @register_to_config
    def __init__(self, channels: int = 64, blocks: int = 16, scale: int = 4):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.tail = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        for block in self.body:  # deep residual sums stay O(1) at the start
            nn.init.kaiming_normal_(block.conv1.weight)
            nn.init.zeros_(block.conv1.bias)
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
        nn.init.zeros_(self.tail.bias)

    def deepened(self, blocks: int) -> RestorationNetwork:
        """The same function with at least so many blocks: those added last are the identity until they are trained."""
        if blocks <= self.config.blocks:
            return self
        deeper = RestorationNetwork(self.config.channels, blocks, self.config.scale).to(self.head.weight)
        deeper.load_state_dict(self.state_dict(), strict=False)
        return deeper

    def forward(self, lr: Tensor) -> Tensor:
        """lr (B, 3, h, w) in [0, 1] -> y-hat (B, 3, scale h, scale w), about [0, 1], not clamped."""
        return self.render(lr, self.features(lr))

    def features(self, lr: Tensor) -> Tensor:
        """lr (B, 3, h, w) in [0, 1] -> what the network knows of it, (B, channels, h, w)."""
        features = self.head(lr)
        return features + self.body(features)

    def render(self, lr: Tensor, features: Tensor) -> Tensor:
        """y-hat (B, 3, scale h, scale w) from the LR photo and its features."""
        detail = F.pixel_shuffle(self.tail(features), self.config.scale)  # (B, 3, scale h, scale w)
        return detail + enlarge(lr, self.config.scale)


def enlarge(lr: Tensor, scale: int = 4) -> Tensor:
    """Bicubic enlargement, (B, 3, h, w) -> (B, 3, scale h, scale w): y-hat where there is no network."""
    return F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)
