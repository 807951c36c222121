"""Configurations: what is shipped is valid, and what is wrong is named."""

from pathlib import Path

import pytest

from instancersr.lab.training.config import ConfigError, load_config

CONFIGS = sorted(path for path in (Path(__file__).parents[3] / "configs").rglob("*.yaml")
                 if "task:" in path.read_text() or path.stem.startswith("share_"))
"""Those that train; the ablations and evaluations are other kinds."""

VALID = "task: restoration\noutput: out\nimages: 10\ndata: {photos: photos}\n"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(VALID)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path):
    load_config(path)


def test_overrides_reach_sections(file):
    config = load_config(file, ["batch=3", "optimizer.lr=1e-3", "data.presets={camera: 1}", "perceptual.weight=0.2"])
    assert (config.batch, config.optimizer.lr, config.perceptual.weight) == (3, 1e-3, 0.2)
    assert config.data.presets == {"camera": 1}


def test_a_file_goes_before_the_one_it_extends_and_overrides_before_both(file):
    child = file.with_name("child.yaml")
    child.write_text("extends: config.yaml\nimages: 20\ndata: {crop: 64}\noptimizer: {lr: 1.0e-3}\n")
    config = load_config(child, ["images=30"])
    assert (config.images, config.data.crop, config.data.photos, config.optimizer.lr) == (30, 64, "photos", 1e-3)
    assert load_config(child).images == 20 and load_config(file).images == 10


@pytest.mark.parametrize(("extended", "message"), [
    ("nowhere.yaml", "nowhere.yaml: cannot be read"), ("config.yaml", "extends: expected the name of another file"),
    ("[1]", "extends: expected the name")])
def test_what_cannot_be_extended_is_named(file, extended, message):
    file.write_text(f"{VALID}extends: {extended}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(file)


@pytest.mark.parametrize(("override", "message"), [
    ("bach=3", r"bach: unknown key"),
    ("optimizer.learning_rate=1", r"optimizer\.learning_rate: unknown key"),
    ("batch=many", r"batch: .*integer"),
    ("batch=0", r"batch: .*greater than 0"),
    ("data.crop=100", r"data\.crop: .*multiple of 16"),
    ("data.presets={blurry: 1}", r"data: .*'blurry' is unknown; use realesrgan, seesr, camera"),
    ("data.twin_prob=.5", r"data: .*set data.truth_blur"),
    ("task=restore", r"task: "),
    ("batch", r"expected key=value"),
    ("output.size=1", r"output is a value, not a section"),
    ("batch=[1", r"not valid YAML"),
])
def test_a_wrong_key_or_value_is_named_in_one_line(file, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("overrides", "message"), [
    (["transformer.width=30"], "divisible by 4"),
    (["transformer.control_depth=9"], "more than depth"),
    (["alignment.layer=9"], "alignment.layer 9 is more than depth 8"),
    (["denoising_weight=0"], "denoising_weight and sampler.weight are both 0"),
    (["alignment.every=4", "micro_batch=2"], "micro_batch 2 does not divide by alignment.every 4"),
    (["alignment.dispersion_weight=1", "micro_batch=1"], "set micro_batch to 2 or more"),
    (["sampler.trained_steps=4"], "sampler.trained_steps does nothing while sampler.weight is 0"),
    (["data.stream=true", "data.keys=[a*]"], "keys: shards are streamed whole"),
])
def test_sizes_that_do_not_fit(file, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(file, ["task=diffusion", "autoencoder=x", *overrides])


@pytest.mark.parametrize(("text", "message"), [
    (None, "cannot be read"), ("a: [", "not valid YAML"), ("just words", "expected keys and values"),
    ("output: x\n", "task: "), ("task: restoration\noutput: x\n", "images: Field required"),
])
def test_unusable_files(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "bad.yaml" in str(caught.value) and "\n" not in str(caught.value)
