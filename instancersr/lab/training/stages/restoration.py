"""Stages 2, 3, 6 and 7: the restoration network y -> y-hat."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from ...merging import add_weights, shapes
from ...method.models import RestorationNetwork
from ...method.models.restoration import enlarge
from ..config import ConfigError, RestorationConfig
from ..perceptual import repeated_steps
from .objective import Objective, load_part, perceptual_loss, psnr


class RestorationObjective(Objective):
    """L1, the grid of a JPEG's blocks, and LPIPS once there is structure to judge."""

    def __init__(self, config: RestorationConfig):
        self.perceptual_weight, self.grid_weight = config.perceptual.weight, config.grid_weight
        self.perceptual = perceptual_loss(config.perceptual)
        self.model = RestorationNetwork(config.channels, config.blocks, coarse_blocks=config.coarse_blocks)
        if config.init is not None:
            begun = load_part(RestorationNetwork, config.init, "init")
            self.model = begun.deepened(config.blocks, config.coarse_blocks).train().requires_grad_(True)
        self.merged = None
        if config.merge is not None:
            self.merged = load_part(RestorationNetwork, config.merge, "merge").deepened(
                self.model.config.blocks, self.model.config.coarse_blocks)
            if shapes(self.merged) != shapes(self.model):
                raise ConfigError(f"merge: {config.merge} holds a network of another size than the trained one")

    def terms(self, model, batch, draws, progress):
        output = model(batch["lr"])
        terms = {"l1": F.l1_loss(output, batch["hr"])}
        if self.grid_weight:
            terms["grid"] = self.grid_weight * repeated_steps(output, batch["hr"])
        if self.perceptual is not None:
            self.perceptual.to(output.device)
            terms["lpips"] = self.perceptual_weight * self.perceptual(output, batch["hr"], draws.shared)
        return terms

    def validate(self, model, batch, draws):
        output = model(batch["lr"])
        return {"psnr": psnr(output, batch["hr"]), "psnr_bicubic": psnr(enlarge(batch["lr"]), batch["hr"]),
                "l1": F.l1_loss(output, batch["hr"])}

    def pictures(self, model, batch, draws):
        return [enlarge(batch["lr"]), model(batch["lr"]), batch["hr"]]

    def export(self, model, folder):
        (model if self.merged is None else mean_of_weights(model, self.merged)).save_pretrained(folder)


def mean_of_weights(one: nn.Module, other: nn.Module) -> nn.Module:
    """A network half-way between two of one ancestry (`instancersr.lab.merging` has the source)."""
    mean = copy.deepcopy(one)
    weights: dict[str, Tensor] = {}
    for network in (one, other):
        add_weights(weights, network, 0.5)
    mean.load_state_dict(weights)
    return mean
