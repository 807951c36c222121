"""The adversarial term of the sampler's stage: a discriminator that sees pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Says of overlapping patches of about 60 pixels whether they are true (PatchGAN, Isola et al., 2017).

    Spectral norms (Miyato et al., 2018) keep it from running away from the generator.

    Args:
        channels: width of the first layer; doubled with each of the three halvings of the resolution.
    """

    def __init__(self, channels: int = 24):
        super().__init__()
        widths = [channels * 2**n for n in range(4)]
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(3, channels, 3, padding=1)), nn.LeakyReLU(SLOPE)]
        for narrow, wide in zip(widths, widths[1:], strict=False):
            layers += [spectral_norm(nn.Conv2d(narrow, wide, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE),
                       spectral_norm(nn.Conv2d(wide, wide, 3, padding=1)), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) in about [0, 1] -> logits (B, 1, H / 8, W / 8), positive: true."""
        return self.layers(picture * 2 - 1).float()


def adversarial_terms(discriminator: nn.Module, output: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The non-saturating loss (Goodfellow et al., 2014), for both players in one backward pass.

    How steep a discriminator is changes a thousandfold while it learns, so only the direction of its gradient is
    used. Each picture's has the length of the discriminator's advantage: 0 while it does no better than chance, 1 if
    it is never wrong. So neither player runs away.

    Args:
        output, truth: (B, 3, H, W), the generated and the true pictures.

    Returns:
        The generator's loss, whose gradient reaches `output` but not the discriminator, and the discriminator's, of
        which the reverse holds.
    """
    seen = output.detach().requires_grad_()
    fooled = F.softplus(-discriminator(seen)).mean((1, 2, 3))  # (B,)
    slope, = torch.autograd.grad(fooled.sum(), seen)
    direction = slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    fake, real = discriminator(torch.cat([output.detach(), truth])).chunk(2)
    critic = (F.softplus(fake).mean() + F.softplus(-real).mean()) / 2
    advantage = (1 - critic.detach() / math.log(2)).clamp_min(0)
    along = advantage * (direction * output).sum((1, 2, 3)).mean()
    return fooled.mean().detach() + along - along.detach(), critic
