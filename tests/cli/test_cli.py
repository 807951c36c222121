"""The command, run for real on a tiny random model: what it writes, refuses, and in how many lines."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import animation, picture, save, written
from PIL import Image, ImageCms
from typer.testing import CliRunner

from instancersr.cli.app import app
from instancersr.images.reading import read_frames

# --------------------------------------------------------------------------------------------- the command


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "sys.argv = ['instancersr', '--help']\n"
        "from instancersr.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'PIL', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "upscale" in result.stdout and "doctor" in result.stdout and "train" in result.stdout


def test_upscale_groups_its_options_with_an_example_for_each_group():
    """Every option stands below a heading that says what it is about, and the old name of an option below none."""
    lines = CliRunner().invoke(app, ["upscale", "--help"], env={"COLUMNS": "120"}).output.splitlines()
    panel, found = "", {}
    for line in lines:
        if line.startswith("╭"):
            panel = line.strip("╭─╮ ")
        elif option := re.match(r"│ (--[a-z-]+)", line):
            found[option[1]] = panel
    assert {name: found[name] for name in ("--format", "--fidelity", "--device", "--json")} == {
        "--format": "What comes out", "--fidelity": "How it is restored", "--device": "Where it is computed",
        "--json": "For many files and programs"}
    assert [name for name, panel in found.items() if panel == "Options"] == ["--help"]
    assert "--strength" not in found
    assert sum("Example:" in line for line in lines) == len(set(found.values())) - 1


@pytest.mark.parametrize("command", ["upscale", "train", "doctor"])
def test_help_of_each_command_ends_with_an_example(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0 and f"Example:  instancersr {command}" in result.output


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.output.startswith("instancersr")


# ------------------------------------------------------------------------------------------- what it writes


def test_a_picture_goes_beside_its_input(upscale):
    save("photo.jpg")
    code, out, err = upscale("photo.jpg")
    assert code == 0 and err == ["1 done"]
    assert len(out) == 1 and out[0].startswith("photo.jpg -> photo_x4.png (20x16 -> 80x64, ")
    assert written() == ["photo.jpg", "photo_x4.png"]
    assert Image.open("photo_x4.png").size == (80, 64)


def test_the_suffix_follows_the_scale(upscale):
    save("a.png")
    for scale, name, size in ((2, "a_x2.png", (40, 32)), (2.5, "a_x2.5.png", (50, 40))):
        assert upscale("a.png", "--scale", scale)[0] == 0
        assert Image.open(name).size == size


def test_a_folder_keeps_its_sub_folders(upscale):
    for name in ("in/a.png", "in/sub/deep/b.png", "in/sub/写真.webp"):
        save(name)
    Path("in/notes.txt").write_text("not a picture")
    assert upscale("in", "-o", "out")[0] == 0
    assert written("out") == ["a_x4.png", "sub/deep/b_x4.png", "sub/写真_x4.png"]


def test_a_second_run_over_a_folder_leaves_the_first_results_alone(upscale):
    save("in/a.png")
    assert upscale("in", "--instances")[0] == 0
    first = written("in")
    assert first == ["a.png", "a_instances.json", "a_instances.png", "a_x4.png"]
    code, _, err = upscale("in", "--instances")
    assert code == 1 and "exists" in err[0] and err[-1] == "0 done, 1 failed"
    assert upscale("in", "--instances", "--overwrite")[0] == 0
    assert written("in") == first
    assert upscale("in", "-o", "in/out")[0] == 0
    assert upscale("in", "-o", "in/out", "--overwrite")[0] == 0
    assert "in/out/out" not in {p.as_posix() for p in Path("in").rglob("*")}


def test_a_named_file_and_its_format(upscale):
    save("a.png")
    assert upscale("a.png", "-o", "deep/new/sharp.webp", "--instances")[0] == 0
    assert written("deep") == ["new/sharp.webp", "new/sharp_instances.json", "new/sharp_instances.png"]
    assert upscale("a.png", "--format", "JPG")[0] == 0
    assert Image.open("a_x4.jpg").format == "JPEG"


def test_same_seed_same_file_in_any_batch_and_another_seed_another(upscale):
    save("a.png")
    save("bb.png")
    upscale("a.png", "-o", "one")
    upscale("bb.png", "a.png", "-o", "two")
    upscale("a.png", "-o", "three", "--seed", "7", "--fidelity", "0")
    one, two, three = (Path(folder, "a_x4.png").read_bytes() for folder in ("one", "two", "three"))
    assert one == two != three


def test_options_reach_the_pipeline(upscale, tiny_model):
    from instancersr.images.reading import read_image
    from instancersr.loading import load_upscaler

    save("a.png")
    options = {"seed": 5, "fidelity": 0.25, "start-from": "lr", "color-fix": "adain", "tile": 16, "scale": 3,
               "threads": 1, "engine": "onnx", "device": "cpu"}
    code, _, err = upscale("a.png", *(word for key, value in options.items() for word in (f"--{key}", value)))
    assert code == 0, err
    expected = load_upscaler(str(tiny_model))(read_image("a.png").rgb, scale=3, num_inference_steps=1, fidelity=0.25,
                                              start_from="lr", color_fix="adain", tile=16, seed=5)
    np.testing.assert_array_equal(np.array(Image.open("a_x3.png")), np.array(expected.images[0]))


def test_an_upscale_never_loads_torch(upscale, tiny_model):
    """Of the shipped weights, as a person does it."""
    source = save("a.png")
    code = ("import sys\n"
            f"sys.argv = ['instancersr', 'upscale', {str(source)!r}, '--instances']\n"
            "from instancersr.cli import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "lab = {'torch', 'diffusers', 'onnx', 'safetensors', 'yaml', 'instancersr.lab'} & set(sys.modules)\n"
            "assert not lab, lab\n")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert Image.open("a_x4.png").size == (80, 64) and Path("a_instances.png").exists()


def test_a_training_run_is_no_model_yet(upscale):
    save("a.png")
    Path("run/checkpoint-0000000032").mkdir(parents=True)
    code, _, err = upscale("a.png", model="run")
    assert code == 2 and len(err) == 1 and "make a model of it with: instancersr export run OUT" in err[0]


def test_instances_are_one_colour_each(upscale, tiny_model):
    from instancersr.loading import load_upscaler

    path = save("a.png")
    assert upscale(path, "--instances", "--seed", 3)[0] == 0
    colors = np.array(Image.open("a_instances.png"))
    ids = load_upscaler(str(tiny_model))(Image.open(path), num_inference_steps=1, seed=3).instances[0]
    assert colors.shape == (*ids.shape, 3)
    pairs = np.unique(np.dstack([ids, colors]).reshape(-1, 4), axis=0)
    assert len(pairs) == len(np.unique(ids)) == len(np.unique(pairs[:, 1:], axis=0))


def test_objects_are_listed_with_their_places(upscale):
    save("a.png")
    assert upscale("a.png", "--instances")[0] == 0
    listed = json.loads(Path("a_instances.json").read_text())
    colors = np.array(Image.open("a_instances.png"))
    assert listed and len(listed) == len(np.unique(colors[colors.any(2)], axis=0))
    for entry in listed:
        (x, y), = entry["point_coords"]
        assert (colors == colors[y, x]).all(2).sum() == entry["area"]


def test_edits_of_objects_reach_the_pipeline(upscale, tiny_model):
    from instancersr.edits import Edit
    from instancersr.images.reading import read_image
    from instancersr.loading import load_upscaler

    save("a.png")
    upscaler = load_upscaler(str(tiny_model))
    small, large = np.zeros((16, 20), bool), np.zeros((64, 80), bool)
    small[2:6, 3:9] = large[40:60, 50:70] = True
    Image.fromarray(small).save("small.png")
    Image.fromarray(large).save("large=1.png")
    ids = upscaler(read_image("a.png").rgb, num_inference_steps=1).instances[0]
    code, _, err = upscale("a.png", "--fidelity", 0.2, "--instance", f"{ids[0, 0]}=0.3", "--instance", "70,60=0",
                           "--instance", "large=1.png=0.5", "--resample", "small.png", "--resample", "5,60",
                           "--seed", 12)
    assert code == 0, err
    edits = [Edit(small.repeat(4, 0).repeat(4, 1), seed=12), Edit((5, 60), seed=12), Edit(int(ids[0, 0]), strength=0.3),
             Edit((70, 60), strength=0), Edit(large, strength=0.5)]
    expected = upscaler(read_image("a.png").rgb, num_inference_steps=1, strength=0.8, edits=edits)
    np.testing.assert_array_equal(np.array(Image.open("a_x4.png")), np.array(expected.images[0]))


def test_merged_objects_are_edited_and_listed_as_one(upscale):
    from instancersr.edits import Edit
    from instancersr.loading import load_upscaler

    rgb = np.zeros((24, 32, 3), np.uint8)
    rgb[:] = 30, 60, 160
    rgb[:, 16:] = 240, 150, 40
    Image.fromarray(rgb).save("a.png")
    upscaler = load_upscaler()
    plain = upscaler(rgb, num_inference_steps=1)
    numbers = np.unique(plain.instances[0]).tolist()
    assert len(numbers) > 1
    merge = ",".join(map(str, numbers[::-1]))
    assert upscale("a.png", "--merge", merge, "--instance", f"{numbers[-1]}=0", "--instances", model="builtin")[0] == 0
    everything = np.ones((96, 128), bool)
    expected = upscaler(rgb, num_inference_steps=1, edits=[Edit(everything, strength=0)])
    np.testing.assert_array_equal(np.array(Image.open("a_x4.png")), np.array(expected.images[0]))
    [listed] = json.loads(Path("a_instances.json").read_text())
    assert listed["id"] == numbers[-1] and listed["area"] == everything.size


def test_a_segmenter_finds_the_objects(upscale, tiny_model, small_sam):
    """Of random weights few masks are stable enough to be kept; the map is what the same SAM finds in the result."""
    from instancersr.batch.jobs import id_colors
    from instancersr.loading import load_segmenter

    save("a.png")
    code, _, err = upscale("a.png", "--segmenter", small_sam, "--instances")
    assert code == 0, err
    ids = load_segmenter(str(small_sam), "cpu")(np.array(Image.open("a_x4.png")))
    colors = np.array(Image.open("a_instances.png").convert("RGB"))
    np.testing.assert_array_equal(colors, id_colors(int(ids.max()))[ids])


def test_a_segmenter_that_is_not_here_is_one_line_with_the_command_that_gets_it(upscale):
    pytest.importorskip("torchvision", reason="SAM's processor needs torchvision")
    save("a.png")
    Path("empty").mkdir()
    code, _, err = upscale("a.png", "--segmenter", "empty", "--instances")
    assert code == 2 and len(err) == 1 and "hf download empty" in err[0]
    assert written() == ["a.png"]


def test_a_segmenter_that_is_nowhere_is_named_without_asking_the_net(upscale, monkeypatch, capfd):
    pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: asked.append(1) or [])
    save("a.png")
    for name in ("nobody/no-such-sam", "no/such/folder"):
        code, _, err = upscale("a.png", "--segmenter", name, "--instances")
        assert code == 2 and len(err) == 1 and f"hf download {name}" in err[0]
    assert not asked and capfd.readouterr().err == ""


def test_strength_is_fidelity_the_other_way_round_and_says_so(upscale):
    save("a.png")
    code, _, err = upscale("a.png", "--strength", 0.25, "-o", "old.png")
    assert code == 0 and [line for line in err if "deprecated" in line] == [
        "--strength is deprecated; --fidelity 0.75 does the same"]
    code, _, err = upscale("a.png", "--fidelity", 0.75, "-o", "new.png")
    assert code == 0 and not any("deprecated" in line for line in err)
    np.testing.assert_array_equal(np.array(Image.open("old.png")), np.array(Image.open("new.png")))
    code, _, err = upscale("a.png", "--strength", 0.25, "--fidelity", 0.5, "-o", "both.png")
    assert code == 2 and any("--fidelity" in line for line in err) and not Path("both.png").exists()


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["--merge", "3"], 2, "is not two or more ids"), (["--merge", "3,x"], 2, "is not two or more ids"),
    (["--merge", "3,7"], 2, "--resample"), (["--segmenter", "sam"], 2, "--resample"),
    (["--merge", "99999,99998", "--instances"], 1, "a.png: object 99999: not in the instance map"),
    (["b.png", "--merge", "3,7", "--instances"], 2, "for a single picture; here are 2"),
    (["--instance", "7"], 2, "is not"), (["--instance", "7=2"], 2, "is not"), (["--instance", "=0.5"], 2, "is not"),
    (["--instance", "7=x"], 2, "is not"), (["--resample", "7"], 2, "--seed"),
    (["--instance", "99999=0.5"], 1, "a.png: object 99999: not in the instance map"),
    (["--instance", "80,0=0.5"], 1, "a.png: point 80,0: outside the output of 80x64"),
    (["--instance", "no.png=0.5"], 1, "no.png: no such file"),
    (["--instance", "odd.png=0.5"], 1, "this mask is 30x30; it must be as large as the input, 20x16"),
    (["b.png", "--instance", "7=0.5"], 2, "for a single picture; here are 2"),
])  # fmt: skip
def test_edits_that_cannot_be_are_named(upscale, arguments, code, message):
    save("a.png")
    save("b.png")
    picture(30, 30).save("odd.png")
    before = written()
    done, out, err = upscale("a.png", *arguments)
    assert done == code and out == [] and any(message in line for line in err)
    assert written() == before


@pytest.mark.parametrize("arguments", [["--instance", "5,5=0"], ["--resample", "5,5", "--seed", "3"],
                                       ["--merge", "1,2", "--instances"]])
@pytest.mark.parametrize("name", ["a.tif", "a.gif"])
def test_edits_are_not_of_several_pages_or_frames(upscale, name, arguments):
    """Each page has objects of its own; of a result that holds the first alone, that one is edited."""
    animation(name)
    code, out, err = upscale(name, *arguments, model="no-such-model")
    assert code == 1 and out == [] and err == [
        f"error: {name}: it has 3 pages or frames, and --instance, --resample and --merge are for one picture; save "
        "each as a file of its own", "0 done, 1 failed"]
    assert written() == [name]
    if "--merge" not in arguments:
        assert upscale(name, *arguments, "--format", "jpg")[0] == 0


def test_colour_table_has_no_colour_twice():
    from instancersr.batch.jobs import id_colors

    table = id_colors(50_000)
    assert table.shape == (50_001, 3) and not table[0].any()
    assert len(np.unique(table, axis=0)) == len(table)
    steps = np.linalg.norm(np.diff(table[:100].astype(int), axis=0), axis=1)
    assert steps.min() > 50


def test_profile_exif_and_orientation_survive(upscale):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera maker"
    save("a.jpg", exif=exif, icc_profile=profile)
    for format in ("png", "jpg", "webp"):
        assert upscale("a.jpg", "--format", format)[0] == 0
        result = Image.open(f"a_x4.{format}")
        assert result.size == (64, 80)  # upright
        assert result.info["icc_profile"] == profile
        assert result.getexif()[0x010F] == "Camera maker" and result.getexif()[0x0112] == 1


def test_alpha_is_enlarged_and_kept(upscale):
    rgba = picture(channels=4)
    rgba.save("a.png")
    assert upscale("a.png")[0] == 0
    alpha, source = (np.array(Image.open(name).getchannel("A")).astype(int) for name in ("a_x4.png", "a.png"))
    assert alpha.shape == (64, 80)
    assert np.abs(alpha.reshape(16, 4, 20, 4).mean((1, 3)) - source).mean() < 25  # an enlargement of this noise
    code, _, err = upscale("a.png", "--format", "jpg")
    assert code == 0 and "no transparency" in err[0] and err[-1] == "1 done"


def test_kinds_of_pictures(upscale):
    os.mkdir("in")
    rgb = picture()
    rgb.convert("L").save("in/grey.png")
    rgb.convert("LA").save("in/grey_alpha.png")
    rgb.quantize(8).save("in/palette.png")
    rgb.convert("CMYK").save("in/cmyk.jpg")
    rgb.save("in/b.bmp")
    rgb.save("in/t.tiff")
    Image.fromarray(np.arange(320, dtype=np.uint16).reshape(16, 20) * 200).save("in/deep.png")
    code, out, err = upscale("in", "-o", "out")
    assert code == 0 and len(out) == 7 and "cmyk.jpg: it is CMYK" in err[0] and err[1:] == ["7 done"]


# ------------------------------------------------------------------------------------------ what it refuses


def huge_header() -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def make_bad(kind: str) -> Path:
    path = Path({"text": "text.jpg", "missing": "missing.png", "drawing": "drawing.svg"}.get(kind, f"{kind}.png"))
    if kind == "text":
        path.write_text("this is no picture\n" * 30)
    elif kind == "truncated":
        picture(64, 64).save(path)
        path.write_bytes(path.read_bytes()[:4000])
    elif kind == "begun":
        save("whole.jpg")
        path.write_bytes(Path("whole.jpg").read_bytes()[:100])
        Path("whole.jpg").unlink()
    elif kind == "empty":
        path.touch()
    elif kind == "huge":
        path.write_bytes(huge_header())
    elif kind == "drawing":
        path.write_text("<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>")
    elif kind == "folder":
        path.mkdir()
    return path


BAD = ["text", "truncated", "begun", "empty", "missing", "huge", "drawing", "folder"]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line_and_the_others_are_done(upscale, kind):
    bad = make_bad(kind)
    save("first.jpg")
    save("last.jpg")
    before = written()
    code, out, err = upscale("first.jpg", bad, "last.jpg")
    assert code == 1
    assert len(out) == 2
    assert len(err) == 2 and err[0].startswith(f"error: {bad}: ") and err[1] == "2 done, 1 failed"
    assert written() == sorted([*before, "first_x4.png", "last_x4.png"])


def test_all_bad_files_of_a_batch_without_loading_a_model(upscale):
    paths = [make_bad(kind) for kind in BAD]
    before = written()
    code, out, err = upscale(*paths, model="no-such-model")
    assert code == 1 and not out and len(err) == len(BAD) + 1 and err[-1] == f"0 done, {len(BAD)} failed"
    assert written() == before


def test_a_hostile_file_name_stays_one_line(upscale):
    code, _, err = upscale("two\nlines\x1b[31m.png")
    assert code == 1 and len(err) == 2 and err[0].startswith("error: two\\nlines\\x1b[31m.png: no such file")


def test_existing_results_and_inputs_are_not_overwritten(upscale):
    save("a.png")
    save("b.png")
    Path("a_x4.png").write_text("precious")
    code, _, err = upscale("a.png", "b.png")
    assert code == 1 and "a_x4.png exists, use --overwrite" in err[0] and err[1] == "1 done, 1 failed"
    assert Path("a_x4.png").read_text() == "precious"
    assert upscale("a.png", "--overwrite")[0] == 0
    original = Path("b.png").read_bytes()
    code, _, err = upscale("b.png", "-o", "b.png", "--overwrite")
    assert code == 1 and "is an input and is never overwritten" in err[0]
    assert Path("b.png").read_bytes() == original


def test_a_result_that_appears_while_the_batch_runs_is_not_overwritten(upscale, monkeypatch):
    """As that of another process that works on the same folder."""
    save("a.png")

    def read(path):
        Path("a_x4.png").write_text("precious")
        return read_frames(path)

    monkeypatch.setattr("instancersr.batch.jobs.read_frames", read)
    code, _, err = upscale("a.png")
    assert code == 1 and err == ["error: a.png: a_x4.png exists, use --overwrite to replace it", "0 done, 1 failed"]
    assert Path("a_x4.png").read_text() == "precious"
    assert upscale("a.png", "--overwrite")[0] == 0 and Path("a_x4.png").read_bytes()[:4] == b"\x89PNG"


def test_a_format_that_the_outputs_name_contradicts_is_refused(upscale):
    save("a.png")
    code, _, err = upscale("a.png", "--format", "png", "-o", "x.jpg")
    assert code == 2 and err == ["error: --format: png, but --output names x.jpg; leave one of them out"]
    assert upscale("a.png", "--format", "jpeg", "-o", "x.jpg")[0] == 0


def test_a_folder_that_cannot_be_made_is_named(upscale):
    save("a.png")
    Path("file").write_text("")
    assert upscale("a.png", "-o", "file/b.png")[2][0] == (
        "error: a.png: file: this folder cannot be made (File exists); choose another --output")


def test_unwritable_outputs(upscale):
    save("a.png")
    Path("file").write_text("")
    Path("folder_x4.png").mkdir()
    save("folder.png")
    code, _, err = upscale("a.png", "-o", "file/sub/b.png")
    assert code == 1 and len(err) == 2 and "a.png" in err[0]
    code, _, err = upscale("folder.png")
    assert code == 1 and len(err) == 2 and "is a folder" in err[0]
    assert written() == ["a.png", "file", "folder.png"]


def test_a_closed_folder(upscale, permissions_hold):
    save("in/a.png")
    Path("in").chmod(0o500)
    code, _, err = upscale("in/a.png")
    assert code == 1 and ("no permission" in err[0] or "Permission denied" in err[0])


def test_a_result_too_large_for_its_format_is_refused_before_the_work(upscale):
    picture(4100, 16).save("a.png")
    code, _, err = upscale("a.png", "--format", "webp", model="no-such-model")
    assert code == 1 and "16400x64 is beyond the 16383 pixels of WEBP" in err[0]


def test_a_missing_model_is_one_line(upscale):
    save("a.png")
    os.mkdir("empty")
    code, out, err = upscale("a.png", model="empty")
    assert code == 2 and not out
    assert len(err) == 1 and err[0].startswith("error: cannot load the model empty: ")
    assert written() == ["a.png"]


@pytest.mark.parametrize("arguments", [
    [], ["a.png", "--scale", "0.5"], ["a.png", "--fidelity", "1.5"], ["a.png", "--steps", "0"],
    ["a.png", "--start-from", "x"], ["a.png", "--color-fix", "x"], ["a.png", "--format", "gif"],
    ["a.png", "--tile", "8"], ["a.png", "--device", "tpu"], ["a.png", "-o", "b.gif"], ["a.png", "--no-such"],
    ["a.png", "b.png", "-o", "one.png"], ["a.png", "-o", "file"], [""], ["a.png", ""], ["a.png", "-o", ""],
    ["a.png", "--scale", "nan"], ["a.png", "--fidelity", "nan"], ["a.png", "--denoise", "nan"],
    ["a.png", "--strength", "nan"], [".", "--watch", "--overwrite"], ["a.png", "--skip-existing", "--overwrite"],
])  # fmt: skip
def test_usage_errors_have_exit_code_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    result = CliRunner().invoke(app, ["upscale", *arguments])
    assert result.exit_code == 2 and "Traceback" not in result.output and result.stderr
    assert written() == ["file"]


def test_a_folder_to_watch_that_is_not_there_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["upscale", "missing", "--watch"])
    assert result.exit_code == 2 and "no such folder: missing" in result.stderr


# ---------------------------------------------------------------------------------------------------- train


def test_train_turns_a_bad_configuration_into_one_line(tmp_path):
    (tmp_path / "bad.yaml").write_text("no_such_key: 1\n")
    for path in (tmp_path / "bad.yaml", tmp_path / "missing.yaml"):
        result = CliRunner().invoke(app, ["train", str(path)])
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: ")


# ------------------------------------------------------------------------------------- nothing lost, nothing silent


def test_two_pictures_of_one_name_are_both_made_and_resume_agrees(upscale):
    save("in/a.png")
    save("in/a.jpg")
    code, out, _ = upscale("in", "-o", "out")
    assert code == 0 and len(out) == 2 and written("out") == ["a_jpg_x4.png", "a_png_x4.png"]
    code, out, err = upscale("in", "-o", "out", "--skip-existing")
    assert code == 0 and not out and err == ["0 done, 2 skipped: there is a result already"]
    Path("out/a_png_x4.png").unlink()
    assert upscale("in/a.png", "in/a.jpg", "-o", "out", "--skip-existing", "--json")[1:] != ([], [])
    assert written("out") == ["a_jpg_x4.png", "a_png_x4.png"]


def test_a_run_that_skips_what_exists_makes_what_is_missing_and_overwrites_nothing(upscale):
    save("a.png")
    assert upscale("a.png")[0] == 0
    Path("a_x4.png").write_bytes(before := Path("a_x4.png").read_bytes() + b"mine")
    code, _, err = upscale("a.png", "--instances", "--skip-existing")
    assert code == 0 and "exists and was kept" in err[0] and err[1] == "1 done"
    assert written() == ["a.png", "a_instances.json", "a_instances.png", "a_x4.png"]
    assert Path("a_x4.png").read_bytes() == before
    assert upscale("a.png", "--instances", "--skip-existing")[2] == ["0 done, 1 skipped: there is a result already"]


def test_a_map_that_is_kept_beside_a_new_picture_is_named(upscale):
    save("a.png")
    assert upscale("a.png", "--instances")[0] == 0
    before = Path("a_instances.png").read_bytes()
    code, _, err = upscale("a.png", "--scale", 2, "--instances", "--skip-existing")
    assert code == 0 and Path("a_instances.png").read_bytes() == before
    assert [line.partition(": it exists and was kept, so it may be of another picture than a_x2.png")[0] for line in err
            ] == ["note: a_instances.png", "note: a_instances.json", "1 done"]


def test_a_picture_that_fails_and_is_done_later_is_no_failure_in_the_sum():
    from rich.console import Console

    from instancersr.batch.jobs import Job, Result
    from instancersr.cli.progress import PictureProgress

    progress = PictureProgress(Console(stderr=True))
    for error in ("half a copy", None):
        progress.show(Result(Job(Path("a.jpg"), Path("b.png"), None), error))
    assert progress.failed == 0 and progress.summary == "1 done"


def test_results_are_not_enlarged_again_with_other_options(upscale):
    save("m/a.png")
    assert upscale("m")[0] == 0
    for arguments, result in ((["--scale", 2], "a_x2.png"), (["--format", "jpg"], "a_x4.jpg"), (["-o", "m/out"], None)):
        code, out, err = upscale("m", *arguments)
        assert code == 0 and len(out) == 1
        assert "made by this program; --include-results" in err[0] and err[1] == "1 done"
        assert result is None or Path("m", result).exists()
    assert upscale("m", "-o", "all", "--include-results")[2] == ["5 done"]
    assert upscale("m/a_x4.png")[0] == 0 and Path("m/a_x4_x4.png").exists()


def test_every_file_of_a_folder_is_accounted_for(upscale):
    for name in ("in/a.png", "in/a.jpg", "in/b.webp", "in/c.jfif", "in/sub/d.gif"):
        save(name, **({"format": "JPEG"} if name.endswith("jfif") else {}))
    Path("in/broken.jpg").write_bytes(b"\xff\xd8")
    for name in ("clip.mp4", "notes.doc", "notes"):
        Path("in", name).write_bytes(b"x")
    code, out, err = upscale("in", "-o", "out")
    assert code == 1 and len(out) == 5 and "broken.jpg" in err[0]
    assert err[1] == "3 files left out: 1 .doc, 1 .mp4, 1 without suffix" and err[2] == "5 done, 1 failed"
    code, out, err = upscale("in", "-o", "out", "--skip-existing")
    assert code == 1 and not out and err[2] == "0 done, 1 failed, 5 skipped: there is a result already"
    Path("in/broken.jpg").unlink()
    assert upscale("in", "-o", "out", "--skip-existing")[0] == 0


def test_a_file_named_twice_is_done_once(upscale):
    save("a.png")
    code, out, _ = upscale("a.png", "./a.png")
    assert code == 0 and len(out) == 1


def test_pages_go_into_one_file_and_what_cannot_hold_them_is_said(upscale):
    pages = [picture(seed=seed) for seed in range(3)]
    pages[0].save("a.tif", save_all=True, append_images=pages[1:])
    assert upscale("a.tif")[0] == 0
    assert Image.open("a_x4.tif").n_frames == 3
    code, _, err = upscale("a.tif", "--format", "png")
    assert code == 0 and "only the first of its 3 pages" in err[0]


def test_file_quality_and_lossless_reach_the_file(upscale):
    save("a.png")
    sizes = []
    for quality in (10, 95):
        assert upscale("a.png", "--format", "webp", "--file-quality", quality, "--overwrite")[0] == 0
        sizes.append(Path("a_x4.webp").stat().st_size)
    assert upscale("a.png")[0] == upscale("a.png", "--format", "webp", "--lossless", "--overwrite")[0] == 0
    np.testing.assert_array_equal(np.array(Image.open("a_x4.webp").convert("RGB")), np.array(Image.open("a_x4.png")))
    assert sizes[0] < sizes[1] < Path("a_x4.webp").stat().st_size


def test_stdin_is_called_so_and_only_our_own_words_are_on_stderr(tiny_model, tmp_path):
    """A TIFF with a tag that libtiff does not know, and a warning and a log line of a library while it is loaded."""
    noisy = tmp_path / "sitecustomize.py"
    noisy.write_text("import sys, logging, warnings, importlib.abc\n"
                     "class Loud(importlib.abc.MetaPathFinder):\n"
                     "    def find_spec(self, name, path, target=None):\n"
                     "        if name == 'diffusers':\n"
                     "            import os\n"
                     "            logging.getLogger('loud').warning('logged'); warnings.warn('warned')\n"
                     "            os.write(2, b'written by C\\n')\n"
                     "sys.meta_path.insert(0, Loud())\n")
    given = save(str(tmp_path / "a.tif")).read_bytes()
    command = [sys.executable, "-m", "instancersr", "upscale", "-", "-o", str(tmp_path / "b.png"), "--model",
               str(tiny_model), "--steps", "1"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, input=given, capture_output=True, timeout=120, cwd=root,
                          env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"})
    assert done.returncode == 0 and done.stderr.splitlines() == [b"1 done"]
    assert done.stdout.startswith(b"stdin -> ")


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v")
def test_lack_of_memory_is_one_line(tmp_path):
    path = tmp_path / "a.png"
    picture(900, 900).save(path)
    script = f"ulimit -v 1200000; exec {sys.executable} -m instancersr upscale {path} --tile 900"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 1 and not done.stdout
    assert [line for line in done.stderr.splitlines() if "not enough memory" in line] and "Traceback" not in done.stderr
    assert written(tmp_path) == ["a.png"]


def test_a_missing_part_names_commands_that_work(tmp_path):
    from instancersr.errors import MissingPackage

    said = str(MissingPackage(ImportError("No module named 'x'"), "train"))
    assert "pip install '.[train]'" in said and ".whl[train]'" in said and "install 'instancersr" not in said
