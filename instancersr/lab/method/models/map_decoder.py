"""The map decoder: whether two regions of a photo are parts of one instance."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from instancersr.instances.pairs import PAIR_FEATURES


class MapDecoder(ModelMixin, ConfigMixin):
    """A perceptron on what two regions have in common, in the restored photo and in the predicted instance map.

    Args:
        features: numbers that describe a pair.
        width: of its two hidden layers.
    """

    @register_to_config
    def __init__(self, features: int = PAIR_FEATURES, width: int = 64):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        """(..., features) -> (...) log odds of being of one instance."""
        return self.layers((pairs - self.mean) / self.std)[..., 0]

    def standardize(self, pairs: Tensor) -> None:
        """Takes the scale of its input from (P, features)."""
        self.mean.copy_(pairs.mean(0))
        self.std.copy_(pairs.std(0).clamp_min(1e-4))
