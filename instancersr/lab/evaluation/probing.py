"""What one trained diffusion model can do on held-out crops: quality, instance maps, what its tokens know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from instancersr.instances.codes import decode_id_map
from instancersr.instances.patches import patch_ids

from ..data.dataset import collate
from ..method.diffusion import Denoiser, decode, encode, sample, split
from ..method.models.restoration import enlarge
from ..pipeline import InstanceRSRPipeline
from ..training.config import DiffusionConfig
from ..training.data import crops, open_photos
from .awareness import PatchFeatures, map_quality, probe_accuracy

BATCH = 16
"""Crops that are sampled at once."""
TOKEN = 16
"""HR pixels along a token's side."""


@dataclass
class Samples:
    """Sampled crops and their truth: photos (B, 3, H, W) in [0, 1], ids (B, H, W), tokens (B, N, D), grid of tokens."""

    photos: Tensor
    truth: Tensor
    predicted_ids: np.ndarray
    true_ids: np.ndarray
    tokens: Tensor
    patch_ids: Tensor


def held_out_crops(training: DiffusionConfig, count: int) -> Iterator[dict[str, Tensor]]:
    """Batches, on the CPU, of the validation photos' crops, the same for every model trained on the same data.

    Raises:
        DataError: there are no photos, or none is held out.
    """
    # the seed is fixed: runs of several seeds are measured on the same crops
    dataset = crops(training, open_photos(training.data), held_out=True, masks=True, seed=0)
    return iter(DataLoader(dataset, BATCH, sampler=range(count), collate_fn=collate))


@torch.no_grad()
def sample_crops(pipeline: InstanceRSRPipeline, batch: Mapping[str, Tensor], steps: int, layer: int,
                 seed: int) -> Samples:
    """Upscales a batch by the pipeline's networks, from the LR photos alone.

    The tokens are those after block `layer` at the last sampling step: what the network knows of objects that it has
    only seen in the LR photo.
    """
    lr = batch["lr"].to(pipeline.device)
    restored = enlarge(lr) if pipeline.restoration is None else pipeline.restoration(lr)
    z_y = encode(pipeline.autoencoder, restored)
    noise = torch.randn(len(lr), 2 * z_y.shape[1], *z_y.shape[2:],
                        generator=torch.Generator().manual_seed(seed)).to(z_y)
    denoiser = Denoiser(pipeline.transformer, pipeline.controlnet, pipeline.scheduler)
    z, tokens = sample(denoiser, z_y, noise, steps, hidden_layer=layer)
    assert tokens is not None  # a layer was asked for
    z_x, z_m = split(z)
    maps = decode(pipeline.autoencoder, z_m).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    grid = (batch["hr"].shape[2] // TOKEN, batch["hr"].shape[3] // TOKEN)
    return Samples(decode(pipeline.autoencoder, z_x).clamp(0, 1).cpu(), batch["hr"],
                   np.stack([decode_id_map(m) for m in maps]), batch["ids"].numpy(), tokens.cpu(),
                   patch_ids(batch["ids"], grid))


def quality(samples: Sequence[Samples], metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metric -> mean over the crops; a metric is called with (outputs, truth), (B, 3, H, W) each, and gives (B,)."""
    return {name: float(torch.cat([metric(s.photos, s.truth).flatten() for s in samples]).mean())
            for name, metric in metrics.items()}


def awareness(samples: Sequence[Samples]) -> dict[str, float]:
    """`map`, `probe` and `awareness`, their mean."""
    qualities = [map_quality(truth, predicted) for s in samples
                 for truth, predicted in zip(s.true_ids, s.predicted_ids, strict=True)]
    scores = {"map": float(np.nanmean(qualities)), "probe": probe(samples)}
    return scores | {"awareness": (scores["map"] + scores["probe"]) / 2}


def probe(samples: Sequence[Samples]) -> float:
    """Accuracy of a linear probe on the tokens, which half of the crops train; see `probe_accuracy`."""
    pictures = patch_features(samples)
    half = len(pictures) // 2
    return probe_accuracy(pictures[:half], pictures[half:])


def patch_features(samples: Sequence[Samples]) -> list[PatchFeatures]:
    """The tokens of each crop with their instance ids."""
    return [PatchFeatures(tokens.float().numpy(), ids.numpy()) for s in samples
            for tokens, ids in zip(s.tokens, s.patch_ids, strict=True)]
