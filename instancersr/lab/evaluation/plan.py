"""`instancersr plan`: what a training run costs, before it is begun: FLOPs, memory, images/s, days, energy.

Parameters are counted on the real networks, built without memory (torch's meta device). FLOPs and memory are closed
forms; a multiplication and an addition are two FLOPs, elementwise work is not counted, as `torch.utils.flop_counter`
does. Shapes: N tokens, D width, H x W pixels of an HR crop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from instancersr.errors import UserError

from ..method.models import BlockAutoencoder, ControlNet, JointDiT, RestorationNetwork
from ..method.models.teachers import Projector
from ..training.config import AnyTrainConfig, ConfigError, DiffusionConfig
from ..training.stages.paper import build_transformer

MEMORY_SHARE = 0.9
"""Of a GPU's memory that a plan fills; the rest is for CUDA's context, libraries and fragmentation."""
WORD = 4
"""Bytes of an fp32 number: weights, gradients, AdamW's two moments and the moving average are kept in it."""


@dataclass(frozen=True)
class Gpu:
    """tflops: peak of dense bf16 tensor-core products with fp32 accumulation. memory: 1e9 bytes. watts: board power."""

    name: str
    tflops: float
    memory: float
    watts: float
    source: str


GPUS = {gpu.name: gpu for gpu in (
    Gpu("H100", 989.4, 80, 700, "NVIDIA H100 Tensor Core GPU data sheet, SXM5; half of the figure with sparsity"),
    Gpu("H100-PCIe", 756, 80, 350, "NVIDIA H100 Tensor Core GPU architecture white paper, PCIe"),
    Gpu("H200", 989.4, 141, 700, "NVIDIA H200 Tensor Core GPU data sheet, SXM; half of the figure with sparsity"),
    Gpu("A100", 312, 80, 400, "NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM4"),
    Gpu("A100-40GB", 312, 40, 400, "NVIDIA A100 Tensor Core GPU architecture white paper, 40 GB SXM4"),
    Gpu("L40S", 362, 48, 350, "NVIDIA L40S data sheet, without sparsity"),
    Gpu("RTX4090", 165.2, 24, 450, "NVIDIA Ada GPU architecture white paper, fp32 accumulation"),
    Gpu("RTX3090", 71, 24, 350, "NVIDIA Ampere GA102 GPU architecture white paper, fp32 accumulation"),
)}

DINOV2 = {"facebook/dinov2-small": (384, 12), "facebook/dinov2-base": (768, 12), "facebook/dinov2-large": (1024, 24)}
"""Width and depth of the published teachers (Oquab et al., 2023, arXiv:2304.07193, table 14)."""

SD_AUTOENCODER = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
                  "latent_channels": 4, "down_block_types": ["DownEncoderBlock2D"] * 4,
                  "up_block_types": ["UpDecoderBlock2D"] * 4}
AUTOENCODERS = {"stabilityai/sd-vae-ft-ema": SD_AUTOENCODER, "stabilityai/sd-vae-ft-mse": SD_AUTOENCODER}
"""Published configurations, so that a plan needs no network."""


@dataclass(frozen=True)
class Flops:
    """Of one forward pass: products with weights, and the two products of attention, which have none."""

    weights: float = 0.0
    attention: float = 0.0

    @property
    def forward(self) -> float:
        """The two together."""
        return self.weights + self.attention

    @property
    def backward(self) -> float:
        """Twice the products with weights; 2.5 times attention's, whose fast kernels compute the scores again."""
        return 2 * self.weights + 2.5 * self.attention

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.weights + other.weights, self.attention + other.attention)

    def __mul__(self, factor: float) -> Flops:
        return Flops(factor * self.weights, factor * self.attention)


