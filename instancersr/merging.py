"""One model out of several of one ancestry: a sum of their weights.

Means of runs that began from the same weights are often better than each of them (Wortsman et al., 2022, "Model
soups", arXiv:2203.05482); differences of weights can be added as well (Ilharco et al., 2023, "Editing models with task
arithmetic", arXiv:2212.04089).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import UserError
from .inference.pipeline import InstanceRSRPipeline

MERGED = ("restoration", "transformer", "controlnet", "detail_decoder")
"""What is summed. The autoencoder defines the latents, so it must be one and the same; a map decoder has to be fitted
to what came out, and until then the first model's is kept."""


def merge(models: Sequence[tuple[str, float]], output: str | os.PathLike) -> None:
    """Writes the pipeline whose weights are the models' weights, each times its share, added up.

    Args:
        models: what `InstanceRSRPipeline.from_pretrained` takes, and the share; shares may be negative, their sum is 1.
            Settings, scheduler and map decoder are the first's.
        output: a folder that does not exist yet.

    Raises:
        UserError: shares do not sum to 1, the models differ in a network's shape or in the autoencoder, or `output`
            exists.
        OSError: a model cannot be read.
    """
    output, total = Path(output), math.fsum(share for _, share in models)
    if output.exists():
        raise UserError(f"{output}: exists already; give the merged model another folder")
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise UserError(f"the shares sum to {total:g}; they must sum to 1, or the networks would be scaled")
    (first, share), *others = models
    merged = InstanceRSRPipeline.from_pretrained(first)
    sums = {name: _scaled(getattr(merged, name), share) for name in MERGED}
    for name, share in others:
        _add(sums, merged, name, share)
    for part, weights in sums.items():
        if weights:
            getattr(merged, part).load_state_dict(weights)
    _save(merged, output)


def _scaled(network: nn.Module | None, share: float) -> dict[str, Tensor]:
    return {} if network is None else {key: share * weight for key, weight in network.state_dict().items()}


def _add(sums: dict[str, dict[str, Tensor]], merged: InstanceRSRPipeline, name: str, share: float) -> None:
    """Adds a model's weights, times its share, to the sums."""
    other = InstanceRSRPipeline.from_pretrained(name)
    ours, theirs = merged.autoencoder.state_dict(), other.autoencoder.state_dict()
    if _shapes(ours) != _shapes(theirs) or not all(torch.equal(weight, theirs[key]) for key, weight in ours.items()):
        raise UserError(f"{name}: its autoencoder is not the first model's, so its latents mean something else")
    for part, total in sums.items():
        weights = _scaled(getattr(other, part), share)
        if _shapes(weights) != _shapes(total):
            raise UserError(f"{name}: its {part} has not the shape of the first model's")
        for key, weight in weights.items():
            total[key] += weight


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: weight.shape for key, weight in weights.items()}


def _save(pipeline: InstanceRSRPipeline, output: Path) -> None:
    """Saves to a folder beside it first, so that no half-written model is left."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        pipeline.save_pretrained(Path(folder, "model"))
        Path(folder, "model").rename(output)
