"""JointDiT: the diffusion transformer that denoises a photo's latent and its instance map's latent together.

The architecture is DiT's (Peebles & Xie, 2023, arXiv:2212.09748; facebookresearch/DiT, models.py) with the photo's
and the map's latents concatenated on the channels (paper, Eq. 2 and 3).

Shapes: B batch, C channels, h x w latent size, p patch size, N = (h/p)(w/p) tokens in row order, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

NORM_EPS = 1e-6
FREQUENCIES = 256
"""Width of the sinusoidal timestep embedding."""


@dataclass
class JointDiTOutput(BaseOutput):
    """sample: (B, out_channels, h, w). hidden: (B, N, D), the tokens after the block asked for, or None."""

    sample: Tensor
    hidden: Tensor | None = None


def timestep_frequencies(timestep: Tensor, shift: int = 0) -> Tensor:
    """(B,) timesteps in 0..999 -> (B, 256): cosines, then sines, of 128 frequencies 10000^(-i / (128 - shift)).

    DiT has shift 0, its port in `diffusers` 1.
    """
    half = FREQUENCIES // 2
    steps = torch.arange(half, device=timestep.device, dtype=torch.float32)
    rates = torch.exp(-math.log(10000) * steps / (half - shift))
    angles = timestep.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def grid_positions(height: int, width: int, dim: int, offset: Tensor | None = None,
                   base_grid: int | None = None) -> Tensor:
    """Fixed 2-D sine-cosine positions of a token grid, the horizontal coordinate in the first half of the channels.

    Args:
        height, width: of the grid, in tokens.
        dim: width of the embedding, divisible by 4.
        offset: (B, 2) row and column, in tokens, of the grid's first token; None for the origin.
        base_grid: side of the grid that a pretrained network knows: the positions of any other grid are spread over
            its; None for positions 0, 1, 2, ... on every grid.

    Returns:
        (1 or B, height * width, dim), float32.
    """
    if offset is None:
        offset = torch.zeros(1, 2)
    offset = offset.float()
    rows = offset[:, :1] + torch.arange(height, device=offset.device)  # (B, height)
    columns = offset[:, 1:] + torch.arange(width, device=offset.device)  # (B, width)
    if base_grid is not None:
        rows, columns = rows * base_grid / height, columns * base_grid / width
    batch = offset.shape[0]
    horizontal = _axis_positions(columns, dim // 2)[:, None].expand(batch, height, width, dim // 2)
    vertical = _axis_positions(rows, dim // 2)[:, :, None].expand(batch, height, width, dim // 2)
    return torch.cat([horizontal, vertical], 3).flatten(1, 2)


def _axis_positions(coordinates: Tensor, dim: int) -> Tensor:
    """(B, n) coordinates -> (B, n, dim): sines, then cosines."""
    rates = torch.tensor([10000 ** (-number / (dim / 2)) for number in range(dim // 2)], device=coordinates.device)
    angles = coordinates[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D), shift and scale (B, D) -> (B, N, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class TimestepEmbedder(nn.Module):
    """(B,) timesteps -> (B, D)."""

    def __init__(self, dim: int, frequency_shift: int):
        super().__init__()
        self.frequency_shift = frequency_shift
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timestep: Tensor) -> Tensor:
        return self.mlp(timestep_frequencies(timestep, self.frequency_shift).to(self.mlp[0].weight.dtype))


class Attention(nn.Module):
    """Self-attention over all tokens, with a bias on q, k and v."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                   # 3 x (B, heads, N, D/heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """A transformer block with adaptive layer norm; its gates start at zero, so it starts as the identity."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, mlp_norm_eps: float = NORM_EPS):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=mlp_norm_eps, elementwise_affine=False)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B, N, D) tokens, c (B, D) conditioning -> (B, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, 1)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class PatchEmbed(nn.Module):
    """(B, C, h, w) -> (B, N, D): one linear map of each p x p patch."""

    def __init__(self, channels: int, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.view(dim, -1))
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class FinalLayer(nn.Module):
    """(B, N, D) -> (B, N, p * p * out_channels), channel fastest. Starts at zero."""

    def __init__(self, dim: int, patch_size: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.linear = nn.Linear(dim, patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, 1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class JointDiT(ModelMixin, ConfigMixin):
    """The backbone of Eq. 3, of any size, on latent grids of any shape.

    Args:
        in_channels: channels of the joint latent [z_x; z_m].
        out_channels: channels of the output, `in_channels` or twice that with a learned variance.
        patch_size: side of a token in latents.
        width: D.
        depth: number of blocks.
        heads: attention heads; divides `width`.
        mlp_ratio: hidden width of the MLPs over D.
        num_classes: size of DiT's class table less its null entry; 0 for a network without classes. With classes
            the null class is used, as the method has no labels.
        residual_std: for each latent channel, the standard deviation of what the condition lacks of the clean
            latent, for the preconditioning in `instancersr.lab.method.diffusion`; None for a network that predicts
            noise.
        noise_skip: with `residual_std`, whether the estimate of the clean latent begins from what z_t says of it, or
            from the condition alone. Without, no noise passes that the network would have to take off again.
        base_grid: see `grid_positions`.
        frequency_shift: see `timestep_frequencies`.
        mlp_norm_eps: of the layer norm before the MLPs; `diffusers`' port of DiT has another one than DiT.

    Raises:
        ValueError: `width` is not divisible by `heads` or by 4.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, in_channels: int = 64, out_channels: int = 64, patch_size: int = 2, width: int = 320,
                 depth: int = 8, heads: int = 5, mlp_ratio: float = 4.0, num_classes: int = 0,
                 residual_std: Sequence[float] | None = None, base_grid: int | None = None, frequency_shift: int = 0,
                 mlp_norm_eps: float = NORM_EPS, noise_skip: bool = True):
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"JointDiT: width {width} must be divisible by 4 and by heads ({heads})")
        self.x_embedder = PatchEmbed(in_channels, patch_size, width)
        self.t_embedder = TimestepEmbedder(width, frequency_shift)
        self.y_embedder = ClassEmbedder(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio, mlp_norm_eps) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch_size, out_channels)
        self.gradient_checkpointing = False
        self._initialize()

    def _initialize(self) -> None:
        initialize_blocks(self.blocks)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.final_layer.linear, self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def embed(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None,
              token_offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The tokens (B, N, D) and the conditioning (B, D) that the first block, and the control branch, start from."""
        tokens = self.x_embedder(sample)
        grid = [side // self.config.patch_size for side in sample.shape[-2:]]
        offset = None if token_offset is None else token_offset.to(tokens.device)
        positions = grid_positions(grid[0], grid[1], self.config.width, offset, self.config.base_grid).to(tokens)
        conditioning = self.t_embedder(timestep)
        if self.y_embedder is not None:
            conditioning = conditioning + self.y_embedder(class_labels, sample.shape[0])
        return tokens + positions, conditioning

    def forward(self, sample: Tensor, timestep: Tensor, control: Sequence[Tensor] = (),
                class_labels: Tensor | None = None, token_offset: Tensor | None = None,
                hidden_layer: int | None = None) -> JointDiTOutput:
        """One evaluation of the network.

        Args:
            sample: (B, in_channels, h, w), h and w divisible by the patch size.
            timestep: (B,) in 0..999.
            control: the control branch's (B, N, D) features, added after the first blocks, one each.
            class_labels: (B,) or None for the null class; ignored by a network without classes.
            token_offset: (B, 2) row and column of the first token in the whole picture; None for the origin.
            hidden_layer: return the tokens after this block, counted from 1, control added.

        Raises:
            ValueError: h or w is not divisible by the patch size, or `hidden_layer` is not a block.
        """
        self._check(sample, hidden_layer)
        x, c = self.embed(sample, timestep, class_labels, token_offset)
        hidden = None
        for number, block in enumerate(self.blocks, 1):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, c, use_reentrant=False)
            else:
                x = block(x, c)
            if number <= len(control):
                x = x + control[number - 1]
            if number == hidden_layer:
                hidden = x
        return JointDiTOutput(sample=self.unpatchify(self.final_layer(x, c), sample.shape[-2:]), hidden=hidden)

    def _check(self, sample: Tensor, hidden_layer: int | None) -> None:
        patch = self.config.patch_size
        if sample.shape[-2] % patch or sample.shape[-1] % patch:
            raise ValueError(f"JointDiT: latent sides must be divisible by {patch}, not {tuple(sample.shape[-2:])}")
        if hidden_layer is not None and not 1 <= hidden_layer <= self.config.depth:
            raise ValueError(f"JointDiT: hidden_layer must be 1..{self.config.depth}, not {hidden_layer}")

    def unpatchify(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """(B, N, p * p * C), channel fastest -> (B, C, h, w)."""
        patch = self.config.patch_size
        height, width = size[0] // patch, size[1] // patch
        x = tokens.reshape(tokens.shape[0], height, width, patch, patch, -1)
        return torch.einsum("bhwpqc->bchpwq", x).reshape(tokens.shape[0], -1, size[0], size[1])


class ClassEmbedder(nn.Module):
    """DiT's class table; the entry after the last class stands for none."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, dim)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, labels: Tensor | None, batch: int) -> Tensor:
        """(B,) labels, or None for the null class -> (B, D)."""
        if labels is None:
            return self.embedding_table.weight[-1].expand(batch, -1)
        return self.embedding_table(labels)


def initialize_blocks(blocks: nn.ModuleList) -> None:
    """DiT's initialisation: Xavier for the linear maps, zero for the modulation, so that blocks are identities."""
    for block in blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(block.adaLN_modulation[1].weight)
        nn.init.zeros_(block.adaLN_modulation[1].bias)
