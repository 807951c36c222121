"""Pretrained backbones against `diffusers`' own DiT, and against DiT's published keys, shapes and sizes."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

from instancersr.errors import UserError
from instancersr.lab.method.models import BlockAutoencoder, ControlNet, JointDiT
from instancersr.lab.method.models.pretrained import inflate, load_autoencoder, load_dit, original_layout

DEPTH, WIDTH, CLASSES = 3, 32, 10


@pytest.fixture(scope="module")
def stock() -> DiTTransformer2DModel:
    """A small DiT of random weights, none of them zero."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=WIDTH // 2, in_channels=4, out_channels=8,
                                  num_layers=DEPTH, sample_size=16, patch_size=2, num_embeds_ada_norm=CLASSES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for block in model.transformer_blocks[1:]:  # as in the published checkpoint: every block has the same embedders
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model.eval()


def published_layout(stock: DiTTransformer2DModel) -> dict[str, torch.Tensor]:
    """The stock model's weights under the names and shapes of facebookresearch/DiT, written out by hand."""
    w = stock.state_dict()
    block = "transformer_blocks.{}."
    flat = {"pos_embed": torch.zeros(1, 64, WIDTH),
            "x_embedder.proj.weight": w["pos_embed.proj.weight"], "x_embedder.proj.bias": w["pos_embed.proj.bias"],
            "y_embedder.embedding_table.weight":
                w["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"],
            "final_layer.linear.weight": w["proj_out_2.weight"], "final_layer.linear.bias": w["proj_out_2.bias"],
            "final_layer.adaLN_modulation.1.weight": w["proj_out_1.weight"],
            "final_layer.adaLN_modulation.1.bias": w["proj_out_1.bias"]}
    for kind in ("weight", "bias"):
        for ours, theirs in ((0, 1), (2, 2)):
            flat[f"t_embedder.mlp.{ours}.{kind}"] = w[
                f"transformer_blocks.0.norm1.emb.timestep_embedder.linear_{theirs}.{kind}"]
        for n in range(DEPTH):
            theirs = block.format(n)
            flat[f"blocks.{n}.attn.qkv.{kind}"] = torch.cat(
                [w[theirs + f"attn1.to_q.{kind}"], w[theirs + f"attn1.to_k.{kind}"], w[theirs + f"attn1.to_v.{kind}"]])
            flat[f"blocks.{n}.attn.proj.{kind}"] = w[theirs + f"attn1.to_out.0.{kind}"]
            flat[f"blocks.{n}.mlp.fc1.{kind}"] = w[theirs + f"ff.net.0.proj.{kind}"]
            flat[f"blocks.{n}.mlp.fc2.{kind}"] = w[theirs + f"ff.net.2.{kind}"]
            flat[f"blocks.{n}.adaLN_modulation.1.{kind}"] = w[theirs + f"norm1.linear.{kind}"]
    return flat


