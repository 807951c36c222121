"""What each task minimises: a batch in, named loss terms out. The trainer does the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn

from instancersr.errors import UserError, how_to_install
from instancersr.instances.codes import SCALE_RANGE
from instancersr.instances.patches import patch_ids

from ..data.stream import stored_shapes
from ..merging import add_weights, shapes
from ..method import losses
from ..method.diffusion import (
    Denoiser,
    add_noise,
    decode,
    decode_photo,
    encode,
    encode_moments,
    join,
    noise_scales,
    prior_mean,
    restore,
    sample,
    sampling_step,
    split,
    token_layer,
)
from ..method.models import BlockAutoencoder, ControlNet, DetailDecoder, JointDiT, RestorationNetwork
from ..method.models.pretrained import load_autoencoder, load_dit
from ..method.models.restoration import enlarge
from ..method.models.teachers import ConvProjector, Dinov2Teacher, Projector, spatial_normalization
from .adversarial import PatchDiscriminator, adversarial_terms
from .config import (
    AutoencoderConfig,
    ConfigError,
    DiffusionConfig,
    PerceptualConfig,
    RestorationConfig,
    TransformerConfig,
)
from .perceptual import PerceptualLoss, random_window, repeated_pattern, texture_distance
from .randomness import Draws

Batch = Mapping[str, Tensor]

ADVERSARIAL_WINDOW = 80
"""Pixels along the side of what a discriminator sees, a little more than its receptive field."""


class Objective(Protocol):
    """A task. `model` is what is trained, averaged and saved."""

    model: nn.Module
    needs_masks: bool
    skips_parameters: bool
    """Whether some steps leave some of the trained parameters out."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """(B,) numbers of which `terms` needs the mean over all images of the step, not only those it is given.

        That mean is then in its batch, by the same name, once for each image.
        """

    def terms(self, model: nn.Module, batch: Batch, draws: Draws, progress: float) -> dict[str, Tensor]:
        """Weighted loss terms, whose sum is minimised. progress: share of the run that is over, 0 to 1."""

    def validate(self, model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Scores of a held-out batch, each a mean over it."""

    def pictures(self, model: nn.Module, batch: Batch, draws: Draws) -> list[Tensor]:
        """(B, 3, H, W) rows of a sample grid: input, outputs, truth."""

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes the networks as `from_pretrained` reads them."""


def load_part(kind: Any, folder: Path, key: str) -> nn.Module:
    """A frozen network for training.

    Raises:
        ConfigError: `folder` has none; names the configuration's key.
    """
    try:
        return kind.from_pretrained(folder, low_cpu_mem_usage=False).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {folder} holds no {kind.__name__} ({' '.join(str(error).split())[:160]})") from error


def named(key: str, load: Callable[[Any], Any], source: Any) -> Any:
    """What `load` makes of `source`; its complaint names the configuration's key."""
    try:
        return load(source)
    except UserError as error:
        raise ConfigError(f"{key}: {error}") from error


def transformer_settings(size: TransformerConfig, channels: int) -> dict[str, Any]:
    """Arguments of JointDiT for latents of so many channels."""
    return {"in_channels": 2 * channels, "out_channels": (4 if size.learned_variance else 2) * channels,
            "patch_size": size.patch_size, "width": size.width, "depth": size.depth, "heads": size.heads,
            "num_classes": size.num_classes}


def build_transformer(size: TransformerConfig, channels: int) -> JointDiT:
    """A JointDiT of random weights."""
    std = [1.0] * 2 * channels if size.prediction == "residual" else None
    return JointDiT(**transformer_settings(size, channels), residual_std=std)


def perceptual_loss(settings: PerceptualConfig) -> PerceptualLoss | None:
    return PerceptualLoss(settings.window, settings.zoom, settings.turned) if settings.weight else None


def mean_of_weights(one: nn.Module, other: nn.Module) -> nn.Module:
    """A network half-way between two of one ancestry (`instancersr.lab.merging` has the source)."""
    mean = copy.deepcopy(one)
    weights: dict[str, Tensor] = {}
    for network in (one, other):
        add_weights(weights, network, 0.5)
    mean.load_state_dict(weights)
    return mean


def psnr(output: Tensor, truth: Tensor) -> Tensor:
    """Mean over the batch of the peak signal-to-noise ratio in dB, all channels, pictures in [0, 1]."""
    return -10 * (output.clamp(0, 1) - truth).square().mean((1, 2, 3)).clamp_min(1e-10).log10().mean()


