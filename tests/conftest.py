"""Fixtures that several test files use."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

if "PYTEST_XDIST_WORKER" in os.environ:  # several workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with photos and benchmark beside the checkout; tests that need it are skipped without it."""
    folder = Path(os.environ.get("INSTANCERSR_SHARED", SHARED))
    if not (folder / "photos").is_dir():
        pytest.skip(f"{folder} with the training photos and the benchmark is not here")
    return folder


@pytest.fixture(scope="session")
def camera_photo() -> np.ndarray:
    """(128, 128, 3) uint8 of a good camera: shrunk by four, with a lens's blur and a sensor's own little noise."""
    small = np.asarray(Image.fromarray(data.astronaut()).resize((128, 128), Image.Resampling.BOX), float)
    noise = np.random.default_rng(0).normal(0, 0.7, small.shape)
    return (gaussian_filter(small, (0.7, 0.7, 0)) + noise).clip(0, 255).round().astype(np.uint8)


@pytest.fixture
def permissions_hold():
    """Root, too, writes only where it may: for this thread its capability to pass over permissions is put away."""
    if not hasattr(os, "geteuid") or (os.geteuid() == 0 and sys.platform != "linux"):
        pytest.skip("this user may write anywhere")
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities(7): the version of the call, this thread
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    effective, sets[0] = sets[0], sets[0] & ~(1 << 1)  # CAP_DAC_OVERRIDE
    libc.capset(header, sets)
    yield
    sets[0] = effective
    libc.capset(header, sets)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A model of random weights with its graphs, small enough to run in a blink."""
    from diffusers import DDIMScheduler

    from instancersr.lab.graphs import write_graphs
    from instancersr.lab.method.models import BlockAutoencoder, ControlNet, JointDiT, RestorationNetwork
    from instancersr.lab.pipeline import InstanceRSRPipeline
    from instancersr.lab.training.config import ScheduleConfig

    torch.manual_seed(0)
    transformer = JointDiT(8, 8, patch_size=2, width=32, depth=2, heads=2, residual_std=[0.5] * 8)
    torch.nn.init.normal_(transformer.final_layer.linear.weight, std=0.1)
    autoencoder = BlockAutoencoder(latent_channels=4)
    autoencoder.fit([torch.rand(2, 3, 64, 64) * 2 - 1])
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False, **ScheduleConfig().model_dump())
    pipeline = InstanceRSRPipeline(autoencoder, RestorationNetwork(8, 1), transformer,
                                   ControlNet.from_backbone(transformer, 4, 1), scheduler, default_steps=2)
    folder = tmp_path_factory.mktemp("tiny_model")
    pipeline.save_pretrained(folder)
    write_graphs(folder)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """Six natural photos of 160 pixels a side with two instances each, the first of them held out by its name."""
    import json

    from skimage import data

    from instancersr.instances.annotations import annotations_from_id_map

    folder = tmp_path_factory.mktemp("photos")
    sources = [data.astronaut(), data.coffee(), data.chelsea()]
    for number, name in enumerate(["photo10", *(f"photo{n}" for n in range(5))]):
        picture = sources[number % 3][60 : 60 + 160, 90 * (number // 3) : 90 * (number // 3) + 160]
        ids = np.zeros((160, 160), np.int32)
        ids[20:90, 30:120], ids[100:150, 10:150] = 1, 2
        Image.fromarray(picture).save(folder / f"{name}.png")
        (folder / f"{name}.json").write_text(json.dumps(annotations_from_id_map(ids, f"{name}.png")))
    return folder


@pytest.fixture(scope="session")
def save_hub_models() -> Callable[[Path, int], dict[str, str]]:
    """Saves in the hub's layouts a DiT of a side in latents, whose outputs are not 0, an AutoencoderKL and a DINOv2."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel
    from transformers import Dinov2Config, Dinov2Model

    def save(folder: Path, side: int) -> dict[str, str]:
        torch.manual_seed(0)
        dit = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
                                    num_layers=3, sample_size=side, patch_size=2, num_embeds_ada_norm=10)
        for parameter in dit.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        for block in dit.transformer_blocks[1:]:  # as in the published checkpoint: every block has the same embedders
            block.norm1.emb.load_state_dict(dit.transformer_blocks[0].norm1.emb.state_dict())
        dit.save_pretrained(folder / "dit")
        AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                      block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4,
                      scaling_factor=0.18215).save_pretrained(folder / "vae")
        Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56,
                                 patch_size=14)).save_pretrained(folder / "dinov2")
        return {name: str(folder / name) for name in ("dit", "vae", "dinov2")}

    return save


@pytest.fixture(scope="session")
def small_sam(tmp_path_factory) -> Path:
    """A small random SAM and its processor in the hub's layout."""
    pytest.importorskip("torchvision", reason="SAM's processor needs torchvision")
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    vision = SamVisionConfig(hidden_size=16, output_channels=8, num_hidden_layers=1, num_attention_heads=2,
                             image_size=64, patch_size=16, mlp_dim=16, num_pos_feats=4, window_size=2,
                             global_attn_indexes=[0])
    prompt = SamPromptEncoderConfig(hidden_size=8, image_size=64, patch_size=16, image_embedding_size=4,
                                    mask_input_channels=4)
    decoder = SamMaskDecoderConfig(hidden_size=8, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2,
                                   iou_head_depth=2, iou_head_hidden_dim=8)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    SamModel(SamConfig(vision_config=vision.to_dict(), prompt_encoder_config=prompt.to_dict(),
                       mask_decoder_config=decoder.to_dict())).save_pretrained(folder)
    SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
                      mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_sam2(tmp_path_factory) -> Path:
    """A small random SAM 2, likewise."""
    pytest.importorskip("torchvision", reason="SAM's processor needs torchvision")
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
                                  embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
                                  window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[3],
                                  window_positional_embedding_background_size=[2, 2])
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
                              backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]])
    prompt = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2,
                                    iou_head_depth=2, iou_head_hidden_dim=8)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam2")
    Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt,
                         mask_decoder_config=decoder)).save_pretrained(folder)
    Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
