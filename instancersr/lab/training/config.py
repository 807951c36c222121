"""Training configuration: YAML + `key=value` overrides, checked before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from instancersr.errors import UserError, reason

from ..method.degradation import PRESETS


class ConfigError(UserError):
    """A configuration that cannot be used; one line that names the key."""


class Section(BaseModel):
    """A typo is an error that names the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ALTERING = ("lightness", "max_offset", "downscale_prob", "truth_blur", "truth_sharpen", "twin_prob", "gray_prob",
            "auxiliary")
"""Keys of `data` that alter a crop's photo or map, or bring others."""


class DataConfig(Section):
    """Where the photos are and how crops are cut and degraded."""

    photos: str
    """A folder of photos, a folder of tars, a tar, or a glob pattern of tars."""
    cache: Path = Path("cache")
    """Folder for decoded photos, or the index of the shards."""
    keys: list[str] = ["*"]
    """Photos whose keys, file names without suffix, match one of these patterns are used; not with `stream`."""
    stream: bool = False
    """Read shards as they are, each photo once an epoch, instead of decoding all photos into the cache first."""
    stored: bool = False
    """Use what `instancersr prepare` stored in the shards, latents or teacher features or both; needs `stream`."""
    crop: int = Field(128, ge=32, multiple_of=16)
    """Side of an HR crop in pixels; the LR crop is a quarter of it."""
    presets: dict[str, float] = {"seesr": 1.0}
    """Degradation presets and their shares."""
    downscale_prob: float = Field(0.0, ge=0, le=1)
    """Share of crops shrunk from a larger window, which makes the truth sharper."""
    downscale_max: float = Field(2.0, ge=1)
    """Of those crops, the most a window is shrunk by."""
    truth_blur: tuple[float, float] = (0.0, 0.0)
    """Range of the blur, as a deviation in pixels, that every truth gets before it is degraded. Photos from the web
    are shrunk and sharpened; those that a camera just took are not. An MTF50 of .2 to .35 cycles a pixel, as cameras
    have, is a Gaussian of .53 to .93 pixels."""
    truth_sharpen: tuple[float, float] = (0.0, 0.0)
    """Range of the amount of an unsharp mask that every truth gets after that blur, as the camera's own processor
    sharpens; its blur's deviation is drawn as that of the preset `camera_sharpened`, here in pixels of the truth."""
    twin_prob: float = Field(0.0, ge=0, le=1)
    """Share of crops whose LR photo the truth's own camera takes through a lens four times shorter: the truth's blur
    and sharpening, in pixels four times as large, instead of a preset. Needs `truth_blur`."""
    gray_prob: float = Field(0.0, ge=0, le=1)
    """Share of crops that are made grey before they are degraded: a grey photo has a grey truth."""
    auxiliary: Path | None = None
    """A folder of crops with an auxiliary target (`lab.data.auxiliary`): what another network makes of the LR photo."""
    auxiliary_share: float = Field(0.0, ge=0, lt=1)
    """Share of the training crops that come from there. The finished photo's judges compare them with that target, L1
    with the truth. Needs `auxiliary`."""
    max_offset: int = Field(0, ge=0)
    """Crops pretend to lie up to so many tokens into a larger picture."""
    lightness: Literal["hash", "photo"] = "hash"
    """What the lightness of an instance in the map, and so its scale target, follows: a hash of photo and instance,
    or the instance's luma in the photo, which a sampler of few steps can predict."""
    workers: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _stored_is_streamed(self) -> DataConfig:
        if self.stored and not self.stream:
            raise ValueError("stored: tensors are stored in shards; set data.stream=true")
        if self.stream and self.keys != ["*"]:
            raise ValueError("keys: shards are streamed whole; leave data.keys out, or set data.stream=false")
        changed = [key for key in ALTERING if getattr(self, key) != type(self).model_fields[key].default]
        if self.stored and changed:
            raise ValueError(f"stored: the latents are of photo and map as they are, so {', '.join(changed)} cannot "
                             "change them; leave that out, or set data.stored=false")
        return self

    @model_validator(mode="after")
    def _auxiliary_is_somewhere(self) -> DataConfig:
        if bool(self.auxiliary_share) != (self.auxiliary is not None):
            raise ValueError("auxiliary_share: a share of crops with an auxiliary target needs their folder, and the "
                             "folder a share; set both data.auxiliary and data.auxiliary_share, or neither")
        return self

    @model_validator(mode="after")
    def _twin_has_a_lens(self) -> DataConfig:
        if self.twin_prob and not self.truth_blur[0]:
            raise ValueError("twin_prob: a twin has the lens of the truth's camera; set data.truth_blur=[0.53, 0.93]")
        return self

    @model_validator(mode="after")
    def _presets_exist(self) -> DataConfig:
        for name in self.presets:
            if name not in PRESETS:
                raise ValueError(f"preset {name!r} is unknown; use {', '.join(PRESETS)}")
        return self