class AutoencoderObjective:
    """Mean squared error of the learned layers; the block transform, fitted before, is held."""

    needs_masks = False
    skips_parameters = False

    def __init__(self, config: AutoencoderConfig):
        self.model = BlockAutoencoder(config.latent_channels, refine_channels=config.refine_channels)
        self.model.analysis.requires_grad_(False)
        self.model.synthesis.requires_grad_(False)

    def counts(self, batch):
        return {}

    def terms(self, model, batch, draws, progress):
        return {"mse": F.mse_loss(self._round_trip(model, batch), batch["hr"])}

    def validate(self, model, batch, draws):
        return {"psnr": psnr(self._round_trip(model, batch), batch["hr"])}

    def pictures(self, model, batch, draws):
        return [self._round_trip(model, batch), batch["hr"]]

    def export(self, model, folder):
        model.save_pretrained(folder)

    @staticmethod
    def _round_trip(model: nn.Module, batch: Batch) -> Tensor:
        return decode(model, encode(model, batch["hr"]))


class RestorationObjective:
    """L1, and LPIPS once there is structure to judge."""

    needs_masks = False
    skips_parameters = False

    def __init__(self, config: RestorationConfig):
        self.perceptual_weight = config.perceptual.weight
        self.perceptual = perceptual_loss(config.perceptual)
        self.model = RestorationNetwork(config.channels, config.blocks)
        if config.init is not None:
            begun = load_part(RestorationNetwork, config.init, "init")
            self.model = begun.deepened(config.blocks).train().requires_grad_(True)
        self.merged = None
        if config.merge is not None:
            self.merged = load_part(RestorationNetwork, config.merge, "merge").deepened(self.model.config.blocks)
            if shapes(self.merged) != shapes(self.model):
                raise ConfigError(f"merge: {config.merge} holds a network of another size than the trained one")

    def counts(self, batch):
        return {}

    def terms(self, model, batch, draws, progress):
        output = model(batch["lr"])
        terms = {"l1": F.l1_loss(output, batch["hr"])}
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


