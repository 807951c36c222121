"""The adversarial term of the sampler's stage: a discriminator on VGG16 features that LPIPS has computed anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

VGG16_WIDTHS = (64, 128, 256, 512)
"""Channels of relu1_2, relu2_2, relu3_3 and relu4_3."""


class FeatureDiscriminator(nn.Module):
    """One small head for each feature map of a frozen network (Projected GANs, Sauer et al., 2021, arXiv:2111.01007).

    Spectral norms (Miyato et al., 2018) keep the heads from running away from the generator.

    Args:
        widths: channels of the feature maps.
        hidden: channels inside the heads.
    """

    def __init__(self, widths: Sequence[int] = VGG16_WIDTHS, hidden: int = 32):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(spectral_norm(nn.Conv2d(width, hidden, 1)), nn.LeakyReLU(0.2),
                          spectral_norm(nn.Conv2d(hidden, hidden, 3)), nn.LeakyReLU(0.2),
                          spectral_norm(nn.Conv2d(hidden, 1, 1)))
            for width in widths)

    def forward(self, features: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps (B, C_k, h_k, w_k) and the (C_k, 1, 1) scales they are divided by -> logits, positive: real."""
        return [head(f / s) for head, f, s in zip(self.heads, features, scales, strict=False)]


def adversarial_terms(discriminator: FeatureDiscriminator, output: Sequence[Tensor],
                      truth: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The non-saturating loss (Goodfellow et al., 2014), for both players in one backward pass.

    Args:
        output, truth: feature maps (B, C_k, h_k, w_k) of the generated and the true pictures.

    Returns:
        The generator's loss, whose gradient reaches the features but not the discriminator, and the discriminator's,
        of which the reverse holds.
    """
    scales = [t.detach().square().mean((0, 2, 3)).sqrt().clamp_min(1e-3)[:, None, None] for t in truth]
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    fooled = functional_call(discriminator, frozen, (output, scales))
    generator = torch.stack([F.softplus(-logits).mean() for logits in fooled]).mean()
    fake = discriminator([f.detach() for f in output], scales)
    real = discriminator([f.detach() for f in truth], scales)
    critic = torch.stack([F.softplus(f).mean() + F.softplus(-r).mean() for f, r in zip(fake, real, strict=True)]).mean()
    return generator, critic / 2