@dataclass(frozen=True)
class Part:
    """A network: its parameters, how many of them are trained, and its FLOPs for one image of training."""

    name: str
    parameters: int
    trained: bool
    forward: float
    backward: float = 0.0
    recomputed: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU when it is fullest, at the end of a micro-batch's forward pass with gradients accumulated.

    copies: of the weights in bf16, which autocast keeps for the backward pass. activations: what autograd saves.
    scratch: the largest matrix's new gradient, before it is added. workspace: of the autoencoder's encoder, which is
    gone when activations begin to be saved.
    """

    weights: float
    frozen: float
    gradients: float
    optimizer: float
    average: float
    copies: float
    activations: float
    scratch: float
    workspace: float

    @property
    def total(self) -> float:
        """The larger of the two moments."""
        held = self.weights + self.frozen + self.gradients + self.optimizer + self.average
        return held + max(self.copies + self.activations + self.scratch, self.workspace)


@dataclass(frozen=True)
class Setup:
    """How a run is laid out.

    Args:
        gpu, gpus: on what it runs.
        utilisation: share of the peak that all the FLOPs counted here reach, recomputation included.
        micro_batch: images that a GPU has in one forward pass.
        sharded: FSDP2 (weights, gradients, optimizer and average divided by the GPUs) instead of DDP.
        checkpointing: blocks are computed again in the backward pass instead of keeping what they computed.
        cached_latents: those of photo and map come from the shards; only the LR photo is encoded.
        cached_teacher: its features come from the shards.
        bf16: autocast, as on GPUs; else everything is fp32.
    """

    gpu: Gpu
    gpus: int = 1
    utilisation: float = 0.45
    micro_batch: int = 1
    sharded: bool = False
    checkpointing: bool = False
    cached_latents: bool = False
    cached_teacher: bool = False
    bf16: bool = True


@dataclass(frozen=True)
class Plan:
    """The answer. parts: FLOPs for one image. seconds, kilowatt_hours: of the whole run, GPUs at full board power."""

    setup: Setup
    images: int
    batch: int
    parts: list[Part]
    memory: Memory

    @property
    def flops_per_image(self) -> float:
        """Of training: forward, backward, recomputation, frozen networks."""
        return sum(part.forward + part.backward + part.recomputed for part in self.parts)

    @property
    def images_per_second(self) -> float:
        """Of all GPUs together."""
        return self.setup.gpus * self.setup.utilisation * self.setup.gpu.tflops * 1e12 / self.flops_per_image

    @property
    def seconds(self) -> float:
        """To the end of the schedule."""
        return self.images / self.images_per_second

    @property
    def kilowatt_hours(self) -> float:
        """GPU boards alone."""
        return self.seconds / 3600 * self.setup.gpus * self.setup.gpu.watts / 1000

    @property
    def bandwidth(self) -> float:
        """Bytes/s that each GPU must send for the ring all-reduce of gradients to take no longer than a step."""
        gpus = self.setup.gpus
        sent = 2 * (gpus - 1) / gpus * WORD * sum(part.parameters for part in self.parts if part.trained)
        return sent * self.images_per_second / self.batch

    @property
    def fits(self) -> bool:
        """Whether the memory suffices, with a margin."""
        return self.memory.total <= MEMORY_SHARE * self.setup.gpu.memory * 1e9


def make_plan(config: AnyTrainConfig, setup: Setup, micro_batch: int | None = None) -> Plan:
    """The cost of a run.

    Args:
        config: of a diffusion run without a stage through the sampler.
        setup: its layout.
        micro_batch: images in one forward pass; None for the most that fit, or 1 where none do.

    Raises:
        ConfigError: the task is another, a frozen network's configuration is not to be had, or the batch does not
            divide into GPUs and micro-batches.
    """
    networks = _Networks(_check(config))
    share = config.batch // setup.gpus
    if config.batch % setup.gpus or (micro_batch is not None and share % micro_batch):
        raise ConfigError(f"batch: {config.batch} does not divide into {setup.gpus} GPUs"
                          + (f" and micro-batches of {micro_batch}" if micro_batch else ""))
    sizes = [size for size in range(share, 0, -1) if share % size == 0] if micro_batch is None else [micro_batch]
    for size in sizes:
        setup = replace(setup, micro_batch=size)
        plan = Plan(setup, config.images, config.batch, networks.parts(setup), networks.memory(setup))
        if plan.fits:
            break
    return plan


def _check(config: AnyTrainConfig) -> DiffusionConfig:
    if not isinstance(config, DiffusionConfig):
        raise ConfigError(f"task: plan knows diffusion, not {config.task}")
    if config.sampler.weight:
        raise ConfigError("sampler.weight: plan does not count the stage through the sampler; set it to 0")
    if config.backbone.trained_blocks is not None:
        raise ConfigError("backbone.trained_blocks: plan counts a backbone that is trained whole; set it to null")
    return config


def checkpointing(config: AnyTrainConfig) -> bool:
    """Whether the run computes blocks twice to save memory."""
    return isinstance(config, DiffusionConfig) and config.gradient_checkpointing


def find_gpu(name: str) -> Gpu:
    """By its name, whatever the case.

    Raises:
        UserError: it is not known.
    """
    for gpu in GPUS.values():
        if gpu.name.lower() == name.lower():
            return gpu
    raise UserError(f"--gpu: {name} is unknown; use {', '.join(GPUS)}")


def as_json(plan: Plan) -> str:
    """Everything, in the units of the attributes."""
    derived = ("flops_per_image", "images_per_second", "seconds", "kilowatt_hours", "bandwidth", "fits")
    values = asdict(plan) | {name: getattr(plan, name) for name in derived}
    values["memory"]["total"] = plan.memory.total
    return json.dumps(values, indent=2)


def as_tables(plan: Plan) -> list[Table]:
    """For a person: networks, memory, the run."""
    return [_parts_table(plan), _memory_table(plan), _run_table(plan)]


def _parts_table(plan: Plan) -> Table:
    table = Table("network", "parameters", "trained", "forward", "backward", "recomputed",
                  title="For one image, in GFLOP", title_justify="left")
    for part in plan.parts:
        table.add_row(part.name, f"{part.parameters / 1e6:,.2f} M", "yes" if part.trained else "no",
                      *(f"{flops / 1e9:,.1f}" for flops in (part.forward, part.backward, part.recomputed)))
    table.add_section()
    trained = sum(part.parameters for part in plan.parts if part.trained)
    sums = (sum(getattr(part, kind) for part in plan.parts) for kind in ("forward", "backward", "recomputed"))
    table.add_row("together", f"{sum(part.parameters for part in plan.parts) / 1e6:,.2f} M", f"{trained / 1e6:,.2f} M",
                  *(f"{flops / 1e9:,.1f}" for flops in sums))
    return table


def _memory_table(plan: Plan) -> Table:
    setup = plan.setup
    layout = "sharded" if setup.sharded and setup.gpus > 1 else "a copy on every GPU" if setup.gpus > 1 else "one GPU"
    table = Table("of one GPU's memory", "GB", title=f"Micro-batches of {setup.micro_batch}, {layout}",
                  title_justify="left")
    names = {"weights": "weights trained", "frozen": "frozen networks", "gradients": "gradients",
             "optimizer": "AdamW's moments", "average": "moving average", "copies": "bf16 copies of the weights",
             "activations": "activations", "scratch": "the largest matrix's new gradient",
             "workspace": "or, before these three, the encoder's work"}
    for key, name in names.items():
        table.add_row(name, f"{getattr(plan.memory, key) / 1e9:,.2f}")
    table.add_section()
    verdict = "" if plan.fits else f"  does not fit in {MEMORY_SHARE:.0%} of {setup.gpu.memory:g}"
    table.add_row("together, at the fullest", f"{plan.memory.total / 1e9:,.2f}{verdict}",
                  style=None if plan.fits else "red")
    return table


def _run_table(plan: Plan) -> Table:
    setup = plan.setup
    table = Table("the run", "", title=f"{setup.gpus} x {setup.gpu.name} ({setup.gpu.tflops:g} TFLOP/s bf16, "
                  f"{setup.gpu.watts:g} W) at {setup.utilisation:.0%} of the peak", title_justify="left")
    table.add_row("FLOPs for one image", f"{plan.flops_per_image / 1e12:,.2f} T")
    table.add_row("images/s", f"{plan.images_per_second:,.1f}")
    if setup.gpus > 1:
        table.add_row("to send from each GPU", f"at least {plan.bandwidth / 1e9:,.1f} GB/s")
    table.add_row("images", f"{plan.images:,} ({plan.images / plan.batch:,.0f} steps of {plan.batch})")
    table.add_row("days", f"{plan.seconds / 86400:,.2f}")
    table.add_row("energy of the GPU boards", f"{plan.kilowatt_hours:,.0f} kWh")
    return table


# ------------------------------------------------------------------------------------------------ closed forms


def block_flops(tokens: int, width: int, mlp_ratio: float = 4.0) -> Flops:
    """A transformer block: qkv and projection 8 N D^2, MLP 4 r N D^2, attention 4 N^2 D."""
    return Flops((8 + 4 * mlp_ratio) * tokens * width**2, 4 * tokens**2 * width)


def modulated_block_flops(tokens: int, width: int, mlp_ratio: float = 4.0) -> Flops:
    """With DiT's adaptive layer norm: 12 D^2 more, once for all tokens."""
    return block_flops(tokens, width, mlp_ratio) + Flops(12 * width**2)


