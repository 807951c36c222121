"""Colour fixes: the output in the colours of the low-resolution photo, whatever the sampler made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COLOR_FIXES = ("wavelet", "adain", "none")

WAVELET_LEVELS = 5


def match_color(output: Tensor, reference: Tensor, method: str = "wavelet") -> Tensor:
    """The output in the reference's colours.

    ``adain`` gives each channel the reference's mean and standard deviation (Huang & Belongie, 2017).
    ``wavelet`` keeps the output's detail and takes the base, what is left after five levels of dilated blur,
    from the enlarged reference, as in StableSR (Wang et al., 2023). Works channel by channel: besides the
    result, five single-channel float32 pictures at most.

    Args:
        output: (B, 3, H, W) in [0, 1].
        reference: (B, 3, h, w) in [0, 1], the low-resolution photo at its own size.
        method: one of ``COLOR_FIXES``; ``none`` only clamps.

    Returns:
        A new tensor (B, 3, H, W) in [0, 1], of the output's dtype.

    Raises:
        ValueError: unknown method.
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"color_fix {method!r} is unknown; choose one of {', '.join(COLOR_FIXES)}")
    result = torch.empty_like(output)
    for c in range(output.shape[1]):
        channel, target = output[:, c : c + 1].float(), reference[:, c : c + 1].float()
        if method == "wavelet":
            channel = _wavelet(channel, target)
        elif method == "adain":
            channel = _adain(channel, target)
        result[:, c : c + 1] = channel.clamp(0, 1)
    return result


def blur(x: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """The base of a picture (B, C, H, W): [1 2 1]/4 along both axes at dilations 1, 2, 4...; edges repeat."""
    for level in range(levels):
        step = 2**level
        for padding in ((0, 0, step, step), (step, step, 0, 0)):
            dim = 2 if padding[2] else 3
            size = x.shape[dim]
            padded = F.pad(x, padding, mode="replicate")
            x = padded.narrow(dim, step, size) * 0.5
            x.add_(padded.narrow(dim, 0, size), alpha=0.25)
            x.add_(padded.narrow(dim, 2 * step, size), alpha=0.25)
    return x


def _wavelet(x: Tensor, reference: Tensor) -> Tensor:
    """x - blur(x) + blur(reference), which for a linear blur needs only one: x + blur(reference - x)."""
    difference = F.interpolate(reference, size=x.shape[-2:], mode="bicubic", align_corners=False)
    difference.sub_(x)
    return blur(difference).add_(x)


def _adain(x: Tensor, reference: Tensor) -> Tensor:
    mean, std = _moments(x)
    target_mean, target_std = _moments(reference)
    # A flat channel has no contrast to stretch, only rounding noise.
    gain = torch.where(std > 1e-4, target_std / std.clamp(min=1e-4), torch.ones_like(std))
    return x.sub(mean).mul_(gain).add_(target_mean)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation over the pixels, each (B, 1, 1, 1)."""
    std, mean = torch.std_mean(x, dim=(-2, -1), correction=0, keepdim=True)
    return mean, std