@pytest.fixture(scope="module")
def sources(stock, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("dit")
    stock.save_pretrained(folder / "hub" / "transformer")
    torch.save(published_layout(stock), folder / "DiT.pt")
    return {"diffusers": str(folder / "hub"), "original": str(folder / "DiT.pt")}


OWN = {"heads": 2, "frequency_shift": 1, "mlp_norm_eps": 1e-5}
"""What the original layout does not tell, as the stock model has it: DiT's own timesteps and epsilon differ."""


@pytest.mark.parametrize(("layout", "config"), [("diffusers", {}), ("original", OWN)])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@torch.no_grad()
def test_inflated_backbone_does_on_the_photo_what_the_stock_dit_does(stock, sources, layout, config, size):
    joint = load_dit(sources[layout], **config).eval()
    torch.manual_seed(1)
    z, t = torch.randn(2, 8, *size), torch.tensor([7, 930])
    null = torch.full((2,), CLASSES)
    if size[0] == size[1]:
        expected = stock(z[:, :4], timestep=t, class_labels=null).sample
    else:  # the stock model makes pictures of its own height and width from rectangles: undo its last reshaping
        expected = stock_on_rectangle(stock, z[:, :4], t, null)
    output = joint(z, t).sample
    assert output.shape == (2, 16, *size)
    assert (output[:, :4] - expected[:, :4]).abs().max() < 1e-5      # noise of the photo
    assert (output[:, 8:12] - expected[:, 4:]).abs().max() < 1e-5    # its variance
    assert output[:, 4:8].abs().max() == output[:, 12:].abs().max() == 0


def stock_on_rectangle(stock, z, t, labels) -> torch.Tensor:
    tokens = stock.pos_embed(z)
    for block in stock.transformer_blocks:
        tokens = block(tokens, timestep=t, class_labels=labels)
    c = stock.transformer_blocks[0].norm1.emb(t, labels, hidden_dtype=tokens.dtype)
    shift, scale = stock.proj_out_1(torch.nn.functional.silu(c)).chunk(2, 1)
    tokens = stock.proj_out_2(stock.norm_out(tokens) * (1 + scale[:, None]) + shift[:, None])
    height, width = z.shape[2] // 2, z.shape[3] // 2
    return tokens.reshape(len(z), height, width, 2, 2, 8).permute(0, 5, 1, 3, 2, 4).reshape(len(z), 8, *z.shape[2:])


def test_the_class_count_heads_and_grid_come_from_the_checkpoint(sources):
    config = load_dit(sources["diffusers"]).config
    assert (config.num_classes, config.heads, config.base_grid, config.depth) == (CLASSES, 2, 8, DEPTH)
    assert load_dit(sources["original"], heads=2).config.base_grid == 8


def test_xl_2_at_512_has_the_published_sizes():
    with torch.device("meta"):
        stock = DiTTransformer2DModel(num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8,
                                      num_layers=28, sample_size=64, patch_size=2, num_embeds_ada_norm=1000)
        joint = JointDiT(8, 16, 2, 1152, 28, 16, num_classes=1000, base_grid=32)
        control = ControlNet(4, 2, 1152, 14, 16)
    original = original_layout(stock.state_dict())
    assert sum(tensor.numel() for tensor in original.values()) == pytest.approx(675e6, rel=0.002)
    joint.load_state_dict(inflate(original), assign=True)  # raises on any key or shape that does not match
    backbone = sum(parameter.numel() for parameter in joint.parameters())
    assert backbone - sum(tensor.numel() for tensor in original.values()) == 55_328
    assert sum(parameter.numel() for parameter in control.parameters()) == pytest.approx(353e6, rel=0.005)


def test_control_branch_starts_as_a_copy_of_the_first_blocks(sources):
    joint = load_dit(sources["diffusers"])
    branch = ControlNet.from_backbone(joint, 4, 2)
    assert len(branch.blocks) == 2
    for theirs, ours in zip(joint.blocks, branch.blocks, strict=False):
        for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
            assert torch.equal(a, b) and a is not b


def test_our_own_folder_loads_as_it_is(tmp_path):
    JointDiT(8, 8, width=32, depth=1, heads=2).save_pretrained(tmp_path / "own")
    assert load_dit(tmp_path / "own").config.in_channels == 8


@pytest.mark.parametrize(("channels", "scale", "shift"), [(4, 0.18215, None), (16, 0.3611, 0.1159)])
def test_autoencoders_of_stable_diffusion(tmp_path, channels, scale, shift):
    AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                  block_out_channels=[8, 8, 8, 8], norm_num_groups=4, latent_channels=channels, scaling_factor=scale,
                  shift_factor=shift).save_pretrained(tmp_path / "vae")
    autoencoder = load_autoencoder(tmp_path)  # in the sub-folder of a pipeline
    assert autoencoder.config.latent_channels == channels and autoencoder.config.scaling_factor == scale
    assert autoencoder.config.shift_factor == shift
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


def test_our_autoencoder_by_folder(tmp_path):
    BlockAutoencoder(latent_channels=4).save_pretrained(tmp_path)
    assert isinstance(load_autoencoder(tmp_path), BlockAutoencoder)


def test_what_is_missing_or_wrong_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download nobody/nothing"):
        load_dit("nobody/nothing")
    with pytest.raises(UserError, match="hf download nobody/nothing"):
        load_autoencoder("nobody/nothing")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="text.pt: not a checkpoint"):
        load_dit(tmp_path / "text.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: no DiT in the original layout"):
        load_dit(tmp_path / "other.pt")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(UserError, match="no autoencoder here"):
        load_autoencoder(tmp_path)
