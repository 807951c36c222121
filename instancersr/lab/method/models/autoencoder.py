"""The compact autoencoder: a block transform, with room for learned layers.

A Karhunen-Loeve transform of 8x8x3 pixel blocks: one strided convolution in, one transposed convolution out. It
keeps the principal components of the blocks of real photos, each divided by its standard deviation, so latents
are white. Encoding costs next to nothing, and a loss on pixels is one convolution away from the latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils import BaseOutput
from torch import Tensor, nn


@dataclass(frozen=True)
class Exact:
    """A posterior (B, C, h, w) without variance, by the names of `diffusers`' `DiagonalGaussianDistribution`.

    Importing that one imports every network of `diffusers`, which takes longer than a small run's first step.
    """

    mean: Tensor
    deterministic: bool = True

    @property
    def std(self) -> Tensor:
        return torch.zeros_like(self.mean)

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean


@dataclass
class Decoded(BaseOutput):
    """sample: (B, 3, H, W), as `diffusers`' `DecoderOutput` has it."""

    sample: Tensor


class BlockAutoencoder(ModelMixin, ConfigMixin):
    """f8 autoencoder with `diffusers.AutoencoderKL`'s interface.

    Args:
        latent_channels: components kept of each block, at most 3 * block_size**2.
        block_size: side of a block in pixels, which is the spatial compression.
        refine_channels: width of the learned layers beside the transform on both sides, 0 for none. Their last
            convolutions start at zero, so adding them changes nothing until they are trained.
        scaling_factor: latents are multiplied by it outside, as `AutoencoderKL`'s are. 1: they are white already.
        shift_factor: subtracted before the scaling, likewise.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 32, block_size: int = 8, refine_channels: int = 0,
                 scaling_factor: float = 1.0, shift_factor: float = 0.0):
        super().__init__()
        self.analysis = nn.Conv2d(3, latent_channels, block_size, stride=block_size)
        self.synthesis = nn.ConvTranspose2d(latent_channels, 3, block_size, stride=block_size)
        self.encoder_refine = self.decoder_refine = None
        if refine_channels:
            components = 3 * block_size**2
            self.encoder_refine = _refinement(components, refine_channels, latent_channels)
            self.decoder_refine = _refinement(latent_channels, refine_channels, components)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """x (B, 3, H, W) in [-1, 1], H and W divisible by the block size -> a posterior over (B, C, H/8, W/8).

        Raises:
            ValueError: H or W is not divisible by the block size.
        """
        block = self.config.block_size
        if x.shape[-2] % block or x.shape[-1] % block:
            raise ValueError(f"autoencoder: height and width must be divisible by {block}, not {tuple(x.shape[-2:])}")
        z = self.analysis(x)
        if self.encoder_refine is not None:
            z = z + self.encoder_refine(F.pixel_unshuffle(x, block))
        posterior = Exact(z)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Decoded | tuple:
        """z (B, C, h, w) -> (B, 3, 8h, 8w), about [-1, 1], not clamped."""
        x = self._synthesize(z)
        return Decoded(sample=x) if return_dict else (x,)

    def _synthesize(self, z: Tensor) -> Tensor:
        x = self.synthesis(z)
        if self.decoder_refine is None:
            return x
        return x + F.pixel_shuffle(self.decoder_refine(z), self.config.block_size)

    def forward(self, sample: Tensor) -> Decoded:
        """Encodes and decodes: (B, 3, H, W) in [-1, 1] -> the same shape."""
        return Decoded(sample=self._synthesize(self.encode(sample).latent_dist.mode()))

    @torch.no_grad()
    def fit(self, pictures: Iterable[Tensor]) -> Tensor:
        """Sets the transform to the principal components of the pictures' blocks.

        Args:
            pictures: batches (B, 3, H, W) in [-1, 1], H and W divisible by the block size.

        Returns:
            The variances of all 3 * block_size**2 components, largest first.
        """
        block, kept = self.config.block_size, self.config.latent_channels
        size = 3 * block**2
        count, total, products = 0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        for batch in pictures:
            blocks = F.unfold(batch.double(), block, stride=block).transpose(1, 2).reshape(-1, size)  # (N, 192)
            count += len(blocks)
            total += blocks.sum(0)
            products += blocks.T @ blocks
        mean = total / count  # (192,)
        # Deviations are from one colour, not from the mean block, as the transposed convolution's bias is a colour.
        color = mean.reshape(3, -1).mean(1)
        center = color.repeat_interleave(block**2)
        moments = products / count - center.outer(mean) - mean.outer(center) + center.outer(center)
        variances, vectors = torch.linalg.eigh(moments)
        variances, vectors = variances.flip(0), vectors.flip(1)  # columns, largest variance first
        deviations, basis = variances[:kept].clamp_min(1e-12).sqrt(), vectors[:, :kept]
        self.analysis.weight.copy_((basis / deviations).T.reshape(kept, 3, block, block))
        self.analysis.bias.copy_(-(center @ basis) / deviations)
        self.synthesis.weight.copy_((basis * deviations).T.reshape(kept, 3, block, block))
        self.synthesis.bias.copy_(color)
        return variances


def _refinement(inputs: int, width: int, outputs: int) -> nn.Sequential:
    last = nn.Conv2d(width, outputs, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
                         nn.SiLU(), last)