class OptimizerConfig(Section):
    """AdamW. Progress is counted in images."""

    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    warmup_images: int = Field(3200, ge=0)
    decay: Literal["constant", "cosine"] = "cosine"
    """Cosine: from `lr` after the warm-up to a fiftieth of it at the end."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_images: float = Field(10000, gt=0)
    """Time constant of the weights' moving average."""
    loss_limit: float = Field(20.0, gt=1)
    """A loss of so many times that of the first steps, for some steps in a row, stops the run; it is not saved."""


class LogConfig(Section):
    """What is written while training."""

    checkpoint_images: int = Field(20000, gt=0)
    keep: int = Field(2, ge=1)
    """Checkpoints kept."""
    sample_images: int = Field(20000, gt=0)
    """Validation and the sample grid, every so many images."""
    validation_crops: int = Field(64, ge=1)
    wandb: str | None = None
    """Project of Weights & Biases to log to as well; WANDB_MODE=offline keeps it on this machine."""


class PerceptualConfig(Section):
    """LPIPS with VGG16 features (never AlexNet's, which the benchmark's metric uses), on windows of the crop."""

    weight: float = Field(0.0, ge=0)
    window: int = Field(64, ge=32)
    zoom: float = Field(1.0, ge=1)
    """Windows are up to so many times larger, and shrunk to `window`."""
    turned: bool = False
    """Windows are turned, mirrored and their colours exchanged at random."""


class TrainConfig(Section):
    """What every task has."""

    output: Path
    images: int = Field(gt=0)
    """Train until so many images were seen."""
    batch: int = Field(32, gt=0)
    """Images of one optimizer step."""
    micro_batch: int | None = Field(None, gt=0)
    """Images of one forward pass of a process; gradients are accumulated to its share of the batch. None: all of it."""
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    sharded: bool = False
    """With several processes: divide weights, gradients, optimizer and average among them (FSDP2) instead of keeping
    a copy in each (DDP)."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 leaves torch's choice."""
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


class AutoencoderConfig(TrainConfig):
    """Fits the block transform in closed form; trains the learned layers, if any, with the transform held."""

    task: Literal["autoencoder"]
    latent_channels: int = Field(32, ge=1, le=192)
    refine_channels: int = Field(0, ge=0)


class RestorationConfig(TrainConfig):
    """Trains the restoration network y -> y-hat."""

    task: Literal["restoration"]
    channels: int = Field(64, ge=4)
    blocks: int = Field(16, ge=1)
    coarse_blocks: int = Field(0, ge=0)
    """Residual blocks of a branch at half the resolution, which sees further; 0: none."""
    init: Path | None = None
    """A folder with a network to begin from. Blocks that it lacks are added at its end and change nothing at first."""
    merge: Path | None = None
    """A folder with a network whose weights are averaged with the trained ones in what is saved for use: `init`, or
    one that began from it."""
    perceptual: PerceptualConfig = PerceptualConfig()
    grid_weight: float = Field(0.0, ge=0)
    """Of steps at the grid of a JPEG's blocks (`perceptual.repeated_steps`)."""


