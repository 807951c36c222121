"""Stage 9, the map decoder: pairs of regions from degraded photos, and the perceptron fitted to them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from instancersr.instances.regions import CELL, cell_means, describe

from ...method.diffusion import Denoiser, decode, encode, sample, split
from ...method.models import MapDecoder
from ...method.models.restoration import enlarge
from ..config import ConfigError, MapConfig
from ..randomness import Draws
from .objective import Batch, Objective

PAIRS = 4096
"""Pairs of regions drawn from a crop."""
AREA_POWER = 0.75
"""Pairs are drawn by the product of their areas to this power: 1 is the Rand index's view, 0 every region's."""
FIT_BATCH = 2048


class MapObjective(Objective):
    """Binary cross-entropy on whether two regions are of one instance.

    The networks that make the regions are not trained, and the perceptron is small: so all pairs are collected first
    and it is fitted to them in one go, before the trainer's own loop, which then has nothing to do.
    """

    needs_masks = True
    needs_colors = True

    def __init__(self, config: MapConfig):
        from ...pipeline import InstanceRSRPipeline

        self.config = config
        try:
            self.pipeline = InstanceRSRPipeline.from_pretrained(config.pipeline)
        except OSError as error:
            raise ConfigError(f"pipeline: {error}") from error
        self.model = MapDecoder(width=config.width).requires_grad_(False)

    def begin(self, batches: Callable[[int], Iterator[Batch]], device: torch.device) -> None:
        """Collects pairs from the run's images and fits the model to them."""
        pairs = []
        for number, batch in enumerate(batches(self.config.images)):
            first = number * len(batch["lr"])
            pairs.append(self._pairs(batch, Draws(self.config.seed, range(first, first + len(batch["lr"])))))
        self._minimise(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))

    def _minimise(self, features: Tensor, same: Tensor) -> None:
        generator = torch.Generator().manual_seed(self.config.seed)
        self.model.standardize(features)
        self.model.requires_grad_(True)
        settings = self.config.optimizer
        optimizer = torch.optim.AdamW(self.model.parameters(), settings.lr, settings.betas,
                                      weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.config.steps)
        for _ in range(self.config.steps):
            chosen = torch.randint(len(features), (FIT_BATCH,), generator=generator)
            loss = pair_loss(self.model, features[chosen], same[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.model.requires_grad_(False)

    def _pairs(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Features (P, F) of pairs of the batch's regions, and (P,) 1 where they are of one instance."""
        drawn = [_draw_pairs(*describe(photo, cell_means(instance_map)), ids, generator)
                 for photo, instance_map, ids, generator
                 in zip(*self._pictures(batch, draws), batch["ids"].numpy(), draws.images, strict=True)]
        features, same = zip(*drawn, strict=True)
        return torch.cat(features), torch.cat(same)

    @torch.no_grad()
    def _pictures(self, batch: Batch, draws: Draws) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Restored photos and predicted instance maps, (H, W, 3) in [0, 1] each."""
        pipeline, lr = self.pipeline, batch["lr"]
        restored = enlarge(lr) if pipeline.restoration is None else pipeline.restoration(lr)
        z_y = encode(pipeline.autoencoder, restored)
        noise = draws.normal((2 * z_y.shape[1], *z_y.shape[2:])).to(z_y)
        denoiser = Denoiser(pipeline.transformer, pipeline.controlnet, pipeline.scheduler)
        z, _ = sample(denoiser, z_y, noise, pipeline.config.default_steps)
        instance_maps = decode(pipeline.autoencoder, split(z)[1])
        photos, maps = ([p.clamp(0, 1).permute(1, 2, 0).numpy() for p in stack] for stack in (restored, instance_maps))
        return photos, maps


def pair_loss(model: MapDecoder, features: Tensor, same: Tensor) -> Tensor:
    """Mean binary cross-entropy over pairs: features (P, F), same (P,) 0 or 1."""
    return F.binary_cross_entropy_with_logits(model(features), same)


def _draw_pairs(regions: np.ndarray, features: np.ndarray, areas: np.ndarray, ids: np.ndarray,
                generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(P, F) features of pairs of regions whose instances are known, and (P,) 1 where both are of one, else 0."""
    cells = ids[CELL // 2 :: CELL, CELL // 2 :: CELL]
    counts = np.zeros((len(areas), int(ids.max()) + 1))
    np.add.at(counts, (regions.ravel(), cells.ravel()), 1)
    instance = counts.argmax(1)
    weight = areas**AREA_POWER * (counts.max(1) / areas) * (instance > 0)  # mixed regions teach less
    a, b = np.triu_indices(len(areas), 1)
    chance = torch.from_numpy(weight[a] * weight[b])
    if not chance.any():
        return torch.zeros(0, features.shape[-1]), torch.zeros(0)
    chosen = torch.multinomial(chance, PAIRS, replacement=True, generator=generator).numpy()
    a, b = a[chosen], b[chosen]
    return torch.from_numpy(features[a, b]), torch.from_numpy((instance[a] == instance[b]).astype(np.float32))
