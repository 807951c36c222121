"""`plan`'s closed forms against torch's FLOP counter and profiler, on the real networks, and published sizes."""

import json
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model
from typer.testing import CliRunner

from instancersr.cli.app import app
from instancersr.lab.evaluation import plan as planning
from instancersr.lab.evaluation.plan import GPUS, Setup, make_plan
from instancersr.lab.method.models import BlockAutoencoder, ControlNet, JointDiT, RestorationNetwork
from instancersr.lab.training.config import ConfigError, DiffusionConfig, RestorationConfig
from instancersr.lab.training.randomness import Draws
from instancersr.lab.training.stages.paper import PaperObjective

CPU = Setup(GPUS["H100"], bf16=False)


def counted(run) -> int:
    # not every torch counts its fused attention on the CPU; the plain one is matrix products, which all count
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, str]:
    """Small frozen networks on disk: an AutoencoderKL, a restoration network, a DINOv2."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    autoencoder = BlockAutoencoder(8)
    autoencoder.save_pretrained(folder / "autoencoder")
    RestorationNetwork(8, 2).save_pretrained(folder / "restoration")
    Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56,
                             patch_size=14)).save_pretrained(folder / "teacher")
    return {name: str(folder / name) for name in ("autoencoder", "restoration", "teacher")}


def diffusion(parts: dict[str, str], crop: int, batch: int, **size) -> DiffusionConfig:
    return DiffusionConfig.model_validate({
        "task": "diffusion", "output": "nowhere", "images": 1000, "batch": batch, "device": "cpu", "precision": "fp32",
        "data": {"photos": "nowhere", "crop": crop}, "transformer": size,
        "autoencoder": parts["autoencoder"], "restoration": parts["restoration"],
        "alignment": {"layer": 1, "teacher": parts["teacher"]}})


def random_batch(config: DiffusionConfig, size: int) -> dict[str, torch.Tensor]:
    side = config.data.crop
    ids = torch.zeros(size, side, side, dtype=torch.int32)
    ids[:, : side // 2] = 1
    return {"hr": torch.rand(size, 3, side, side), "lr": torch.rand(size, 3, side // 4, side // 4),
            "instance_map": torch.rand(size, 3, side, side), "ids": ids, "scale_targets": torch.ones(size, side, side),
            "token_offset": torch.zeros(size, 2, dtype=torch.int64)}


WIDE = {"width": 256, "depth": 4, "heads": 4, "control_depth": 2}
LONG = {"width": 64, "depth": 5, "heads": 2, "control_depth": 3}


@pytest.mark.parametrize(("size", "crop"), [(WIDE, 128), (LONG, 256)])
def test_flops_of_a_training_step_equal_torchs_counter(parts, size, crop):
    config = diffusion(parts, crop, 2, **size)
    objective = PaperObjective(config)
    batch = random_batch(config, 2)

    def step() -> None:
        terms = objective.terms(objective.model, batch, Draws(0, range(len(batch["hr"]))), 0.0)
        sum(terms.values()).backward()

    assert 2 * make_plan(config, CPU).flops_per_image == pytest.approx(counted(step), rel=0.01)


def test_transformer_and_control_alone_equal_torchs_counter():
    network = JointDiT(8, 16, 2, 96, 3, 4)
    branch = ControlNet.from_backbone(network, 4, 2)
    z, t, y = torch.randn(1, 8, 16, 24), torch.tensor([5]), torch.randn(1, 4, 16, 24)
    tokens, conditioning = network.embed(z, t)
    with torch.no_grad():
        backbone = counted(lambda: network(z, t))
        control = counted(lambda: branch(tokens, conditioning, y))
    assert planning.transformer_flops(network.config, 96).forward == pytest.approx(backbone, rel=1e-6)
    assert planning.control_flops(branch.config, 96).forward == pytest.approx(control, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"use_quant_conv": False, "latent_channels": 16}])
def test_autoencoder_encoder_equals_torchs_counter(options):
    network = AutoencoderKL(block_out_channels=[32, 64, 64], layers_per_block=2,
                            down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
                            **options)
    with torch.no_grad():
        expected = counted(lambda: network.encode(torch.zeros(1, 3, 64, 96)))
    config = {**network.config, "_class_name": "AutoencoderKL"}
    assert planning.autoencoder_flops(config, 64, 96).forward == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("refine", [0, 16])
def test_block_autoencoder_and_restoration_equal_torchs_counter(refine):
    network, restoration = BlockAutoencoder(8, refine_channels=refine), RestorationNetwork(8, 3)
    with torch.no_grad():
        expected = counted(lambda: network.encode(torch.zeros(1, 3, 64, 96)))
        restored = counted(lambda: restoration(torch.zeros(1, 3, 16, 24)))
    config = {**network.config, "_class_name": "BlockAutoencoder"}
    assert planning.autoencoder_flops(config, 64, 96).forward == pytest.approx(expected, rel=1e-6)
    assert planning.restoration_flops(8, 3, 16 * 24).forward == pytest.approx(restored, rel=1e-6)


def test_teacher_equals_transformers():
    network = Dinov2Model(Dinov2Config(hidden_size=96, num_hidden_layers=3, num_attention_heads=3)).eval()
    config = network.config
    with torch.no_grad():
        expected = counted(lambda: network(torch.zeros(1, 3, 56, 70)))
    assert planning.dinov2_flops(96, 3, 20).forward == pytest.approx(expected, rel=1e-3)
    assert planning.dinov2_parameters(96, 3, size=config.image_size) == sum(p.numel() for p in network.parameters())


def test_published_sizes():
    """DiT-XL/2 at 512: 524.6 G multiply-adds (Peebles & Xie, 2023, table 4); DINOv2 ViT-B/14: 86.6 M parameters."""
    with torch.device("meta"):
        network = JointDiT(4, 8, patch_size=2, width=1152, depth=28, heads=16, num_classes=1000)
    assert planning.transformer_flops(network.config, 1024).forward / 2 == pytest.approx(524.6e9, rel=0.01)
    assert planning.dinov2_parameters(768, 12) == pytest.approx(86.6e6, rel=0.001)


# ---------------------------------------------------------------------------------------------------- memory


def peak_of(run) -> int:
    """The largest number of bytes that torch's allocator had given out at once."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def train(config: DiffusionConfig, micro_batch: int) -> None:
    """Two steps of two micro-batches each, with a moving average beside the weights."""
    batch = random_batch(config, micro_batch)
    objective = PaperObjective(config)
    average = [p.detach().clone() for p in objective.model.parameters()]
    optimizer = torch.optim.AdamW(objective.model.parameters())
    for number in range(4):
        terms = objective.terms(objective.model, batch, Draws(0, range(len(batch["hr"]))), 0.0)
        sum(terms.values()).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    del average


