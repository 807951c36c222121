"""Stage 4, the paper's method: the transformer and its control branch, by Eq. 4 to 6 on the joint latent.

A step reads in its order: `_latents` (z and z_y), `_denoising_terms` (Eq. 2 to 4), `_representation_terms` (Eq. 5,
Eq. 6 and dispersion). The equations themselves are in `method/losses.py` and `method/diffusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn

from instancersr.installation import how_to_install
from instancersr.instances.codes import SCALE_RANGE
from instancersr.instances.patches import patch_ids

from ...data.stream import stored_shapes
from ...method import losses
from ...method.diffusion import (
    Denoiser,
    add_noise,
    decode,
    decode_photo,
    encode_moments,
    join,
    noise_scales,
    prior_mean,
    restore,
    sample,
    split,
    token_layer,
)
from ...method.models import ControlNet, JointDiT, RestorationNetwork
from ...method.models.pretrained import load_autoencoder, load_dit
from ...method.models.restoration import enlarge
from ...method.models.teachers import ConvProjector, Dinov2Teacher, Projector, spatial_normalization
from ..config import ConfigError, DiffusionConfig, TransformerConfig
from ..randomness import Draws
from .objective import Batch, Objective, load_part, named, psnr

RESIDUAL_CROPS = 256
"""Crops on which the preconditioning's deviations are measured."""


