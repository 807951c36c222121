"""The last layers of the photo's decoder, which see the input once more and draw its texture pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .restoration import ResidualBlock

SLOPE = 0.1
"""Of the leaky ReLUs, for negative values."""
LR_TOKEN = 4
"""LR pixels along a token's side: f8 latents in 2x2 patches at four times the size."""


class DetailDecoder(ModelMixin, ConfigMixin):
    """Adds to the decoded photo what the latents could not carry, seeing the restoration network's features and tokens.

    A decoder that also sees the input is StableSR's idea (Wang et al., 2023, arXiv:2305.07015: controllable feature
    wrapping). Convolutions at the photo's full size come last, so that texture does not follow the grid of tokens or
    blocks. The tokens bring what the transformer knows of the whole picture. It starts as the identity.

    Args:
        feature_channels: channels of the restoration network's features.
        channels: width of the residual blocks, which work at the LR's resolution; divisible by 4.
        blocks: number of residual blocks.
        scale: HR pixels along the side of an LR pixel; two pixel shuffles of half of it, so 4.
        token_channels: width of the transformer whose last tokens it sees; 0: it sees none.
        feature_skip: whether the features are also drawn on the photo by one convolution, before all else.

    Raises:
        ValueError: the scale is not 4.
    """

    @register_to_config
    def __init__(self, feature_channels: int = 64, channels: int = 64, blocks: int = 10, scale: int = 4,
                 token_channels: int = 0, feature_skip: bool = False):
        super().__init__()
        if scale != 4:
            raise ValueError(f"DetailDecoder: scale must be 4, not {scale}")
        self.head = nn.Conv2d(3 * scale**2 + feature_channels, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.up1 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.up2 = nn.Conv2d(channels // 2, channels, 3, padding=1)
        self.fine = nn.Conv2d(channels // 4, channels // 4, 3, padding=1)
        self.tail = nn.Conv2d(channels // 4, 3, 3, padding=1)
        for block in self.body:
            nn.init.kaiming_normal_(block.conv1.weight)
            nn.init.zeros_(block.conv1.bias)
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
        for layer in (self.head, self.up1, self.up2, self.fine):  # torch's own leave a seventh of a signal
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # features deviate by about a quarter of what pixels do
            self.head.weight[:, 3 * scale**2 :] *= 4
        self.skip = nn.Conv2d(feature_channels, 3 * scale**2, 3, padding=1) if feature_skip else None
        self.token_norm = nn.LayerNorm(token_channels) if token_channels else None
        self.token_proj = nn.Linear(token_channels, LR_TOKEN**2 * channels) if token_channels else None
        for layer in (self.tail, self.skip, self.token_proj):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def extended(self, blocks: int, token_channels: int, feature_skip: bool) -> DetailDecoder:
        """The same function, with the blocks, tokens and skip it lacks: they change nothing until they are trained.

        Raises:
            ValueError: it has more blocks than these.
        """
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        if blocks < config["blocks"]:
            raise ValueError(f"the detail decoder has {config['blocks']} blocks, more than {blocks}")
        wanted = {"blocks": blocks, "token_channels": config["token_channels"] or token_channels,
                  "feature_skip": config["feature_skip"] or feature_skip}
        if wanted.items() <= config.items():
            return self
        wider = DetailDecoder(**(config | wanted)).to(self.head.weight)
        wider.load_state_dict(self.state_dict(), strict=False)
        return wider

    def forward(self, photo: Tensor, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The finished photo.

        Args:
            photo: (B, 3, 4h, 4w), decoded from the sample's latent, about [0, 1].
            features: (B, feature_channels, h, w), `RestorationNetwork.features` of the LR photo.
            tokens: (B, hw / 16, token_channels), the transformer's after its last block, in row order; None where
                nothing was sampled.

        Returns:
            (B, 3, 4h, 4w), about [0, 1], not clamped.
        """
        if self.skip is not None:
            photo = photo + F.pixel_shuffle(self.skip(features), self.config.scale)
        x = self.head(torch.cat([F.pixel_unshuffle(photo - 0.5, self.config.scale), features], 1))  # (B, C, h, w)
        if self.token_proj is not None and tokens is not None:
            x = x + self._spread(tokens, x.shape[-2:])
        x = x + self.body(x)
        x = F.leaky_relu(F.pixel_shuffle(self.up1(x), 2), SLOPE)                         # (B, C / 2, 2h, 2w)
        x = F.leaky_relu(F.pixel_shuffle(self.up2(x), 2), SLOPE)                         # (B, C / 4, 4h, 4w)
        return photo + self.tail(F.leaky_relu(self.fine(x), SLOPE))

    def _spread(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """(B, N, token_channels) -> (B, C, h, w): each token speaks to each of its LR pixels."""
        x = self.token_proj(self.token_norm(tokens)).transpose(1, 2)                     # (B, 16 C, N)
        return F.pixel_shuffle(x.unflatten(2, (size[0] // LR_TOKEN, size[1] // LR_TOKEN)), LR_TOKEN)