@pytest.mark.parametrize(("size", "crop", "micro_batch"), [(WIDE, 128, 2), (LONG, 256, 6)])
def test_memory_is_what_a_run_uses(parts, size, crop, micro_batch):
    """One configuration where the weights dominate, one where the activations do."""
    config = diffusion(parts, crop, 2 * micro_batch, **size)
    expected = peak_of(lambda: train(config, micro_batch))
    assert make_plan(config, CPU, micro_batch).memory.total == pytest.approx(expected, rel=0.15)


def test_encoder_workspace_is_what_encoding_uses():
    network = AutoencoderKL(block_out_channels=[32, 64, 128, 128], layers_per_block=2,
                            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
    picture = torch.rand(1, 3, 192, 192)
    with torch.no_grad():
        expected = peak_of(lambda: network.encode(picture))
    assert planning.encoder_workspace(network.config, 192, 192) == pytest.approx(expected, rel=0.15)


def test_sharding_divides_what_belongs_to_the_weights(parts):
    config = diffusion(parts, 128, 8, **WIDE)
    one, eight = (make_plan(config, Setup(GPUS["A100"], gpus, sharded=True), 1).memory for gpus in (1, 8))
    for name in ("weights", "gradients", "optimizer", "average"):
        assert getattr(eight, name) == pytest.approx(getattr(one, name) / 8)
    assert eight.activations == one.activations and eight.frozen == one.frozen


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def config_file(parts, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(diffusion(parts, 128, 8, **WIDE).model_dump_json())
    return path


def test_command_gives_days_and_energy(config_file):
    run = CliRunner().invoke(app, ["plan", str(config_file), "--gpus", "4", "--gpu", "A100", "--mfu", "0.5", "--json"])
    assert run.exit_code == 0, run.output
    plan = json.loads(run.output)
    rate = 4 * 312e12 * 0.5 / plan["flops_per_image"]
    assert plan["images_per_second"] == pytest.approx(rate)
    assert plan["seconds"] == pytest.approx(1000 / rate)
    assert plan["kilowatt_hours"] == pytest.approx(1000 / rate / 3600 * 4 * 0.4)
    assert plan["fits"] and plan["setup"]["micro_batch"] == 2


def test_command_prints_tables(config_file):
    run = CliRunner().invoke(app, ["plan", str(config_file), "images=2000"])
    assert run.exit_code == 0 and "control branch" in run.output and "2,000" in run.output


@pytest.mark.parametrize(("arguments", "message"), [
    (["--gpus", "3"], "batch: 8 does not divide into 3 GPUs"),
    (["--gpu", "Abacus"], "H100"),
    (["autoencoder=/nowhere/at/all"], "autoencoder: /nowhere/at/all"),
    (["alignment.teacher=/nowhere/at/all"], "alignment.teacher: /nowhere/at/all"),
    (["sampler.weight=1"], "sampler.weight"),
])
def test_what_cannot_be_planned_is_one_line(config_file, arguments, message):
    run = CliRunner().invoke(app, ["plan", str(config_file), *arguments])
    assert run.exit_code == 2 and message in " ".join(run.output.split())


def test_other_tasks_are_refused():
    config = RestorationConfig(task="restoration", output="x", images=1, data={"photos": "x"})
    with pytest.raises(ConfigError, match="task: plan knows diffusion"):
        make_plan(config, CPU)


def test_micro_batch_is_the_largest_that_fits(parts):
    config = diffusion(parts, 256, 64, **LONG)
    size = make_plan(config, Setup(GPUS["RTX4090"])).setup.micro_batch
    small = Setup(replace(GPUS["RTX4090"], memory=0.3))
    chosen = make_plan(config, small)
    assert size == 64 > chosen.setup.micro_batch and chosen.fits
    assert not make_plan(config, small, 2 * chosen.setup.micro_batch).fits