class DiffusionObjective:
    """Eq. 4 to 6 on the joint latent, and the few-step sampler's own loss on pixels."""

    needs_masks = True

    def __init__(self, config: DiffusionConfig):
        self.config = config
        self.autoencoder = named("autoencoder", load_autoencoder, config.autoencoder)
        self.restoration = None
        if config.restoration is not None:
            self.restoration = load_part(RestorationNetwork, config.restoration, "restoration")
        self.scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False, set_alpha_to_one=True,
                                       **config.schedule.model_dump())
        alignment = config.alignment
        self.teacher, self.teacher_width = None, None
        if alignment.teacher is not None and alignment.weight:
            stored = stored_shapes(config.data.photos) if config.data.stored else {}
            if "teacher" in stored:
                self.teacher_width = stored["teacher"][1]
            else:
                self.teacher = load_teacher(alignment.teacher, alignment.teacher_layer)
                self.teacher_width = self.teacher.width
        self.skips_parameters = self.teacher_width is not None and (
            alignment.until < 1 or not config.denoising_weight)
        self.perceptual = perceptual_loss(config.sampler.perceptual)
        self.model = self._build()

    def _build(self) -> nn.ModuleDict:
        size, channels = self.config.transformer, self.autoencoder.config.latent_channels
        if self.config.init is not None:
            parts = {"transformer": load_part(JointDiT, self.config.init / "transformer", "init"),
                     "controlnet": load_part(ControlNet, self.config.init / "controlnet", "init")}
        else:
            transformer = build_transformer(size, channels) if self.config.backbone.pretrained is None else (
                self._load_backbone(channels))
            parts = {"transformer": transformer,
                     "controlnet": ControlNet.from_backbone(transformer, channels, size.control_depth)}
        for part in parts.values():
            part.gradient_checkpointing = self.config.gradient_checkpointing
        if not self.config.mask_modelling:
            torch.nn.init.zeros_(parts["transformer"].x_embedder.proj.weight[:, channels:])
        if self.config.sampler.release_restoration and self.restoration is not None:
            parts["restoration"] = self.restoration
        if self.config.sampler.decoder_blocks:
            parts["detail_decoder"] = self._detail_decoder(parts["transformer"].config.width)
        if self.teacher_width is not None:
            projector = ConvProjector if self.config.alignment.projector == "conv" else Projector
            parts["projector"] = projector(parts["transformer"].config.width, self.teacher_width)
        if self.config.sampler.adversarial_weight:
            parts["discriminator"] = PatchDiscriminator(self.config.sampler.adversarial_channels)
        model = nn.ModuleDict(parts).train().requires_grad_(True)
        if self.config.sampler.release_restoration == "tail" and "restoration" in parts:
            parts["restoration"].requires_grad_(False).tail.requires_grad_(True)
        if self.config.sampler.decoder_only:
            parts["transformer"].requires_grad_(False)
            parts["controlnet"].requires_grad_(False)
        if self.config.backbone.trained_blocks is not None:
            frozen = len(model["transformer"].blocks) - self.config.backbone.trained_blocks
            model["transformer"].blocks[:frozen].requires_grad_(False)
        return model

    def _detail_decoder(self, width: int) -> DetailDecoder:
        """The one to begin from, or one that changes nothing yet. width: of the transformer's tokens."""
        sampler, saved = self.config.sampler, self.config.init and self.config.init / "detail_decoder"
        tokens = width if sampler.decoder_tokens else 0
        if saved and saved.exists():
            return load_part(DetailDecoder, saved, "init").extended(tokens, sampler.decoder_skip)
        return DetailDecoder(self.restoration.config.channels, blocks=sampler.decoder_blocks, token_channels=tokens,
                             feature_skip=sampler.decoder_skip)

    def _load_backbone(self, channels: int) -> JointDiT:
        size, name = self.config.transformer, self.config.backbone.pretrained
        transformer = named("backbone.pretrained", load_dit, name)
        wanted = transformer_settings(size, channels)
        for key, value in wanted.items():
            if transformer.config[key] != value:
                raise ConfigError(f"transformer: {key} is {value} here, {transformer.config[key]} in {name}")
        return transformer

    def parameter_groups(self, model: nn.ModuleDict) -> list[dict[str, Any]]:
        """`params` and `lr_scale` of what is trained: the backbone, and everything new."""
        backbone = [p for p in model["transformer"].parameters() if p.requires_grad]
        others = [p for name, part in model.items() if name != "transformer"
                  for p in part.parameters() if p.requires_grad]
        return [{"params": backbone, "lr_scale": self.config.backbone.lr_scale}, {"params": others, "lr_scale": 1.0}]

    def measure_residual(self, batches: Sequence[Batch]) -> None:
        """Sets the preconditioning's deviations to those of z - prior mean on these batches."""
        total, count = torch.zeros(()), 0
        for batch in batches:
            z, z_y, *_ = self._latents(self.model, batch, Draws(0, range(len(batch["hr"]))))
            total = total + (z - prior_mean(z_y)).double().square().mean((2, 3)).sum(0)
            count += len(z)
        std = (total / count).sqrt().clamp_min(1e-3)
        self.model["transformer"].register_to_config(residual_std=[round(s, 4) for s in std.tolist()])

    def to(self, device: torch.device) -> None:
        """Moves the frozen networks."""
        for part in (self.autoencoder, self.restoration, self.teacher, self.perceptual):
            if part is not None:
                part.to(device)

    # ------------------------------------------------------------------------------------- the terms

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
        config = self.config
        z, z_y, restored, features = self._latents(model, batch, draws)
        denoiser = Denoiser(model["transformer"], model["controlnet"], self.scheduler)
        terms: dict[str, Tensor] = {}
        if config.denoising_weight:
            terms |= self._denoising_terms(model, denoiser, z, z_y.detach(), batch, draws, progress)
        if config.sampler.weight:
            # With a detail decoder, judges reach the restoration network through its features: y-hat stays faithful.
            guide = z_y.detach() if "detail_decoder" in model else z_y
            terms |= self._sampler_terms(model, denoiser, z, guide, features, batch, draws, progress)
        if "restoration" in model:  # it must stay the faithful end of the fidelity scale
            terms["restored"] = config.sampler.weight * 0.5 * F.l1_loss(restored, batch["hr"])
        return terms

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
            targets = self._literal_targets(ids, draws).to(hidden) if literal else self._patch_targets(batch, grid)
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
    def _literal_targets(ids: Tensor, draws: Draws) -> Tensor:
        """(B, N): a target for each instance, new in every step."""
        return torch.cat([losses.random_scale_targets(image[None].cpu(), SCALE_RANGE, generator)
                          for image, generator in zip(ids, draws.images, strict=True)])

    @staticmethod
    def _patch_targets(batch: Batch, grid: tuple[int, int]) -> Tensor:
        """(B, N): the scale target of the instance that each token belongs to."""
        ids = patch_ids(batch["ids"], grid)
        cell = [batch["ids"].shape[1] // grid[0], batch["ids"].shape[2] // grid[1]]
        pixels = F.unfold(batch["scale_targets"][:, None], cell, stride=cell)             # (B, cell area, N)
        members = F.unfold(batch["ids"][:, None].float(), cell, stride=cell) == ids[:, None]
        return (pixels * members).sum(1) / members.sum(1).clamp_min(1)

    def _sampler_terms(self, model, denoiser, z, z_y, features, batch, draws, progress) -> dict[str, Tensor]:
        """Runs the sampler without gradient up to a random step, and judges the picture that step promises."""
        sampler = self.config.sampler
        self.scheduler.set_timesteps(sampler.steps)
        timesteps = self.scheduler.timesteps.tolist()
        last = int(torch.randint(sampler.steps, (), generator=draws.shared))
        z_t = draws.normal(z.shape[1:]).to(z)
        with torch.no_grad():
            for t in timesteps[:last]:
                z_t, _ = sampling_step(denoiser, z_t, z_y, t, batch["token_offset"])
        steps = torch.full((len(z),), timesteps[last], device=z.device)
        out = denoiser(self._visible(z_t), z_y, steps, batch["token_offset"], self._token_layer(model))
        clean_x, clean_m = split(out.clean)
        picture = self._decode_photo(model, clean_x, features, out.hidden)
        terms = {"pixel": sampler.weight * F.l1_loss(picture, batch["hr"])}
        if self.config.mask_modelling:
            instance_map = decode(self.autoencoder, clean_m)
            error = F.l1_loss(instance_map, batch["instance_map"], reduction="none")
            terms["map"] = sampler.map_weight * (error * self._map_weights(batch)).mean()
        if self.perceptual is not None:
            terms["lpips"] = sampler.perceptual.weight * self.perceptual(picture, batch["hr"], draws.shared)
        if sampler.texture_weight:
            terms["texture"] = sampler.texture_weight * texture_distance(*self.perceptual.features)
        if sampler.pattern_weight:
            terms["pattern"] = sampler.pattern_weight * repeated_pattern(picture - batch["hr"])
        if "discriminator" in model:
            seen = random_window(picture, batch["hr"], ADVERSARIAL_WINDOW, draws.shared)
            fooled, critic = adversarial_terms(model["discriminator"], *seen)
            terms["critic"] = critic
            if progress >= sampler.adversarial_from:
                terms["gan"] = sampler.adversarial_weight * fooled
        return terms

    def _visible(self, z: Tensor) -> Tensor:
        """What the transformer may see of z: without mask modelling, nothing of the map.

        Its weights for the map are 0 then, and stay so, as their input is: at inference the map's half is ignored.
        """
        if self.config.mask_modelling:
            return z
        z_x, z_m = split(z)
        return join(z_x, torch.zeros_like(z_m))

    @staticmethod
    def _part(model: nn.ModuleDict, name: str) -> Any:
        return model[name] if name in model else None

    def _token_layer(self, model: nn.ModuleDict) -> int | None:
        return token_layer(model["transformer"], self._part(model, "detail_decoder"))

    def _decode_photo(self, model: nn.ModuleDict, z_x: Tensor, features: Tensor | None,
                      tokens: Tensor | None) -> Tensor:
        return decode_photo(self.autoencoder, self._part(model, "detail_decoder"), z_x, features, tokens)

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

    # --------------------------------------------------------------------------- looking at the results

    @torch.no_grad()
    def sample(self, model: nn.ModuleDict, batch: Batch, draws: Draws,
               steps: int) -> tuple[Tensor, Tensor]:
        """Photos and instance maps from the LR photos alone, (B, 3, H, W) each in about [0, 1]."""
        denoiser = Denoiser(model["transformer"], model["controlnet"], self.scheduler)
        z, z_y, _, features = self._latents(model, batch, draws)
        z_t, tokens = sample(denoiser, z_y, draws.normal(z.shape[1:]).to(z), steps, "noise", batch["token_offset"],
                             self._token_layer(model))
        z_x, z_m = split(z_t)
        return self._decode_photo(model, z_x, features, tokens), decode(self.autoencoder, z_m)

    def validate(self, model, batch, draws):
        z, z_y, restored, _ = self._latents(model, batch, draws)
        denoiser = Denoiser(model["transformer"], model["controlnet"], self.scheduler)
        scores = self._denoising_terms(model, denoiser, z, z_y, batch, draws, 0.0)
        scores["noise_mse"] = self._noise_error(denoiser, z, z_y, batch, draws)
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
        from ..pipeline import InstanceRSRPipeline

        restoration = model["restoration"] if "restoration" in model else self.restoration
        pipeline = InstanceRSRPipeline(
            self.autoencoder, restoration, model["transformer"], model["controlnet"], self.scheduler,
            default_steps=self.config.sampler.steps, detail_decoder=self._part(model, "detail_decoder"))
        pipeline.save_pretrained(folder)


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
