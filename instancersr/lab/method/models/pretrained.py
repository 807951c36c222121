"""Public checkpoints -> the networks here: DiT as the backbone, autoencoders of Stable Diffusion.

DiT's latent has C channels and its output 2C, noise and variance. The joint latent [z_x; z_m] has twice as many, so the
first and last layers are inflated with zeros: the network then does on z_x what it did before, whatever z_m is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instancersr.errors import UserError

from .autoencoder import BlockAutoencoder
from .transformer import JointDiT

# What `diffusers` has of DiT and of the KL autoencoder is imported where it is asked for: that takes seconds, and a run
# that begins from networks of ours asks for neither.

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Attention heads of DiT-S, B, L and XL by width (Peebles & Xie, 2023, table 1): no shape of a checkpoint tells."""

State = dict[str, Tensor]

# ------------------------------------------------------------------------------------------ the backbone


def load_dit(source: str | Path, **config: Any) -> JointDiT:
    """A pretrained DiT, inflated to the joint latent; or a JointDiT as it is.

    Args:
        source: a file with the original flat state dict (`DiT-XL-2-512x512.pt` or .safetensors), a folder or hub id of
            `diffusers` with a `DiTTransformer2DModel` in it or in its `transformer` sub-folder
            (`facebook/DiT-XL-2-512`), or a folder of a JointDiT.
        config: arguments of JointDiT that replace those read off the checkpoint, such as `heads` or `base_grid`.

    Raises:
        UserError: there are no such weights, or they are not a DiT's.
    """
    path = Path(source)
    if path.is_file():
        return _inflated(*_read_original(path), config)
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if _class_of(folder) == "JointDiT":
        return JointDiT.from_pretrained(folder, low_cpu_mem_usage=False, **config)
    return _inflated(*_read_diffusers(str(source), folder), config)


