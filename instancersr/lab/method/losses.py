"""The method's losses, Eq. 4 to 6, and dispersion. Tensors in, tensors out.

Shapes: B batch, N tokens, D width of the backbone, T width of the teacher.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def denoising_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. 4: the mean squared error of what the network predicts.

    Args:
        prediction, target: (B, C, h, w); noise in the paper, the preconditioned residual in the compact model.
        weight: broadcastable to them, or None.
    """
    error = (prediction - target).square()
    return (error if weight is None else error * weight).mean()


def representation_alignment_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Eq. 5 (REPA, Yu et al., 2024): minus the mean cosine between projected tokens and the teacher's features.

    Args:
        projected: (B, N, T), the projector's output for the hidden tokens.
        teacher: (B, N, T), the teacher's patch features of the clean HR photo, on the same grid.

    Returns:
        A scalar in [-1, 1]; -1 is full agreement.
    """
    return -F.cosine_similarity(projected, teacher, dim=-1).mean()


def instance_scale_loss(hidden: Tensor, patch_ids: Tensor, targets: Tensor,
                        norm: Literal["rms", "l2"] = "rms", instances: Tensor | None = None) -> Tensor:
    """Eq. 6: the squared distance between the norm of each token and its instance's scale target.

    The mean is taken within each instance first, then over the instances, so that small objects count as much as
    large ones. Tokens without an instance (id 0) do not count.

    Args:
        hidden: (B, N, D), the tokens f.
        patch_ids: (B, N) instance id of each token, 0 for none.
        targets: (B, N) scale target s_i of each token's instance. Fixed by the instance and carried by its colour
            in the instance map they are predictable; redrawn every step (`random_scale_targets`) they are the
            literal reading of the paper.
        norm: "rms", |f| / sqrt(D), which keeps targets O(1) at every width; "l2", |f|, the literal reading.
        instances: the number to divide by; None for the instances of this batch. Parts of a batch whose losses are
            to average to that of the whole need their share of the whole batch's.

    Returns:
        A scalar; 0 where no token has an instance.
    """
    length = hidden.float().norm(dim=-1)  # (B, N)
    if norm == "rms":
        length = length / hidden.shape[-1] ** 0.5
    elif norm != "l2":
        raise ValueError(f"instance_scale_loss: norm must be 'rms' or 'l2', not {norm!r}")
    error = (length - targets).square()
    inside = patch_ids > 0
    samples = torch.arange(len(patch_ids), device=patch_ids.device)[:, None].expand_as(patch_ids)
    keys = torch.stack([samples[inside], patch_ids[inside]], 1)  # (M, 2) the tokens that have an instance
    _, group, counts = keys.unique(dim=0, return_inverse=True, return_counts=True)
    if not len(counts):
        return error.sum() * 0
    return (error[inside] / counts[group]).sum() / (len(counts) if instances is None else instances)


def random_scale_targets(patch_ids: Tensor, bounds: tuple[float, float],
                         generator: torch.Generator | None = None) -> Tensor:
    """Scale targets of the literal reading: uniform in `bounds`, one an instance, new at every call.

    patch_ids (B, N), 0 for none -> (B, N).
    """
    _, index = patch_ids.unique(return_inverse=True)
    samples = torch.arange(len(patch_ids), device=patch_ids.device)[:, None]
    kinds = int(index.max()) + 1
    draws = torch.rand(len(patch_ids), kinds, generator=generator, device=patch_ids.device)
    return bounds[0] + (bounds[1] - bounds[0]) * draws[samples, index]


def dispersive_loss(hidden: Tensor, temperature: float = 0.5) -> Tensor:
    """The Dispersive Loss (Wang & He, 2025, arXiv:2506.09027), InfoNCE with squared l2 distances, no positives.

    log mean over pairs exp(-|f_a - f_b|^2 / (D' tau)), with f_a the flattened tokens (D' values) of one sample; the
    mean runs over all ordered pairs, a sample with itself included.

    Args:
        hidden: (B, N, D).
        temperature: tau.
    """
    flat = hidden.float().flatten(1)
    squared = torch.cdist(flat, flat).square() / flat.shape[1]
    return torch.logsumexp(-squared.flatten() / temperature, 0) - 2 * torch.log(torch.tensor(float(len(flat))))