class MapConfig(TrainConfig):
    """Fits the map decoder to pairs of regions from `images` crops. A run that was stopped begins anew."""

    task: Literal["map"]
    pipeline: str = "builtin"
    """Whose restored photos and instance maps the decoder will see: builtin, a folder or a hub id."""
    width: int = Field(64, ge=1)
    steps: int = Field(1500, ge=1)
    """Of the optimizer, once all pairs are collected."""
    whole: int | None = Field(None, ge=32, multiple_of=16)
    """Whole photos, in their order, instead of crops: in pixels, what longer sides are cut to about the middle. Photos
    with a side under `data.crop` are left out. Sizes differ, so the batch is 1. None: crops."""

    @model_validator(mode="after")
    def _whole_photos_come_singly(self) -> MapConfig:
        if self.whole and (self.batch != 1 or self.data.stream):
            raise ValueError("whole: photos of any size come singly, from the cache; set batch=1 and "
                             "data.stream=false, or whole=null")
        return self


class ScheduleConfig(Section):
    """Arguments of `diffusers.DDIMScheduler`."""

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    rescale_betas_zero_snr: bool = True
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "trailing"


class TransformerConfig(Section):
    """Size of JointDiT and its control branch."""

    width: int = 320
    depth: int = Field(8, ge=1)
    heads: int = Field(5, ge=1)
    patch_size: int = 2
    control_depth: int = Field(3, ge=1)
    prediction: Literal["residual", "clean", "noise"] | None = None
    """Residual: what z_y lacks of the clean latent, given z_t (EDM's preconditioning). Clean: the same without a skip
    from z_t, which no noise then passes, and equal at pure noise, so a run may begin from the other. Noise: epsilon.
    None: clean where the network of `init` predicts that, else residual."""
    num_classes: int = Field(0, ge=0)
    """Entries of DiT's class table less the null class, which is the one used; 0: no table."""
    learned_variance: bool = False
    """Whether the output has DiT's variance channels, which no loss here trains."""

    @model_validator(mode="after")
    def _fits(self) -> TransformerConfig:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be divisible by 4 and by heads ({self.heads})")
        if self.control_depth > self.depth:
            raise ValueError(f"control_depth {self.control_depth} is more than depth {self.depth}")
        return self


class BackboneConfig(Section):
    """A pretrained DiT to begin from, and how much of it is trained."""

    pretrained: str | None = None
    """A file in DiT's own layout, a folder or a hub id (`facebook/DiT-XL-2-512`); its sizes are `transformer`'s."""
    trained_blocks: int | None = Field(None, ge=0)
    """The last so many blocks are trained, with the inflated first and last layers; None: everything."""
    lr_scale: float = Field(1.0, gt=0)
    """The backbone's learning rate over `optimizer.lr`, which the control branch and the projector have."""


class AlignmentConfig(Section):
    """Eq. 5, Eq. 6 and dispersion, all on the tokens after block `layer`."""

    layer: int = Field(3, ge=1)
    teacher: str | None = None
    """DINOv2: hub name or folder. None switches Eq. 5 off."""
    teacher_layer: int | None = None
    """Block of the teacher, counted from 1; None for its output."""
    weight: float = Field(0.5, ge=0)
    """Lambda of Eq. 5."""
    until: float = Field(1.0, ge=0, le=1)
    """Share of the run after which Eq. 5 is switched off (HASTE)."""
    projector: Literal["mlp", "conv"] = "mlp"
    """REPA's three linear maps, or iREPA's 3x3 convolution over the token grid."""
    spatial_normalization: float | None = Field(None, ge=0, le=1)
    """iREPA: the share of the mean over the patches that is taken off the teacher's features; None: neither that nor
    the division by their deviation."""
    every: int = Field(1, ge=1)
    """Eq. 5 is computed for every so many samples of a batch: the teacher is as dear as the transformer."""
    scale_weight: float = Field(0.1, ge=0)
    """Lambda of Eq. 6."""
    scale_targets: Literal["predictable", "literal"] = "predictable"
    """Literal: raw l2 norms, and targets of their order, the root of the width, redrawn at every step."""
    dispersion_weight: float = Field(0.0, ge=0)
    dispersion_temperature: float = Field(0.5, gt=0)


