"""Training runs become models that an upscale runs: finished, stopped, and of one part alone."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from typer.testing import CliRunner

from instancersr.cli.app import app
from instancersr.doctor import checksums, read_checksums, write_checksums
from instancersr.lab.method.models import ControlNet, JointDiT
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.config import load_config
from instancersr.lab.training.trainer import Trainer
from instancersr.loading import load_upscaler


def export(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


def configuration(task: str, photos, output, **values) -> dict:
    return {"task": task, "output": str(output), "images": 8, "batch": 2, "seed": 1, "device": "cpu", "threads": 1,
            "data": {"photos": str(photos), "crop": 64, "workers": 0},
            "log": {"checkpoint_images": 4, "sample_images": 8, "validation_crops": 2}} | values


class Killed(Exception):
    """In place of a signal that nothing survives."""


def train(folder, values: dict, killed_at: int | None = None) -> None:
    import yaml

    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    trainer = Trainer(load_config(folder / "config.yaml"))
    if killed_at is None:
        trainer.run()
        return
    save = trainer._save

    def save_and_die() -> None:
        save()
        if trainer.state.images >= killed_at:
            raise Killed

    trainer._save = save_and_die
    with pytest.raises(Killed):
        trainer.run()


@pytest.fixture
def diffusion(tiny_model) -> dict:
    return {"autoencoder": str(tiny_model / "autoencoder"), "restoration": str(tiny_model / "restoration"),
            "transformer": {"width": 32, "depth": 2, "heads": 2, "control_depth": 1},
            "alignment": {"layer": 1, "weight": 0.0}, "sampler": {"weight": 1.0, "steps": 1, "decoder_blocks": 1}}


def test_a_killed_run_becomes_a_model_of_its_last_checkpoint(photo_folder, diffusion, tmp_path):
    train(tmp_path, configuration("diffusion", photo_folder, tmp_path / "run", **diffusion), killed_at=4)
    assert not (tmp_path / "run" / "model").exists()
    result = export(tmp_path / "run", tmp_path / "mine")
    assert result.exit_code == 0, result.output
    Image.fromarray(data.astronaut()[:20, :24]).save(tmp_path / "a.png")
    upscaled = CliRunner().invoke(app, ["upscale", str(tmp_path / "a.png"), "--model", str(tmp_path / "mine"),
                                        "--engine", "onnx"])
    assert upscaled.exit_code == 0 and Image.open(tmp_path / "a_x4.png").size == (96, 80)
    # the average of the run is what is exported
    train(tmp_path, configuration("diffusion", photo_folder, tmp_path / "run", **diffusion) | {"images": 4})
    finished = InstanceRSRPipeline.from_pretrained(tmp_path / "run" / "model")
    exported = InstanceRSRPipeline.from_pretrained(tmp_path / "mine")
    for part in ("transformer", "controlnet", "detail_decoder", "restoration", "autoencoder"):
        for one, other in zip(getattr(finished, part).parameters(), getattr(exported, part).parameters(), strict=True):
            assert torch.equal(one, other)
    assert exported.transformer.config.residual_std == finished.transformer.config.residual_std
    assert exported.config.default_steps == 1


def test_a_run_of_one_part_is_put_into_a_model(photo_folder, tiny_model, tmp_path):
    train(tmp_path, configuration("restoration", photo_folder, tmp_path / "run", channels=8, blocks=1))
    result = export(tmp_path / "run", tmp_path / "mine", "--base", tiny_model)
    assert result.exit_code == 0, result.output
    y = np.random.default_rng(0).random((1, 3, 16, 20), np.float32)
    trained, base = (InstanceRSRPipeline.from_pretrained(name) for name in (tmp_path / "mine", tiny_model))
    with torch.no_grad():
        expected = trained.restoration(torch.from_numpy(y)).numpy()
        before = base.restoration(torch.from_numpy(y)).numpy()
    restored = load_upscaler(str(tmp_path / "mine"), engine="onnx").engine.restore(y)[1]
    np.testing.assert_allclose(restored, expected, atol=1e-5)
    assert np.abs(restored - before).max() > 1e-3
    assert torch.equal(trained.transformer.x_embedder.proj.weight, base.transformer.x_embedder.proj.weight)


def test_a_pipelines_folder_gets_graphs(tiny_model, tmp_path):
    pipeline = InstanceRSRPipeline.from_pretrained(tiny_model)
    pipeline.save_pretrained(tmp_path / "saved")
    assert export(tmp_path / "saved", tmp_path / "mine").exit_code == 0
    photo = data.astronaut()[:20, :24]
    ours = np.asarray(load_upscaler(str(tmp_path / "mine"), engine="onnx")(photo).images[0]).astype(int)
    assert np.abs(ours - np.asarray(pipeline(photo).images[0])).max() <= 1


def test_the_weights_never_pass_through_protobuf_which_takes_two_gigabytes_at_most(tiny_model, tmp_path, monkeypatch):
    pipeline = InstanceRSRPipeline.from_pretrained(tiny_model)
    pipeline.register_modules(transformer=JointDiT(8, 8, width=512, depth=1, heads=2, residual_std=[0.5] * 8),
                              controlnet=ControlNet(4, width=512, depth=1, heads=2))
    pipeline.save_pretrained(tmp_path / "saved")
    assert sum(file.stat().st_size for file in (tmp_path / "saved").rglob("*.safetensors")) > 30_000_000
    sizes, parse = [], onnx.load_from_string
    monkeypatch.setattr(onnx, "load_from_string", lambda content: sizes.append(len(content)) or parse(content))
    assert export(tmp_path / "saved", tmp_path / "mine").exit_code == 0
    assert sizes and max(sizes) < 1_000_000
    photo = data.astronaut()[:20, :24]
    ours = np.asarray(load_upscaler(str(tmp_path / "mine"), engine="onnx")(photo).images[0]).astype(int)
    assert np.abs(ours - np.asarray(pipeline(photo).images[0])).max() <= 1


def test_a_compact_model_is_a_third_as_large_and_draws_the_same_picture(tiny_model, tmp_path):
    torch.manual_seed(0)
    transformer = JointDiT(8, 8, width=192, depth=2, heads=2, residual_std=[0.5] * 8)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        transformer.blocks[1].mlp.fc1.weight[3, 5] = 500  # more than 8 bits hold
    control = ControlNet.from_backbone(transformer, 4, 1)
    InstanceRSRPipeline.from_pretrained(tiny_model, transformer=transformer, controlnet=control).save_pretrained(
        tmp_path / "large")
    write_checksums(tmp_path / "large", checksums(tmp_path / "large"))
    assert export(tmp_path / "large", tmp_path / "small", "--compact").exit_code == 0
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).rglob("*.safetensors"))
             for name in ("large", "small")]
    assert 0.25 < sizes[1] / sizes[0] < 0.33
    assert read_checksums(tmp_path / "small") == checksums(tmp_path / "small")
    stored = load_file(tmp_path / "small" / "transformer" / "diffusion_pytorch_model.safetensors")
    matrix = transformer.blocks[0].attn.qkv.weight
    assert torch.equal(stored["blocks.0.attn.qkv.weight"].float(), matrix.to(torch.float8_e4m3fn).float())
    assert torch.equal(stored["blocks.0.attn.qkv.bias"], transformer.blocks[0].attn.qkv.bias.bfloat16())
    assert torch.equal(stored["blocks.1.mlp.fc1.weight"], transformer.blocks[1].mlp.fc1.weight.bfloat16())
    photo = data.astronaut()[:20, :24]
    small = [np.asarray(load_upscaler(str(tmp_path / "small"), engine=engine)(photo).images[0]).astype(int)
             for engine in ("onnx", "torch")]
    large = np.asarray(load_upscaler(str(tmp_path / "large"), engine="torch")(photo).images[0])
    assert np.abs(small[0] - small[1]).max() <= 1
    assert 0 < np.abs(small[1] - large).mean() < 2


def test_what_cannot_be_exported_is_one_line(tiny_model, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "old" / "checkpoint-0000000004").mkdir(parents=True)
    (tmp_path / "old" / "checkpoint-0000000004" / "state.json").write_text("{}")  # as before checkpoints were models
    for source, output, message in (("run", "out", "no checkpoint with a model yet"),
                                    ("old/checkpoint-0000000004", "out", "has no model"),
                                    (tiny_model, "run", "exists already"), ("nothing", "out", "nothing")):
        result = export(tmp_path / source, tmp_path / output)
        assert result.exit_code in (1, 2) and message in result.stderr and len(result.stderr.splitlines()) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "run"]


def test_a_model_is_not_copied_into_itself(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    before = sorted(tmp_path.rglob("*"))
    for output in ("m/out", "m/a/b", "link/out"):
        result = export(tmp_path / "m", tmp_path / output)
        assert result.exit_code == 2 and "copied into itself" in result.stderr and result.stderr.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("file", "content"), [
    ("model_index.json", b"{"), ("model_index.json", b"[]"), ("model_index.json", b"\xff"), ("model_index.json", b"{}"),
    ("model_index.json", b'{"transformer": ["instancersr"]}'), ("transformer/config.json", b"{"),
    ("scheduler/scheduler_config.json", b"{"), ("restoration/diffusion_pytorch_model.safetensors", b"no weights")])
def test_a_damaged_model_is_named_where_it_lies(tiny_model, tmp_path, file, content):
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / file).write_bytes(content)
    merged = CliRunner().invoke(app, ["merge", str(tmp_path / "out"), f"{tiny_model}=0.5", f"{tmp_path / 'm'}=0.5"])
    for result in (export(tmp_path / "m", tmp_path / "out"), merged):
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
        assert str(tmp_path / "m") in result.stderr and result.stderr.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["m"]
