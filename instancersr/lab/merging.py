"""One model out of several of one ancestry: a sum of their weights.

Means of runs that began from the same weights are often better than each of them (Wortsman et al., 2022, "Model
soups", arXiv:2203.05482); differences of weights can be added as well (Ilharco et al., 2023, "Editing models with task
arithmetic", arXiv:2212.04089).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from instancersr.denoising import GRAIN_PARTS
from instancersr.errors import UserError, first_line
from instancersr.files import whole_folder
from instancersr.model import find_model

if TYPE_CHECKING:
    from .pipeline import InstanceRSRPipeline

MERGED = ("restoration", "transformer", "controlnet", "detail_decoder")
"""What is summed. The autoencoder defines the latents, so it must be one and the same; a map decoder has to be fitted
to what came out, and until then the first model's is kept. Grain parts are summed where all models have them; where
some have not, the first's are kept."""


def merge_models(models: Sequence[tuple[str, float]], output: str | os.PathLike) -> None:
    """Writes the pipeline whose weights are the models' weights, each times its share, added up.

    Args:
        models: what `InstanceRSRPipeline.from_pretrained` takes, and the share; shares may be negative, their sum is 1.
            Settings, scheduler and map decoder are the first's, and so are grain parts that not all models have.
        output: a folder that does not exist yet.

    Raises:
        UserError: shares do not sum to 1, the models differ in a network's shape or in the autoencoder, or `output`
            exists.
            A model is damaged.
        OSError: a model cannot be read.
    """
    total = math.fsum(share for _, share in models)
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise UserError(f"the shares sum to {total:g}; they must sum to 1, or the networks would be scaled")
    with whole_folder(Path(output)) as folder:
        _merged(models).save_pretrained(folder)


def load_pipeline(name: str, **overrides: Any) -> InstanceRSRPipeline:
    """As `InstanceRSRPipeline.from_pretrained`, but that a damaged model is an error that names it.

    Raises:
        UserError: it cannot be loaded. OSError: there is no such model, or a file of it cannot be read.
    """
    from .pipeline import InstanceRSRPipeline  # training adds weights up without it

    try:
        return InstanceRSRPipeline.from_pretrained(name, **overrides)
    except (UserError, OSError):
        raise
    except Exception as error:  # safetensors, torch and diffusers have their own exceptions for damaged files
        raise UserError(f"{name}: this model cannot be loaded ({first_line(error)}); get a fresh copy") from error


def _merged(models: Sequence[tuple[str, float]]) -> InstanceRSRPipeline:
    merged = load_pipeline(models[0][0])
    grain = [part for part in GRAIN_PARTS.values() if all(find_model(name).has(part) for name, _ in models)]
    sums: dict[str, dict[str, Tensor]] = {part: {} for part in (*MERGED, *grain)}
    for name, share in models:
        model = load_pipeline(name)
        _check_kin(merged, model, name)
        for part, weights in sums.items():
            add_weights(weights, getattr(model, part), share)
    for part, weights in sums.items():
        if weights:
            getattr(merged, part).load_state_dict(weights)
    return merged


def add_weights(total: dict[str, Tensor], network: nn.Module | None, share: float) -> None:
    """Adds a network's weights, times its share, to a sum by their names, which may be empty yet; None adds nothing."""
    for key, weight in (network.state_dict() if network is not None else {}).items():
        total[key] = total[key].add_(weight.to(total[key]), alpha=share) if key in total else share * weight


def shapes(network: nn.Module | None) -> dict[str, torch.Size]:
    """Those of its weights, by their names; networks of other shapes cannot be added up."""
    return {key: weight.shape for key, weight in (network.state_dict() if network is not None else {}).items()}


def _check_kin(first: InstanceRSRPipeline, other: InstanceRSRPipeline, name: str) -> None:
    """Raises a UserError that names the other model if its weights cannot be added to the first's."""
    ours, theirs = first.autoencoder, other.autoencoder
    if shapes(ours) != shapes(theirs) or not all(map(torch.equal, ours.state_dict().values(),
                                                     theirs.state_dict().values())):
        raise UserError(f"{name}: its autoencoder is not the first model's, so its latents mean something else")
    for part in MERGED:
        if shapes(getattr(first, part)) != shapes(getattr(other, part)):
            raise UserError(f"{name}: its {part} has not the shape of the first model's")
