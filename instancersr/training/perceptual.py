"""LPIPS on VGG16 features as a training loss, by pyiqa, whose weights come from its cache (`TORCH_HOME`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import ConfigError


class PerceptualLoss(nn.Module):
    """LPIPS (Zhang et al., 2018) between random windows of two pictures.

    Windows lie anywhere, so their position against the network's patches changes from step to step: a fixed one
    would print the patch grid into flat areas.

    Raises:
        ConfigError: pyiqa or its VGG16 weights are missing.
    """

    def __init__(self, window: int):
        super().__init__()
        self.window = window
        try:
            import pyiqa

            self.metric = pyiqa.create_metric("lpips-vgg", as_loss=True)
        except ImportError as error:
            raise ConfigError("perceptual.weight: needs pyiqa; pip install 'instancersr[train]'") from error
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"perceptual.weight: VGG16 weights for LPIPS were not found in TORCH_HOME and could "
                              f"not be fetched ({type(error).__name__})") from error
        self.metric.requires_grad_(False)
        self._seen: list[Tensor] = []
        net = self.metric.net.net
        for part in (net.slice1, net.slice2, net.slice3, net.slice4):  # to relu1_2, relu2_2, relu3_3, relu4_3
            part.register_forward_hook(lambda _part, _inputs, features: self._seen.append(features))

    @property
    def features(self) -> tuple[list[Tensor], list[Tensor]]:
        """Four of VGG16's feature maps of the last windows: of the output, with gradients, and of the truth."""
        return self._seen[4:], self._seen[:4]  # pyiqa evaluates the truth first

    def forward(self, output: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
        """output, truth (B, 3, H, W) in [0, 1] -> a scalar."""
        self._seen.clear()
        window = min(self.window, output.shape[-2], output.shape[-1])
        top = int(torch.randint(output.shape[-2] - window + 1, (), generator=generator))
        left = int(torch.randint(output.shape[-1] - window + 1, (), generator=generator))
        box = (..., slice(top, top + window), slice(left, left + window))
        return self.metric(output[box].clamp(0, 1), truth[box]).mean()