def transformer_flops(config: Any, tokens: int) -> Flops:
    """JointDiT of this configuration on so many tokens: embeddings, blocks, final layer."""
    width, patch = config.width, config.patch_size**2
    embed = embed_flops(config, tokens)
    time = 2 * 256 * width + 2 * width**2
    final = 4 * width**2 + 2 * tokens * width * patch * config.out_channels
    return modulated_block_flops(tokens, width, config.mlp_ratio) * config.depth + Flops(embed + time + final)


def embed_flops(config: Any, tokens: int) -> float:
    """The map from patches to tokens."""
    return 2 * tokens * config.width * config.patch_size**2 * config.in_channels


def control_flops(config: Any, tokens: int) -> Flops:
    """ControlNet of this configuration: its embedding and its projection, blocks, a projection after each."""
    width = config.width
    embed = 2 * tokens * width * config.patch_size**2 * config.condition_channels
    project = Flops(2 * tokens * width**2)
    blocks = (modulated_block_flops(tokens, width, config.mlp_ratio) + project) * config.depth
    return blocks + project + Flops(embed)


def dinov2_flops(width: int, depth: int, tokens: int, patch: int = 14) -> Flops:
    """DINOv2 on `tokens` patches and a class token."""
    return block_flops(tokens + 1, width) * depth + Flops(2 * tokens * width * 3 * patch**2)