class SamplerConfig(Section):
    """The last stage: the few-step sampler is trained through its own steps with losses on pixels."""

    weight: float = Field(0.0, ge=0)
    """Of L1 on the photo's pixels; 0 switches the stage off."""
    map_weight: float = Field(0.3, ge=0)
    """Of L1 on the instance map's pixels."""
    steps: int = Field(2, ge=1)
    """Sampling steps of the exported pipeline, if its user asks for no others."""
    trained_steps: int | None = Field(None, ge=1)
    """The most sampling steps that a training step runs. It runs a number drawn from 1 to this, and the gradient goes
    through the last, whose photo is judged. None: `steps`."""
    count_shares: list[Annotated[float, Field(ge=0)]] = []
    """How often each number of steps is drawn, 1 first; empty: equally often."""
    anchor_steps: int | None = Field(None, ge=1)
    """The most steps that the exported pipeline is trusted with: more lie between the first and the last of theirs, and
    the transformer is told the nearest of theirs (`instancersr.sampling.Schedule`). None: any number."""
    truth_share: float = Field(0.0, ge=0, le=1)
    """How often a last step that is not the first begins from the true latent, noised, instead of what the steps
    before made."""
    later_texture: float = Field(1.0, gt=0)
    """What `texture_weight` is multiplied by, and L1's weight divided by, where the last step begins without noise; it
    counts less the noisier that step begins, and nothing from pure noise. Later steps are the generative end."""
    release_restoration: bool | Literal["tail"] = False
    """Whether the restoration network is trained as well, through the sampler and by L1 on y-hat. Where there is a
    detail decoder, the sampler's losses reach it through the features alone, and y-hat hears only of its own error.
    "tail": its last layer alone, which draws y-hat; the features stay as they are."""
    perceptual: PerceptualConfig = PerceptualConfig()
    texture_weight: float = Field(0.0, ge=0)
    """Of the distance between the deviations of the perceptual loss's features; needs `perceptual.weight`."""
    pattern_weight: float = Field(0.0, ge=0)
    """Of the pattern that repeats with every LR pixel (`perceptual.repeated_pattern`)."""
    grid_weight: float = Field(0.0, ge=0)
    """Of steps at the grid of a JPEG's blocks (`perceptual.repeated_steps`)."""
    grain_weight: float = Field(0.0, ge=0)
    """Of grain that the truth does not have (`perceptual.excess_grain`)."""
    adversarial_weight: float = Field(0.0, ge=0)
    """Of a discriminator that tells patches of the output from patches of the truth: the length of each picture's
    gradient where it is never wrong."""
    adversarial_channels: int = Field(24, ge=1)
    """Width of the discriminator's first layer."""
    adversarial_from: float = Field(0.1, ge=0, le=1)
    """Share of the run after which the sampler hears of the discriminator, which learns from the start: the gradient
    of one that knows nothing has a direction too, and it leads away."""
    decoder_blocks: int = Field(0, ge=0)
    """Residual blocks of a detail decoder after the autoencoder's; 0: none. Needs a restoration network."""
    decoder_tokens: bool = False
    """Whether the detail decoder sees the transformer's last tokens."""
    decoder_skip: bool = False
    """Whether it first draws the features on the photo by one convolution."""
    direct_share: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which the detail decoder draws the photo from y-hat alone, without sampling, as
    `--quality fast` does. Needs a detail decoder."""
    variety: float = Field(0.0, ge=0, le=1.5)
    """How far two versions of a photo differ, as a share of what its restored photo cannot know
    (`perceptual.variety_error`), where the last step begins without noise. It is less the noisier that step begins, and
    nothing from pure noise, so not at one step. Training steps of several sampling steps draw two versions, and the
    judges see the one that is closer to the truth. 0: one version."""
    variety_weight: float = Field(1000.0, gt=0)
    """Of the squared error of that difference."""
    held: Literal["transformer", "decoder"] | None = None
    """What is not trained. Transformer: it and its control branch, so that a step costs a third. Decoder: the detail
    decoder but for what it makes of tokens, so that the photo that is drawn without a sample stays as it is."""

    @property
    def run_steps(self) -> int:
        """The most steps that a training step may run."""
        return self.trained_steps or self.steps

    @model_validator(mode="after")
    def _has_features(self) -> SamplerConfig:
        if self.texture_weight and not self.perceptual.weight:
            raise ValueError("texture_weight needs perceptual.weight, whose features it compares")
        for key in ("decoder_tokens", "decoder_skip", "direct_share"):
            if getattr(self, key) and not self.decoder_blocks:
                raise ValueError(f"{key} is for a detail decoder; set decoder_blocks")
        if self.held == "decoder" and not self.decoder_tokens:
            raise ValueError("held: a held decoder hears of samples by tokens alone; set decoder_tokens=true")
        if self.held == "decoder" and (self.direct_share or self.release_restoration):
            raise ValueError("held: the photo without a sample is not trained while the decoder is held; set "
                             "direct_share=0 and release_restoration=false")
        if self.variety and self.run_steps == 1:
            raise ValueError("variety: versions are not asked to differ at one step; set trained_steps to 2 or more")
        if self.count_shares and (len(self.count_shares) != self.run_steps or not sum(self.count_shares)):
            raise ValueError(f"count_shares: give {self.run_steps} numbers, not all 0, one for each number of steps")
        return self


class DiffusionConfig(TrainConfig):
    """Trains JointDiT and its control branch on latents of a frozen autoencoder and restoration network."""

    task: Literal["diffusion"]
    autoencoder: str
    """A folder of ours, or an `AutoencoderKL` by folder or hub id (`stabilityai/sd-vae-ft-ema`)."""
    restoration: Path | None = None
    """None: y-hat is the bicubic enlargement, as in the paper."""
    init: Path | None = None
    """A folder of a pipeline whose transformer and control branch to begin from."""
    backbone: BackboneConfig = BackboneConfig()
    transformer: TransformerConfig = TransformerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    sampler: SamplerConfig = SamplerConfig()
    gradient_checkpointing: bool = False
    """Blocks are computed again in the backward pass, which saves most of the activations' memory."""
    mask_modelling: bool = True
    """Whether the instance map is denoised along with the photo; without, the network never sees it."""
    terminal_prob: float = Field(0.25, ge=0, le=1)
    """Share of samples at the last timestep, pure noise, where sampling begins."""
    denoising_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _layers_exist(self) -> DiffusionConfig:
        if self.alignment.layer > self.transformer.depth:
            raise ValueError(f"alignment.layer {self.alignment.layer} is more than depth {self.transformer.depth}")
        if (self.backbone.trained_blocks or 0) > self.transformer.depth:
            raise ValueError(f"backbone.trained_blocks {self.backbone.trained_blocks} is more than depth "
                             f"{self.transformer.depth}")
        if self.sampler.decoder_blocks and self.restoration is None:
            raise ValueError("sampler.decoder_blocks: the detail decoder sees the restoration network's features; set "
                             "restoration")
        if self.sampler.decoder_tokens and self.transformer.patch_size != 2:
            raise ValueError("sampler.decoder_tokens: the detail decoder knows tokens of 2x2 latents; set "
                             "transformer.patch_size=2")
        if self.backbone.pretrained is not None and self.init is not None:
            raise ValueError("backbone.pretrained and init exclude each other: a run begins from one of them")
        if self.backbone.pretrained is not None and self.transformer.prediction != "noise":
            raise ValueError("backbone.pretrained: a DiT predicts noise; set transformer.prediction=noise")
        if self.transformer.prediction == "noise" and self.schedule.rescale_betas_zero_snr:
            raise ValueError("transformer.prediction=noise says nothing at the last timestep of a schedule without any "
                             "signal there; set schedule.rescale_betas_zero_snr=false")
        if self.sampler.anchor_steps and self.transformer.prediction != "clean":
            raise ValueError("sampler.anchor_steps: what a network that sees past the noise is told must be true; set "
                             "transformer.prediction=clean")
        if not self.denoising_weight and not self.sampler.weight:
            raise ValueError("denoising_weight and sampler.weight are both 0, so nothing is trained; set one of them")
        if self.micro_batch and self.micro_batch % self.alignment.every:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide by alignment.every "
                             f"{self.alignment.every}, which counts the images of each part")
        if self.micro_batch == 1 and self.alignment.dispersion_weight:
            raise ValueError("alignment.dispersion_weight compares the images of a part; set micro_batch to 2 or more")
        idle = self.sampler.model_dump(exclude={"steps"}, exclude_defaults=True)
        if idle and not self.sampler.weight:
            raise ValueError(f"sampler.{next(iter(idle))} does nothing while sampler.weight is 0; set both, or neither")
        if self.data.crop % (8 * self.transformer.patch_size):
            raise ValueError(f"data.crop {self.data.crop} does not divide into tokens of "
                             f"{8 * self.transformer.patch_size} pixels")
        return self


