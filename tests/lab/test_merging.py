"""Sums of models, against the saved files' own numbers."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

import instancersr
from instancersr.cli.app import app
from instancersr.lab.method.models import BlockAutoencoder, DetailDecoder, MapDecoder, RestorationNetwork

SUMMED = ("restoration", "transformer", "controlnet", "detail_decoder")


@pytest.fixture
def models(tiny_model, tmp_path):
    """Saves two pipelines a and b that differ in all but the autoencoder; returns the first."""
    torch.manual_seed(1)
    pipe = instancersr.InstanceRSRPipeline.from_pretrained(tiny_model)
    pipe.register_modules(detail_decoder=DetailDecoder(feature_channels=8, channels=8, blocks=1),
                          map_decoder=MapDecoder())
    pipe.save_pretrained(tmp_path / "a")
    for part in (*SUMMED, "map_decoder"):
        for weight in getattr(pipe, part).parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    pipe.register_to_config(default_steps=5)
    pipe.save_pretrained(tmp_path / "b")
    return instancersr.InstanceRSRPipeline.from_pretrained(tmp_path / "a")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["merge", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result.exit_code, result.stderr


def weights(folder) -> dict[str, dict[str, np.ndarray]]:
    return {file.parent.name: load_file(file) for file in sorted(folder.rglob("*.safetensors"))}


def test_each_weight_is_the_sum_of_the_models_times_their_shares(models, tmp_path):
    assert run(tmp_path / "merged", f"{tmp_path}/a=1.5", f"{tmp_path}/b=-0.5") == (0, "")
    a, b, merged = (weights(tmp_path / name) for name in ("a", "b", "merged"))
    assert merged.keys() == a.keys() == {*SUMMED, "autoencoder", "map_decoder"}
    for part, tensors in merged.items():
        for key, weight in tensors.items():
            expected = 1.5 * a[part][key] - 0.5 * b[part][key] if part in SUMMED else a[part][key]
            np.testing.assert_allclose(weight, expected, atol=1e-6, err_msg=f"{part} {key}")
    assert (tmp_path / "merged/model_index.json").read_text() == (tmp_path / "a/model_index.json").read_text()


def test_a_model_merged_with_itself_draws_its_own_picture(models, tmp_path):
    run(tmp_path / "merged", f"{tmp_path}/a=0.25", f"{tmp_path}/a=0.75")
    merged = instancersr.InstanceRSRPipeline.from_pretrained(tmp_path / "merged")
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    one, other = (np.asarray(pipe(photo).images[0], int) for pipe in (models, merged))
    assert np.abs(one - other).max() <= 1


def test_what_cannot_be_merged_is_told_in_one_line_and_leaves_nothing(models, tmp_path):
    models.register_modules(restoration=RestorationNetwork(8, 2))
    models.save_pretrained(tmp_path / "deeper")
    models.register_modules(restoration=None, detail_decoder=None)
    models.save_pretrained(tmp_path / "without")
    other = BlockAutoencoder(latent_channels=4)
    other.fit([torch.rand(2, 3, 64, 64) - 0.5])
    models.register_modules(autoencoder=other)
    models.save_pretrained(tmp_path / "other")
    before = sorted(tmp_path.iterdir())
    for second, words in (("b=0.6", "the shares sum to 1.1"), ("deeper=0.5", "its restoration has not the shape"),
                          ("without=0.5", "its restoration has not the shape"), ("other=0.5", "its autoencoder"),
                          ("nowhere=0.5", "nowhere: neither a folder"), ("b", "is not MODEL=SHARE"),
                          ("b=nan", "is not MODEL=SHARE")):
        code, message = run(tmp_path / "merged", f"{tmp_path}/a=0.5", f"{tmp_path}/{second}")
        assert code != 0 and words in " ".join(message.replace("│", " ").split()), message
        assert message.count("\n") == 1 or "Usage" in message
        assert sorted(tmp_path.iterdir()) == before
    code, message = run(tmp_path / "a", f"{tmp_path}/a=0.5", f"{tmp_path}/b=0.5")
    assert code == 2 and "exists already" in message