def dinov2_parameters(width: int, depth: int, patch: int = 14, size: int = 518) -> int:
    """Patch, class, mask and position embeddings; blocks with biases, layer norms and layer scales; the last norm."""
    embeddings = (3 * patch**2 + 1) * width + 2 * width + (1 + (size // patch) ** 2) * width
    return embeddings + depth * (12 * width**2 + 15 * width) + 2 * width


def autoencoder_flops(config: Any, height: int, width: int) -> Flops:
    """Encoding one picture of so many pixels, with an `AutoencoderKL` or a `BlockAutoencoder`."""
    if config["_class_name"] == "BlockAutoencoder":
        return Flops(sum(2 * inputs * outputs * kernel**2 * height * width / scale**2
                         for inputs, outputs, kernel, scale in _block_encoder_convolutions(config)))
    convolutions = sum(2 * inputs * outputs * kernel**2 * height * width / scale**2
                       for inputs, outputs, kernel, scale in _encoder_convolutions(config))
    top, scale = config["block_out_channels"][-1], 2 ** (len(config["block_out_channels"]) - 1)
    places = height * width / scale**2
    return Flops(convolutions + 8 * places * top**2, 4 * places**2 * top)  # the middle's attention has one head


def _encoder_convolutions(config: Any) -> Iterator[tuple[int, int, int, int]]:
    """Channels in, channels out, kernel, and downscaling of the output, for each convolution of AutoencoderKL."""
    channels, scale = config["block_out_channels"][0], 1
    yield 3, channels, 3, scale
    for level, width in enumerate(config["block_out_channels"]):
        for _ in range(config["layers_per_block"]):
            yield channels, width, 3, scale
            yield width, width, 3, scale
            if channels != width:
                yield channels, width, 1, scale
            channels = width
        if level < len(config["block_out_channels"]) - 1:
            scale *= 2
            yield width, width, 3, scale
    for _ in range(4):  # two residual blocks in the middle
        yield channels, channels, 3, scale
    moments = 2 * config["latent_channels"]
    yield channels, moments, 3, scale
    if config.get("use_quant_conv", True):
        yield moments, moments, 1, scale


def _block_encoder_convolutions(config: Any) -> Iterator[tuple[int, int, int, int]]:
    block, latent, refine = config["block_size"], config["latent_channels"], config["refine_channels"]
    yield 3, latent, block, block
    if refine:
        yield 3 * block**2, refine, 3, block
        yield refine, refine, 3, block
        yield refine, latent, 3, block


def encoder_workspace(config: Any, height: int, width: int) -> float:
    """Bytes for one picture in AutoencoderKL's first level, where five feature maps live; next to none in ours."""
    return 5 * WORD * config.get("block_out_channels", [0])[0] * height * width


def restoration_flops(channels: int, blocks: int, pixels: float, scale: int = 4) -> Flops:
    """RestorationNetwork on so many LR pixels: head, residual blocks, tail."""
    return Flops(2 * 9 * pixels * (3 * channels + 2 * blocks * channels**2 + channels * 3 * scale**2))


def block_activations(tokens: int, width: int, mlp_ratio: float, bf16: bool) -> float:
    """Bytes that autograd keeps of a DiT block for one image.

    In tokens x width: input and output of both layer norms (fp32 under autocast) 4; their modulated outputs 2; q, k
    and v 3; attention 1; its projection 1; the MLP's two hidden layers 2 r; its output 1.
    """
    word, norm_word = (2, 4) if bf16 else (4, 4)
    return tokens * width * (4 * norm_word + (8 + 2 * mlp_ratio) * word)


# ---------------------------------------------------------------------------------------------- the networks


class _Networks:
    """The networks of a configuration, without memory, and what they cost."""

    def __init__(self, config: DiffusionConfig):
        self.config = config
        self.side = config.data.crop
        self.tokens = (self.side // (8 * config.transformer.patch_size)) ** 2
        autoencoder = read_config(config.autoencoder, AUTOENCODERS, "autoencoder")
        self.autoencoder_config = autoencoder
        self.restoration_config = read_config(config.restoration, {}, "restoration") if config.restoration else None
        self.teacher = None
        if config.alignment.teacher is not None and config.alignment.weight:
            self.teacher = _teacher_size(config.alignment.teacher)
        with torch.device("meta"):
            self.autoencoder = _build_autoencoder(autoencoder)
            self.transformer, self.control = _build_transformer(config, autoencoder["latent_channels"])
            self.projector = self.teacher and Projector(self.transformer.config.width, self.teacher[0])
            self.restoration = _build_restoration(self.restoration_config)

    def parts(self, setup: Setup) -> list[Part]:
        """Every network with its FLOPs for one image."""
        parts = [*self._trained_parts(setup.checkpointing)]
        encoded = 1 if setup.cached_latents else 3  # photo, instance map, LR photo
        encoding = autoencoder_flops(self.autoencoder_config, self.side, self.side) * encoded
        parts.append(Part("autoencoder", _count(self.autoencoder), False, encoding.forward))
        size = self.restoration_config
        if size is not None and self.restoration is not None:
            flops = restoration_flops(size["channels"], size["blocks"], (self.side / 4) ** 2)
            parts.append(Part("restoration", _count(self.restoration), False, flops.forward))
        if self.teacher is not None and not setup.cached_teacher:
            width, depth = self.teacher
            depth = self.config.alignment.teacher_layer or depth
            flops = dinov2_flops(width, depth, self.tokens) * self._aligned
            parts.append(Part("teacher", dinov2_parameters(width, depth), False, flops.forward))
        return parts

    @property
    def _aligned(self) -> float:
        """Share of the images on which Eq. 5 is computed."""
        return self.config.alignment.until / self.config.alignment.every

    def _trained_parts(self, checkpointing: bool) -> Iterator[Part]:
        config, control = self.transformer.config, self.control.config
        block = modulated_block_flops(self.tokens, config.width, config.mlp_ratio)
        # Pictures need no gradient, so the first map has half a backward pass; each branch embeds the joint latent.
        embed = embed_flops(config, self.tokens)
        flops = transformer_flops(config, self.tokens)
        yield Part("backbone", _count(self.transformer), True, flops.forward + embed, flops.backward - embed,
                   block.forward * config.depth * checkpointing)
        flops = control_flops(control, self.tokens)
        yield Part("control branch", _count(self.control), True, flops.forward, flops.backward,
                   block.forward * control.depth * checkpointing)
        if self.projector is not None:
            count = _count(self.projector)
            flops = Flops(2 * self.tokens * sum(p.numel() for p in self.projector.parameters() if p.ndim > 1))
            flops *= self._aligned
            yield Part("projector", count, True, flops.forward, flops.backward)

    def memory(self, setup: Setup) -> Memory:
        """On one GPU."""
        parts = self.parts(setup)
        trained = WORD * sum(part.parameters for part in parts if part.trained)
        frozen = WORD * sum(part.parameters for part in parts if not part.trained)
        shards = setup.gpus if setup.sharded else 1
        # DDP sends gradients in buckets of their own
        buckets = 2 if setup.gpus > 1 and not setup.sharded else 1
        copies = trained / 2 if setup.bf16 else 0.0
        if setup.sharded:  # whole only for the block at work and the next one
            copies = 2 * WORD * _count(self.transformer.blocks[0])
        networks = [part for part in (self.transformer, self.control, self.projector) if part is not None]
        scratch = WORD * max(p.numel() for network in networks for p in network.parameters())
        return Memory(trained / shards, frozen, buckets * trained / shards, 2 * trained / shards, trained / shards,
                      copies, setup.micro_batch * self._activations(setup), scratch,
                      setup.micro_batch * self._workspace())

    def _activations(self, setup: Setup) -> float:
        """Bytes for one image."""
        config, control = self.transformer.config, self.control.config
        word, stream = (2 if setup.bf16 else 4), self.tokens * config.width
        block = block_activations(self.tokens, config.width, config.mlp_ratio, setup.bf16)
        blocks = config.depth + control.depth
        kept = blocks * word * stream + block if setup.checkpointing else blocks * block
        final = 2 * 4 * stream + word * stream
        lengths = 2 * 4 * stream  # of Eq. 6: the tokens in fp32 and their squares
        return kept + final + lengths + self._aligned_activations(word)

    def _aligned_activations(self, word: int) -> float:
        """Of the projector, and of the cosine in fp32 of both sides."""
        if self.teacher is None or self.projector is None:
            return 0.0
        hidden = sum(layer.out_features for layer in self.projector if isinstance(layer, torch.nn.Linear))
        width = self.teacher[0]
        return self.tokens * (2 * (hidden - width) * word + 4 * 4 * width) / self.config.alignment.every

    def _workspace(self) -> float:
        """Bytes for one image of what encodes it."""
        return encoder_workspace(self.autoencoder_config, self.side, self.side)


def _build_transformer(config: DiffusionConfig, channels: int) -> tuple[JointDiT, ControlNet]:
    transformer = build_transformer(config.transformer, channels)
    return transformer, ControlNet.from_backbone(transformer, channels, config.transformer.control_depth)


def _build_autoencoder(config: dict[str, Any]) -> torch.nn.Module:
    from diffusers import AutoencoderKL

    kind = BlockAutoencoder if config["_class_name"] == "BlockAutoencoder" else AutoencoderKL
    return kind.from_config(config)


def _build_restoration(config: dict[str, Any] | None) -> torch.nn.Module | None:
    return None if config is None else RestorationNetwork.from_config(config)


def _teacher_size(name: str) -> tuple[int, int]:
    """Width and depth."""
    if name in DINOV2:
        return DINOV2[name]
    config = read_config(name, {}, "alignment.teacher")
    return config["hidden_size"], config["num_hidden_layers"]


def read_config(source: str | Path, published: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """A network's config.json: from `published`, a folder, or the hub.

    Raises:
        ConfigError: there is none; names the configuration's key.
    """
    if str(source) in published:
        return published[str(source)]
    path = Path(source) / "config.json"
    try:
        if not path.is_file():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(str(source), "config.json"))
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:  # the hub's errors are kin of these
        raise ConfigError(f"{key}: {source} holds no config.json; give a folder with one, or a name of the hub: "
                          f"`hf download {source} config.json`") from error


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
