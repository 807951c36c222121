"""`plan`'s closed forms against torch's FLOP counter and profiler, on the real networks, and published sizes."""

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model
from typer.testing import CliRunner

from instancersr.cli.app import app
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings
from instancersr.lab.evaluation import plan as planning
from instancersr.lab.evaluation.plan import GPUS, Setup, make_plan
from instancersr.lab.method.models import BlockAutoencoder, RestorationNetwork
from instancersr.lab.training.config import ConfigError, DiffusionConfig, RestorationConfig, load_config
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


def block(tokens: int, width: int) -> float:
    """A DiT block's forward pass: 24 N D^2 for its maps, 4 N^2 D for attention, 12 D^2 for its modulation."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width + 12 * width**2


def costs(config: DiffusionConfig, **setup) -> dict[str, planning.Part]:
    return {part.name: part for part in make_plan(config, replace(CPU, **setup)).parts}


def test_trained_networks_equal_closed_forms(parts):
    """Backward: twice the products with weights and 2.5 times attention's; pictures need no gradient."""
    config = diffusion(parts, 256, 2, **LONG)
    tokens, width, depth, control = 256, 64, 5, 3
    channels = 4 * 8  # of a patch of the autoencoder's latents
    embed = 2 * tokens * width * 2 * channels
    time = 2 * 256 * width + 2 * width**2
    final = 4 * width**2 + 2 * tokens * width * 2 * channels
    found = costs(config)
    forward = depth * block(tokens, width) + 2 * (embed + time) + final
    assert found["backbone"].forward == pytest.approx(forward, rel=1e-3)
    attention = 4 * tokens**2 * width
    assert found["backbone"].backward == pytest.approx(2 * forward + 0.5 * depth * attention - 2 * embed, rel=1e-3)
    projections = (control + 1) * 2 * tokens * width**2 + 2 * tokens * width * channels
    branch = control * block(tokens, width) + projections
    assert found["control branch"].forward == pytest.approx(branch, rel=1e-3)
    again = costs(config, checkpointing=True)["backbone"]
    assert again.recomputed == pytest.approx(depth * block(tokens, width))
    assert again.backward == found["backbone"].backward


def test_frozen_blocks_have_gradients_for_what_lies_before_them_alone(parts):
    config = diffusion(parts, 256, 2, **LONG)
    frozen = config.model_copy(update={"backbone": config.backbone.model_copy(update={"trained_blocks": 2})})
    whole, part = costs(config)["backbone"], costs(frozen)["backbone"]
    assert part.forward == whole.forward
    assert whole.backward - part.backward == pytest.approx(3 * 24 * 256 * 64**2 + 3 * 12 * 64**2, rel=0.01)
    embedder = 256 * 64 + 64 + 64**2 + 64  # of the timestep, which speaks to every block
    assert whole.trained - part.trained == 3 * (18 * 64**2 + 15 * 64) + embedder  # matrices and biases of three blocks


@pytest.mark.parametrize("stored", [(False, False), (True, False), (True, True)])
def test_what_is_stored_is_not_computed(parts, stored):
    found = costs(diffusion(parts, 128, 2, **WIDE), cached_latents=stored[0], cached_teacher=stored[1])
    encoding = 2 * 128**2 * 3 * 8  # one strided convolution: every pixel meets every channel once
    assert found["autoencoder"].forward == (1 if stored[0] else 3) * encoding
    assert ("teacher" in found) == (not stored[1])


def test_the_configuration_says_what_is_stored(parts, photo_folder, tmp_path):
    config = diffusion(parts, 64, 2, **WIDE)
    data = {"photos": str(tmp_path / "shards"), "stream": True, "stored": True, "crop": 64}
    stored = DiffusionConfig.model_validate(config.model_dump() | {"data": data})

    def cached(run: DiffusionConfig) -> tuple[bool, bool]:
        setup = planning.setup_of(run, GPUS["H100"], 8, 0.45)
        return setup.cached_latents, setup.cached_teacher

    assert cached(config) == (False, False)
    assert cached(stored) == (True, False)  # the shards are not there yet
    prepare_photos(photo_folder, tmp_path / "shards", SampleSettings(64, features=parts["teacher"]), workers=1)
    assert cached(stored) == (False, True)


def test_cores_that_a_gpu_needs(parts):
    plan = make_plan(diffusion(parts, 256, 64, **LONG), Setup(GPUS["H100"]), 8)
    per_core = 4 * planning.SAMPLES_PER_CORE["computed"]  # a quarter of the pixels of 512 x 512
    assert plan.cores_per_gpu == pytest.approx(plan.images_per_second / per_core)


def test_published_sizes():
    """DiT-XL/2 at 512: 524.6 G multiply-adds (Peebles & Xie, 2023, table 4); DINOv2 ViT-B/14: 86.6 M parameters.

    Stable Diffusion's encoder: 34.2 M of the autoencoder's 83.65 M parameters.
    """
    config = load_config(Path(__file__).parents[3] / "configs/paper.yaml")
    found = {part.name: part for part in make_plan(config, CPU, 1).parts}
    assert found["backbone"].forward / 2 == pytest.approx(524.6e9, rel=0.01)  # doubled channels and all
    assert found["teacher"].parameters == pytest.approx(86.6e6, rel=0.001)
    assert found["autoencoder"].parameters == pytest.approx(83.65e6, rel=0.001)


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


def test_sharded_gradients_are_whole_while_a_steps_parts_are_added_up(parts):
    config = diffusion(parts, 128, 16, **WIDE)
    in_two, at_once = (make_plan(config, Setup(GPUS["A100"], 8, sharded=True), size).memory for size in (1, 2))
    assert in_two.gradients == pytest.approx(8 * at_once.gradients)


def test_either_projector_can_be_planned(parts):
    config = diffusion(parts, 128, 8, **WIDE)
    conv = config.model_copy(update={"alignment": config.alignment.model_copy(update={"projector": "conv"})})
    found = {part.name: part for part in make_plan(conv, CPU, 1).parts}
    assert found["projector"].trained == WIDE["width"] * 32 * 9 + 32  # one 3x3 convolution to the teacher's width


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
    (["--mfu", "nan"], "nan is not a number"),
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