def inflate(state: Mapping[str, Tensor]) -> State:
    """A DiT's state dict in the original layout -> JointDiT's, of twice the channels; new weights are zero.

    The rows of the last layer are (p, p, channels): noise of x, noise of m, variance of x, variance of m.
    """
    first, last = state["x_embedder.proj.weight"], state["final_layer.linear.weight"]
    channels, patch = first.shape[1], first.shape[-1]
    inflated = dict(state)
    inflated["x_embedder.proj.weight"] = torch.cat([first, torch.zeros_like(first)], 1)  # (D, 2C, p, p)
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        rows = state[name].reshape(patch, patch, len(last) // patch**2, -1)               # (p, p, C or 2C, D or 1)
        parts = [part for half in rows.split(channels, 2) for part in (half, torch.zeros_like(half))]
        inflated[name] = torch.cat(parts, 2).reshape(-1, *state[name].shape[1:])
    return inflated


def _inflated(state: State, read: dict[str, Any], config: dict[str, Any]) -> JointDiT:
    inflated = inflate(state)
    first, last = inflated["x_embedder.proj.weight"], inflated["final_layer.linear.weight"]
    width, patch = first.shape[0], first.shape[-1]
    settings = {
        "in_channels": first.shape[1], "out_channels": len(last) // patch**2, "patch_size": patch, "width": width,
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "heads": HEADS.get(width, max(1, width // 64)),
        "num_classes": len(state["y_embedder.embedding_table.weight"]) - 1,
        "mlp_ratio": len(state["blocks.0.mlp.fc1.bias"]) / width} | read | config
    with torch.device("meta"):  # every weight is replaced
        model = JointDiT(**settings)
    try:
        model.load_state_dict(inflated, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"load_dit: the checkpoint is no DiT of these settings ({reason})") from error
    return model


def _read_original(path: Path) -> tuple[State, dict[str, Any]]:
    """The flat state dict of facebookresearch/DiT, less its table of positions, whose size is the base grid's."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors have their own exceptions
        reason = type(error).__name__
        raise UserError(f"{path}: not a checkpoint that can be read ({reason}); fetch it again") from error
    state = dict(state.get("ema", state))  # training checkpoints hold the average beside the model
    if "x_embedder.proj.weight" not in state or "y_embedder.embedding_table.weight" not in state:
        raise UserError(f"{path}: no DiT in the original layout (x_embedder.proj.weight is missing)")
    tokens = state.pop("pos_embed").shape[1]
    return state, {"base_grid": round(tokens**0.5)}


def _read_diffusers(name: str, folder: Path) -> tuple[State, dict[str, Any]]:
    from diffusers import DiTTransformer2DModel

    try:
        if folder.is_dir():
            model = DiTTransformer2DModel.from_pretrained(folder)
        else:
            model = DiTTransformer2DModel.from_pretrained(name, subfolder="transformer")
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: no DiT here and none in the hub's cache; "
                        f"fetch it with `hf download {name}`") from error
    settings = model.config
    if settings.norm_type != "ada_norm_zero":
        raise UserError(f"{name}: not a class-conditional DiT (norm_type {settings.norm_type})")
    read = {"heads": settings.num_attention_heads, "base_grid": settings.sample_size // settings.patch_size,
            "frequency_shift": 1, "mlp_norm_eps": settings.norm_eps}
    return original_layout(model.state_dict()), read


def original_layout(state: Mapping[str, Tensor]) -> State:
    """`diffusers`' keys -> the original ones. There each block has a copy of the embedders; the first's is read."""
    embedders = "transformer_blocks.0.norm1.emb."
    names = {"pos_embed.proj": "x_embedder.proj", "proj_out_1": "final_layer.adaLN_modulation.1",
             "proj_out_2": "final_layer.linear", embedders + "timestep_embedder.linear_1": "t_embedder.mlp.0",
             embedders + "timestep_embedder.linear_2": "t_embedder.mlp.2",
             embedders + "class_embedder.embedding_table": "y_embedder.embedding_table"}
    inside = {"norm1.linear": "adaLN_modulation.1", "attn1.to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1",
              "ff.net.2": "mlp.fc2"}
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("transformer_blocks."))
    names |= {f"transformer_blocks.{n}.{theirs}": f"blocks.{n}.{ours}"
              for n in range(depth) for theirs, ours in inside.items()}
    renamed = {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for theirs, ours in names.items()
               for kind in ("weight", "bias") if f"{theirs}.{kind}" in state}
    for n in range(depth):
        for kind in ("weight", "bias"):
            parts = [state[f"transformer_blocks.{n}.attn1.to_{part}.{kind}"] for part in "qkv"]
            renamed[f"blocks.{n}.attn.qkv.{kind}"] = torch.cat(parts)
    return renamed


# --------------------------------------------------------------------------------------- the autoencoder


def load_autoencoder(source: str | Path) -> nn.Module:
    """A frozen autoencoder: a folder of ours, or an `AutoencoderKL` by folder or hub id (`stabilityai/sd-vae-ft-ema`).

    A pipeline's folder or hub id will do: the autoencoder is looked for in `autoencoder` and `vae`. Channels, scale and
    shift of the latents are in its config.

    Raises:
        UserError: there is none, or it has other than eight pixels along a latent.
    """
    path = Path(source)
    folders = [folder for folder in (path, path / "autoencoder", path / "vae") if (folder / "config.json").is_file()]
    if path.is_dir() and not folders:
        raise UserError(f"{source}: no autoencoder in this folder (config.json is missing)")
    try:
        if folders and _class_of(folders[0]) == "BlockAutoencoder":
            model: Any = BlockAutoencoder.from_pretrained(folders[0], low_cpu_mem_usage=False)
        else:
            model = _kl_autoencoder(str(source), folders)
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: no autoencoder here and none in the hub's cache; "
                        f"fetch it with `hf download {source}`") from error
    return model.eval().requires_grad_(False)


def _kl_autoencoder(name: str, folders: Sequence[Path]) -> nn.Module:
    """Of the first of the folders, or of the hub."""
    from diffusers import AutoencoderKL

    try:
        model = AutoencoderKL.from_pretrained(folders[0] if folders else name)
    except (OSError, ValueError):
        if folders:
            raise
        model = AutoencoderKL.from_pretrained(name, subfolder="vae")
    levels = len(model.config.block_out_channels)
    if levels != 4:
        raise UserError(f"{name}: its latents are {2 ** (levels - 1)} pixels a side, 8 are needed")
    return model


def _class_of(folder: Path) -> str | None:
    file = folder / "config.json"
    return json.loads(file.read_text()).get("_class_name") if file.is_file() else None