AnyTrainConfig = AutoencoderConfig | RestorationConfig | DiffusionConfig | MapConfig


def load_config(path: Path, overrides: Sequence[str] = ()) -> AnyTrainConfig:
    """Reads a training configuration and applies `a.b=value` overrides (values are YAML).

    A file may name another one, beside it, that it `extends`: what it says itself goes before.

    Raises:
        ConfigError: the file is missing or no YAML, or a key is unknown, missing or of the wrong type.
    """
    discriminated: Any = Annotated[AnyTrainConfig, Field(discriminator="task")]
    return _validated(TypeAdapter(discriminated), path, overrides, "task")


S = TypeVar("S", bound=Section)


def load_section(kind: type[S], path: Path, overrides: Sequence[str] = ()) -> S:
    """Reads a configuration of one kind, otherwise as `load_config`."""
    return _validated(TypeAdapter(kind), path, overrides)


def _validated(adapter: TypeAdapter, path: Path, overrides: Sequence[str], discriminator: str | None = None) -> Any:
    values = _read(Path(path))
    for override in overrides:
        _apply(values, override)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_describe(error, discriminator)}") from error


def _read(path: Path, readers: tuple[Path, ...] = ()) -> dict:
    """What a file says, over what the one that it extends says; `readers` are those that extend it."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason(error)})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, such as `task: restoration`")
    extended = values.pop("extends", None)
    if extended is None:
        return values
    if not isinstance(extended, str) or path.parent / extended in (*readers, path):
        raise ConfigError(f"{path}: extends: expected the name of another file, which does not extend this one")
    return _merged(_read(path.parent / extended, (*readers, path)), values)


def _merged(below: dict, above: dict) -> dict:
    """Sections are merged key by key, everything else is replaced."""
    both = {key: _merged(below[key], value) for key, value in above.items()
            if isinstance(value, dict) and isinstance(below.get(key), dict)}
    return below | above | both


def _apply(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r}: expected key=value, such as batch=16")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error


def _describe(error: ValidationError, discriminator: str | None) -> str:
    problems = []
    for problem in error.errors():
        # the discriminator's value, the first part, is no key of the file
        place = problem["loc"][1:] if discriminator else problem["loc"]
        key = ".".join(str(part) for part in place) or discriminator
        reason = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        problems.append(f"{key}: {reason}" if key else reason)
    return "; ".join(problems)
