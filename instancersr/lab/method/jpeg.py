"""What a JPEG file does to a picture: through Pillow's own codec, or batched in torch for the GPU.

`jpeg_batched` follows the baseline coder of the JPEG standard (ITU-T T.81, JFIF colours) as libjpeg runs it
by default: 4:2:0 chroma, the tables of Annex K scaled by quality, triangular ("fancy") chroma upsampling.
Entropy coding is lossless and is left out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation steps of luma at quality 50, vertical frequency by horizontal frequency (T.81, table K.1)."""
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
"""The same for both chroma channels (T.81, table K.2)."""


def jpeg(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """Compresses and decompresses a batch: `jpeg_codec` on the CPU, `jpeg_batched` on any other device.

    Args, result and errors are those of the two.
    """
    return jpeg_codec(images, qualities) if images.device.type == "cpu" else jpeg_batched(images, qualities)


@torch.no_grad()
def jpeg_codec(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """Compresses and decompresses a batch with Pillow's codec, in memory.

    Args:
        images: (B, 3, H, W) RGB in [0, 1], rounded to 8 bits first.
        qualities: one for each picture, 1 to 100.

    Returns:
        (B, 3, H, W) float32 in [0, 1], multiples of 1/255, on the device of `images`.

    Raises:
        ValueError: the shape, the number of qualities or a quality is wrong.
    """
    _check(images, qualities)
    pictures = _to_levels(images).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()  # (B, H, W, 3)
    decoded = np.empty_like(pictures)
    for i, quality in enumerate(qualities):
        file = io.BytesIO()
        Image.fromarray(pictures[i]).save(file, "JPEG", quality=quality)
        decoded[i] = np.asarray(Image.open(file))
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous().to(images.device, torch.float32).div_(255)


@torch.no_grad()
def jpeg_batched(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """Compresses and decompresses a batch in float32 torch operations, each picture at its own quality.

    Equals `jpeg_codec` but for a few blocks in a hundred, where a coefficient lies between two steps and
    libjpeg's fixed-point arithmetic rounds it the other way.

    Args:
        images: (B, 3, H, W) RGB in [0, 1], rounded to 8 bits first; any H and W, any device.
        qualities: one for each picture, 1 to 100.

    Returns:
        (B, 3, H, W) float32 in [0, 1], multiples of 1/255, on the device of `images`.

    Raises:
        ValueError: the shape, the number of qualities or a quality is wrong.
    """
    _check(images, qualities)
    height, width = images.shape[2:]
    y, chroma = _rgb_to_ycc(_to_levels(images))
    luma_steps, chroma_steps = quantization_tables(qualities).to(images.device).unbind(1)  # each (B, 8, 8)
    y = _quantize(_pad(y, 8, 8), luma_steps)[..., :height, :width]
    small = _quantize(_pad(_halve(chroma), 8, 8), chroma_steps)
    small = small[..., : math.ceil(height / 2), : math.ceil(width / 2)]  # upsampling never sees the padding
    return _ycc_to_rgb(y, _double(small)[..., :height, :width]) / 255


def quantization_tables(qualities: Sequence[int]) -> Tensor:
    """The quantisation steps that libjpeg uses at each quality: (B, 2, 8, 8), luma then chroma, 1 to 255."""
    percent = torch.tensor([5000 // q if q < 50 else 200 - 2 * q for q in qualities]).view(-1, 1, 1, 1)
    steps = (torch.tensor((LUMA_TABLE, CHROMA_TABLE)) * percent + 50) // 100
    return steps.clamp(1, 255).float()


def _check(images: Tensor, qualities: Sequence[int]) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"jpeg: images must be (B, 3, H, W), not {tuple(images.shape)}")
    if len(qualities) != len(images):
        raise ValueError(f"jpeg: {len(images)} pictures but {len(qualities)} qualities; give one for each")
    if any(not 1 <= quality <= 100 for quality in qualities):
        raise ValueError(f"jpeg: qualities must be 1 to 100, not {list(qualities)}")


def _to_levels(images: Tensor) -> Tensor:
    return images.float().clamp(0, 1).mul_(255).round_()


# ------------------------------------------------------------------------------------------- colours


def _rgb_to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) levels -> luma (B, 1, H, W) and chroma (B, 2, H, W), rounded, 0 to 255 (JFIF 1.02)."""
    r, g, b = rgb.unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.stack([(b - y) / 1.772, (r - y) / 1.402], 1) + 128
    return y[:, None].round(), chroma.round().clamp(0, 255)


def _ycc_to_rgb(y: Tensor, chroma: Tensor) -> Tensor:
    blue, red = (chroma - 128).split(1, dim=1)
    green = (0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
    rgb = torch.cat([y + (1.402 * red).round(), y - green.round(), y + (1.772 * blue).round()], 1)
    return rgb.clamp(0, 255)


# -------------------------------------------------------------------------------------------- chroma


def _halve(chroma: Tensor) -> Tensor:
    """Means of 2x2 pixels; halves and quarters round down and up in turn along a row, as libjpeg does."""
    # Rows repeat after halving, columns before it: libjpeg fills a block row by row.
    sums = 4 * F.avg_pool2d(_pad(chroma, 2, 16), 2)
    bias = 1 + torch.arange(sums.shape[-1], device=sums.device) % 2
    return ((sums + bias) / 4).floor()


def _double(chroma: Tensor) -> Tensor:
    """Twice the size by the triangle filter: in rows and columns, 3/4 the nearest and 1/4 the next pixel."""
    if chroma.shape[-1] <= 2:  # too narrow for libjpeg's filter: it repeats pixels
        return chroma.repeat_interleave(2, -1).repeat_interleave(2, -2)
    padded = F.pad(chroma, [1, 1, 1, 1], mode="replicate")
    rows = _interleave(padded, dim=-2)
    sixteenths = _interleave(rows, dim=-1)
    bias = 8 - torch.arange(sixteenths.shape[-1], device=chroma.device) % 2
    return ((sixteenths + bias) / 16).floor()


def _interleave(padded: Tensor, dim: int) -> Tensor:
    """Quadruple of the triangle filter along `dim`: (..., n + 2, ...) -> (..., 2n, ...)."""
    size = padded.shape[dim] - 2
    before, here, after = (padded.narrow(dim, start, size) for start in range(3))
    return torch.stack([3 * here + before, 3 * here + after], dim).flatten(dim - 1, dim)


# -------------------------------------------------------------------------------------------- blocks


def _pad(planes: Tensor, row_multiple: int, column_multiple: int) -> Tensor:
    """Repeats the last row and column until the size is a multiple."""
    height, width = planes.shape[2:]
    return F.pad(planes, [0, -width % column_multiple, 0, -height % row_multiple], mode="replicate")


def _quantize(planes: Tensor, steps: Tensor) -> Tensor:
    """8x8 DCT, rounding to multiples of `steps`, inverse DCT.

    planes: (B, C, H, W) levels, H and W multiples of 8; steps: (B, 8, 8).
    """
    batch, channels, height, width = planes.shape
    basis = _dct_basis().to(planes.device)
    steps = steps.view(batch, 1, 1, 8, 1, 8)
    blocks = (planes - 128).reshape(batch, channels, height // 8, 8, width // 8, 8)
    # libjpeg's integer transform keeps two bits after its first pass and gives eight times the coefficients;
    # ties are common (a block's mean is its sum / 64), so every rounding is done where it does it.
    rows = _round(4 * _transform(blocks, basis, 5))
    eighths = _round(_transform(rows, basis, 3) / 4)
    indices = eighths.sign() * ((eighths.abs() + 4 * steps) / (8 * steps)).floor()
    columns = _round(4 * _transform(indices * steps, basis.T, 3))
    blocks = _round(_transform(columns, basis.T, 5) / 32)
    return (blocks + 128).clamp(0, 255).reshape(planes.shape)


def _round(x: Tensor) -> Tensor:
    return (x + 0.5).floor()


def _dct_basis() -> Tensor:
    """(frequency, sample): the DCT-II of 8 samples, sqrt(8) times the orthonormal one."""
    sample, frequency = torch.arange(8, dtype=torch.float64), torch.arange(8, dtype=torch.float64)[:, None]
    basis = torch.cos((2 * sample + 1) * frequency * math.pi / 16) * math.sqrt(2)
    basis[0] = 1  # exactly, so that a block's sum has no error
    return basis.float()


def _transform(blocks: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """`matrix` @ the 8 samples along `dim`.

    Written as sums, since a matrix product would lose bits under autocast or TF32.
    """
    shape = [8 if d == dim else 1 for d in range(blocks.ndim)]
    out = torch.zeros_like(blocks)
    for k in range(8):
        out.addcmul_(blocks.narrow(dim, k, 1), matrix[:, k].reshape(shape))
    return out


__all__ = ["CHROMA_TABLE", "LUMA_TABLE", "jpeg", "jpeg_batched", "jpeg_codec", "quantization_tables"]