class PaperObjective(Objective):
    """Eq. 4 to 6 on the joint latent of photo and instance map."""

    needs_masks = True

    def __init__(self, config: DiffusionConfig):
        self.config = config
        self.autoencoder = named("autoencoder", load_autoencoder, config.autoencoder)
        self.restoration = None
        if config.restoration is not None:
            self.restoration = load_part(RestorationNetwork, config.restoration, "restoration")
        self.scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False, set_alpha_to_one=True,
                                       **config.schedule.model_dump())
        self.teacher, self.teacher_width = None, stored_width(config)
        name = running_teacher(config)
        if name is not None:
            self.teacher = load_teacher(name, config.alignment.teacher_layer)
            self.teacher_width = self.teacher.width
        self.model = nn.ModuleDict(self._parts()).train().requires_grad_(True)
        self._hold()

    # ---------------------------------------------------------------------------------------- networks

    def _parts(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name."""
        size, channels = self.config.transformer, self.autoencoder.config.latent_channels
        if self.config.init is not None:
            parts = {"transformer": load_part(JointDiT, self.config.init / "transformer", "init"),
                     "controlnet": load_part(ControlNet, self.config.init / "controlnet", "init")}
            self._check_sizes(parts, channels)
        else:
            transformer = build_transformer(size, channels) if self.config.backbone.pretrained is None else (
                self._load_backbone(channels))
            parts = {"transformer": transformer,
                     "controlnet": ControlNet.from_backbone(transformer, channels, size.control_depth)}
        for part in parts.values():
            part.gradient_checkpointing = self.config.gradient_checkpointing
        if not self.config.mask_modelling:
            torch.nn.init.zeros_(parts["transformer"].x_embedder.proj.weight[:, channels:])
        if self.teacher_width is not None:
            projector = ConvProjector if self.config.alignment.projector == "conv" else Projector
            parts["projector"] = projector(parts["transformer"].config.width, self.teacher_width)
        return parts

    def _hold(self) -> None:
        """Takes the gradient from what the configuration holds."""
        hold_backbone(self.model["transformer"], self.config.backbone.trained_blocks)

    def _load_backbone(self, channels: int) -> JointDiT:
        size, name = self.config.transformer, self.config.backbone.pretrained
        transformer = named("backbone.pretrained", load_dit, name)
        check_settings(transformer, transformer_settings(size, channels), name)
        return transformer

    def _check_sizes(self, parts: Mapping[str, nn.Module], channels: int) -> None:
        """Whether the networks to begin from are those that `transformer` describes."""
        size, folder = self.config.transformer, self.config.init
        check_settings(parts["transformer"], transformer_settings(size, channels), folder)
        check_settings(parts["controlnet"], {"depth": size.control_depth}, folder / "controlnet")
        begun = parts["transformer"].config
        predicts = "noise" if begun.residual_std is None else "residual" if begun.noise_skip else "clean"
        wanted = size.prediction or ("residual" if predicts == "noise" else predicts)
        if (predicts == "noise") != (wanted == "noise"):
            raise ConfigError(f"transformer: prediction is {wanted} here, {predicts} in {folder}")
        parts["transformer"].register_to_config(noise_skip=wanted != "clean")

    def parameter_groups(self, model: nn.ModuleDict) -> list[dict[str, Any]]:
        """`params` and `lr_scale` of what is trained: the backbone, and everything new."""
        backbone = [p for p in model["transformer"].parameters() if p.requires_grad]
        others = [p for name, part in model.items() if name != "transformer"
                  for p in part.parameters() if p.requires_grad]
        return [{"params": backbone, "lr_scale": self.config.backbone.lr_scale}, {"params": others, "lr_scale": 1.0}]

    @property
    def skips_parameters(self) -> bool:
        """Whether the projector is left out of some steps."""
        return self.teacher_width is not None and self.config.alignment.until < 1

    def begin(self, batches: Callable[[int], Iterator[Batch]], device: torch.device) -> None:
        """Measures the preconditioning's deviations on the first images."""
        if self.config.init is None and self.config.transformer.prediction != "noise":
            self.measure_residual({name: value.to(device) for name, value in batch.items() if name != "skipped"}
                                  for batch in batches(RESIDUAL_CROPS))

    def measure_residual(self, batches: Iterable[Batch]) -> None:
        """Sets the preconditioning's deviations to those of z - prior mean on these batches."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            z, z_y, *_ = self._latents(self.model, batch, Draws(0, range(len(batch["hr"]))))
            error = (z - prior_mean(z_y)).to("cpu", torch.float64)  # Macs' GPUs have no such numbers
            total = total + error.square().mean((2, 3)).sum(0)
            count += len(z)
        std = (total / count).sqrt().clamp_min(1e-3)
        self.model["transformer"].register_to_config(residual_std=[round(s, 4) for s in std.tolist()])

    def to(self, device: torch.device) -> None:
        """Moves the frozen networks."""
        for part in (self.autoencoder, self.restoration, self.teacher):
            if part is not None:
                part.to(device)

    # ------------------------------------------------------------------------------------------- the terms

    def counts(self, batch):
        counts = {"mean_mapped": self._mapped(batch)} if self.config.mask_modelling else {}
        if self.config.denoising_weight and self.config.alignment.scale_weight:
            ids = patch_ids(batch["ids"], self._token_grid(batch)).cpu()
            image = torch.arange(len(ids))[:, None].expand_as(ids)[ids > 0]
            instances = torch.stack([image, ids[ids > 0]]).unique(dim=1)  # (2, K): each instance of each image once
            counts["mean_instances"] = instances[0].bincount(minlength=len(ids)).float()
        return counts

    def _token_grid(self, batch: Batch) -> tuple[int, int]:
        cell = 8 * self.config.transformer.patch_size
        return batch["hr"].shape[-2] // cell, batch["hr"].shape[-1] // cell

    def terms(self, model, batch, draws, progress):
        """Eq. 4 to 6."""
        if not self.config.denoising_weight:
            return {}
        z, z_y, _, _ = self._latents(model, batch, draws)
        return self._denoising_terms(model, self._denoiser(model), z, z_y, batch, draws, progress)

    def _denoiser(self, model: nn.ModuleDict) -> Denoiser:
        return Denoiser(model["transformer"], model["controlnet"], self.scheduler)

    def _latents(self, model: nn.ModuleDict, batch: Batch,
                 draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """z, z_y, y-hat and the restoration network's features; the last three with gradients where it is released."""
        with torch.no_grad():
            z = join(self._latent(batch, "hr", "latent", draws),
                     self._latent(batch, "instance_map", "map_latent", draws))
        released = "restoration" in model
        restoration = model["restoration"] if released else self.restoration
        with torch.set_grad_enabled(released and torch.is_grad_enabled()):
            features, restored = restore(restoration, batch["lr"])
            return z, self._drawn(*encode_moments(self.autoencoder, restored), draws), restored, features

    def _latent(self, batch: Batch, picture: str, stored: str, draws: Draws) -> Tensor:
        """The latent of one of the batch's pictures, as it is stored or else encoded now."""
        if stored not in batch:
            return self._drawn(*encode_moments(self.autoencoder, batch[picture]), draws)
        deviation = batch.get(f"{stored}_std")
        return self._drawn(batch[stored].float(), None if deviation is None else deviation.float(), draws)

    @staticmethod
    def _drawn(mean: Tensor, deviation: Tensor | None, draws: Draws) -> Tensor:
        return mean if deviation is None else mean + deviation * draws.normal(mean.shape[1:]).to(mean)

    def _draw_timesteps(self, draws: Draws) -> Tensor:
        last = self.scheduler.config.num_train_timesteps - 1
        timestep = draws.integers(last + 1)
        terminal = draws.uniform() < self.config.terminal_prob
        return torch.where(terminal, last, timestep)

    def _denoising_terms(self, model, denoiser, z, z_y, batch, draws, progress) -> dict[str, Tensor]:
        config, alignment = self.config, self.config.alignment
        timestep = self._draw_timesteps(draws).to(z.device)
        noise = draws.normal(z.shape[1:]).to(z)
        z_t = add_noise(z, noise, *noise_scales(self.scheduler, timestep))
        out = denoiser(self._visible(z_t), z_y, timestep, batch["token_offset"], alignment.layer)
        target = denoiser.target(z, z_t, z_y, noise, timestep)
        (raw_x, raw_m), (target_x, target_m) = split(out.raw), split(target)
        weight = config.denoising_weight
        terms = {"denoise_x": weight * losses.denoising_loss(raw_x, target_x) / 2}
        if config.mask_modelling:
            terms["denoise_m"] = weight * losses.denoising_loss(raw_m, target_m, self._map_weights(batch)) / 2
        return terms | self._representation_terms(model, out.hidden, batch, draws, progress)

    def _visible(self, z: Tensor) -> Tensor:
        """What the transformer may see of z: without mask modelling, nothing of the map.

        Its weights for the map are 0 then, and stay so, as their input is: at inference the map's half is ignored.
        """
        if self.config.mask_modelling:
            return z
        z_x, z_m = split(z)
        return join(z_x, torch.zeros_like(z_m))

    def _representation_terms(self, model, hidden, batch, draws, progress) -> dict[str, Tensor]:
        alignment, terms = self.config.alignment, {}
        grid = self._token_grid(batch)
        if "projector" in model and progress < alignment.until:
            chosen = slice(None, None, alignment.every)
            features = (batch["teacher"][chosen].float() if self.teacher is None
                        else self.teacher(batch["hr"][chosen], grid))
            if alignment.spatial_normalization is not None:
                features = spatial_normalization(features, alignment.spatial_normalization)
            on_grid = (grid,) if alignment.projector == "conv" else ()
            projected = model["projector"](hidden[chosen], *on_grid)
            terms["repa"] = alignment.weight * losses.representation_alignment_loss(projected, features)
        if alignment.scale_weight:
            ids = patch_ids(batch["ids"], grid)
            literal = alignment.scale_targets == "literal"
            targets = (self._literal_targets(ids, draws, hidden.shape[-1]).to(hidden) if literal
                       else self._patch_targets(batch, grid))
            instances = batch["mean_instances"].sum() if "mean_instances" in batch else None
            terms["scale"] = alignment.scale_weight * losses.instance_scale_loss(
                hidden, ids, targets, "l2" if literal else "rms", instances)
        if alignment.dispersion_weight:
            terms["dispersion"] = alignment.dispersion_weight * losses.dispersive_loss(
                hidden, alignment.dispersion_temperature)
        return terms

    @staticmethod
    def _mapped(batch: Batch) -> Tensor:
        """(B,): 1 for crops with a known instance, else 0, as of photos without masks."""
        return (batch["ids"] > 0).flatten(1).any(1).float()

    def _map_weights(self, batch: Batch) -> Tensor:
        """(B, 1, 1, 1), of mean 1 over the whole batch: 0 for crops without a known instance, or all 0.

        Their map is black, and they would teach that a map is.
        """
        mapped = self._mapped(batch)
        mean = batch.get("mean_mapped", mapped).mean()
        return torch.where(mapped > 0, mapped / mean, 0)[:, None, None, None]

    @staticmethod
    def _literal_targets(ids: Tensor, draws: Draws, width: int) -> Tensor:
        """(B, N): a target for each instance, new in every step, of the order of raw norms: the root of the width."""
        bounds = (SCALE_RANGE[0] * width**0.5, SCALE_RANGE[1] * width**0.5)
        return torch.cat([losses.random_scale_targets(image[None].cpu(), bounds, generator)
                          for image, generator in zip(ids, draws.images, strict=True)])

    @staticmethod
    def _patch_targets(batch: Batch, grid: tuple[int, int]) -> Tensor:
        """(B, N): the scale target of the instance that each token belongs to."""
        ids = patch_ids(batch["ids"], grid)
        cell = [batch["ids"].shape[1] // grid[0], batch["ids"].shape[2] // grid[1]]
        pixels = F.unfold(batch["scale_targets"][:, None], cell, stride=cell)             # (B, cell area, N)
        members = F.unfold(batch["ids"][:, None].float(), cell, stride=cell) == ids[:, None]
        return (pixels * members).sum(1) / members.sum(1).clamp_min(1)

    # --------------------------------------------------------------------------------- looking at the results

    @staticmethod
    def _part(model: nn.ModuleDict, name: str) -> Any:
        return model[name] if name in model else None

    def _decode(self, model: nn.ModuleDict, z_x: Tensor, features: Tensor | None, tokens: Tensor | None) -> Tensor:
        return decode_photo(self.autoencoder, self._part(model, "detail_decoder"), z_x, features, tokens)

    @torch.no_grad()
    def sample(self, model: nn.ModuleDict, batch: Batch, draws: Draws,
               steps: int) -> tuple[Tensor, Tensor]:
        """Photos and instance maps from the LR photos alone, (B, 3, H, W) each in about [0, 1]."""
        denoiser = self._denoiser(model)
        z, z_y, _, features = self._latents(model, batch, draws)
        z_t, tokens = sample(denoiser, z_y, draws.normal(z.shape[1:]).to(z), steps, "noise", batch["token_offset"],
                             token_layer(model["transformer"], self._part(model, "detail_decoder")))
        z_x, z_m = split(z_t)
        return self._decode(model, z_x, features, tokens), decode(self.autoencoder, z_m)

    def validate(self, model, batch, draws):
        z, z_y, restored, _ = self._latents(model, batch, draws)
        denoiser = self._denoiser(model)
        noise_mse = self._noise_error(denoiser, z, z_y, batch, draws)  # first: some terms draw, and not in all runs
        scores = self._denoising_terms(model, denoiser, z, z_y, batch, draws, 0.0) | {"noise_mse": noise_mse}
        photo, instance_map = self.sample(model, batch, draws, self.config.sampler.steps)
        return scores | {"psnr": psnr(photo, batch["hr"]), "psnr_restored": psnr(restored, batch["hr"]),
                         "psnr_map": psnr(instance_map, batch["instance_map"])}

    def _noise_error(self, denoiser: Denoiser, z: Tensor, z_y: Tensor, batch: Batch,
                     draws: Draws) -> Tensor:
        """Eq. 4 on the photo's half, whatever the network predicts: the noise that its clean estimate implies."""
        timestep = draws.integers(self.scheduler.config.num_train_timesteps).to(z.device)
        noise = draws.normal(z.shape[1:]).to(z)
        alpha, sigma = noise_scales(self.scheduler, timestep)
        z_t = add_noise(z, noise, alpha, sigma)
        clean = denoiser(self._visible(z_t), z_y, timestep, batch["token_offset"]).clean
        implied = (z_t - alpha * clean) / sigma
        return losses.denoising_loss(split(implied)[0], split(noise)[0])

    def pictures(self, model, batch, draws):
        photo, instance_map = self.sample(model, batch, draws, self.config.sampler.steps)
        restored = self._latents(model, batch, draws)[2]
        return [enlarge(batch["lr"]), restored, photo, batch["hr"], instance_map, batch["instance_map"]]

    def export(self, model, folder):
        from ...pipeline import InstanceRSRPipeline

        restoration = model["restoration"] if "restoration" in model else self.restoration
        pipeline = InstanceRSRPipeline(
            self.autoencoder, restoration, model["transformer"], model["controlnet"], self.scheduler,
            default_steps=self.config.sampler.steps, detail_decoder=self._part(model, "detail_decoder"),
            anchor_steps=self.config.sampler.anchor_steps)
        pipeline.save_pretrained(folder)


def transformer_settings(size: TransformerConfig, channels: int) -> dict[str, Any]:
    """Arguments of JointDiT for latents of so many channels."""
    return {"in_channels": 2 * channels, "out_channels": (4 if size.learned_variance else 2) * channels,
            "patch_size": size.patch_size, "width": size.width, "depth": size.depth, "heads": size.heads,
            "num_classes": size.num_classes}


def hold_backbone(transformer: JointDiT, trained_blocks: int | None) -> None:
    """Takes the gradient from all blocks but the last so many, and from the embedders that speak to every block."""
    if trained_blocks is None:
        return
    transformer.blocks[: len(transformer.blocks) - trained_blocks].requires_grad_(False)
    for embedder in (transformer.t_embedder, transformer.y_embedder):
        if embedder is not None:
            embedder.requires_grad_(False)


def check_settings(network: Any, wanted: Mapping[str, Any], source: object) -> None:
    """Whether a loaded network has the configuration's settings.

    Raises:
        ConfigError: it has others; names the first.
    """
    for key, value in wanted.items():
        if network.config[key] != value:
            raise ConfigError(f"transformer: {key} is {value} here, {network.config[key]} in {source}")


def build_transformer(size: TransformerConfig, channels: int) -> JointDiT:
    """A JointDiT of random weights."""
    std = None if size.prediction == "noise" else [1.0] * 2 * channels
    return JointDiT(**transformer_settings(size, channels), residual_std=std, noise_skip=size.prediction != "clean")


def aligns(config: DiffusionConfig) -> bool:
    """Whether Eq. 5 has a part in the loss."""
    return config.alignment.teacher is not None and bool(config.alignment.weight and config.denoising_weight)


def stored_width(config: DiffusionConfig) -> int | None:
    """Width of the teacher's features that the shards hold; None without any, or where Eq. 5 has no part."""
    stored = stored_shapes(config.data.photos) if config.data.stored and aligns(config) else {}
    return stored["teacher"][1] if "teacher" in stored else None


def running_teacher(config: DiffusionConfig) -> str | None:
    """The teacher that runs along, for want of stored features; None where there is none."""
    return config.alignment.teacher if aligns(config) and stored_width(config) is None else None


def load_teacher(name: str, layer: int | None) -> Dinov2Teacher:
    """The frozen teacher.

    Raises:
        ConfigError: its weights are missing; says how to get them.
    """
    try:
        return Dinov2Teacher(name, layer)
    except ImportError as error:
        raise ConfigError(f"alignment.teacher: needs transformers; {how_to_install('train')}") from error
    except OSError as error:
        raise ConfigError(f"alignment.teacher: no weights of {name}; fetch them with `hf download {name}` or set "
                          "alignment.teacher=null") from error
