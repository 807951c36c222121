"""One photo's files, against Pillow, pycocotools and the models themselves."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from safetensors.torch import load
from skimage import data

from instancersr.instances.annotations import annotations_from_id_map
from instancersr.instances.codes import colorize, scale_target
from instancersr.lab.data.pictures import decode_ids
from instancersr.lab.data.prepare.photos import find_photos
from instancersr.lab.data.prepare.sample import SampleSettings, make_samples
from instancersr.lab.data.sources import Skipped
from instancersr.lab.method.models.teachers import SamMasks


@pytest.fixture
def photo(tmp_path):
    """A photo of 200 x 300 pixels with masks that overlap, one of them outside the centre square."""
    Image.fromarray(data.astronaut()[:200, :300]).save(tmp_path / "flight.jpg", quality=97)
    masks = np.zeros((3, 200, 300), np.uint8)
    masks[0, 20:150, 60:280], masks[1, 50:90, 100:180], masks[2, :, :40] = 1, 1, 1
    notes = []
    for number, mask in enumerate(masks):
        rle = coco.encode(np.asfortranarray(mask))
        notes.append({"id": 11 * (number + 1), "area": int(mask.sum()), "bbox": coco.toBbox(rle).tolist(),
                      "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                      "predicted_iou": 0.9, "stability_score": 0.96, "crop_box": [0, 0, 300, 200],
                      "point_coords": [[70, 60]]})
    image = {"image_id": 7, "width": 300, "height": 200, "file_name": "flight.jpg"}
    (tmp_path / "flight.json").write_text(json.dumps({"image": image, "annotations": notes}))
    return masks, find_photos(tmp_path)[0][0]


def make_sample(photo, settings):
    (made,) = make_samples([photo], settings, "cpu")
    return made


def files(photo, **settings):
    sample = make_sample(photo, SampleSettings(**settings))
    assert not isinstance(sample, Skipped), sample
    return dict(sample.files)


def test_without_a_size_files_keep_their_bytes(photo):
    made = files(photo[1])
    ids = decode_ids(made.pop("ids"))
    assert made == {"jpg": photo[1].picture.read(), "json": photo[1].masks.read()}
    expected = np.zeros((200, 300))
    for number in np.argsort([-int(mask.sum()) for mask in photo[0]]):
        expected[photo[0][number] > 0] = number + 1
    assert np.array_equal(ids, expected)


def test_photo_and_masks_are_cut_and_shrunk_alike(photo):
    masks, photo = photo
    made = files(photo, size=64)
    with Image.open(io.BytesIO(made["jpg"])) as image, Image.open(io.BytesIO(photo.picture.read())) as whole:
        expected = whole.crop((50, 0, 250, 200)).resize((64, 64), Image.Resampling.BICUBIC)
        error = np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean()
        assert image.size == (64, 64) and error < 3  # JPEG's own loss
    sa1b = json.loads(made["json"])
    assert sa1b["image"] == {"image_id": 7, "width": 64, "height": 64, "file_name": "flight.jpg"}
    assert [note["id"] for note in sa1b["annotations"]] == [11, 22]  # the third lies outside
    for note, mask in zip(sa1b["annotations"], masks, strict=False):
        expected = np.asarray(Image.fromarray(mask[:, 50:250]).resize((64, 64), Image.Resampling.NEAREST))
        assert np.array_equal(coco.decode(note["segmentation"]), expected)
        assert note["area"] == expected.sum() == coco.area(note["segmentation"])
        assert note["bbox"] == coco.toBbox(note["segmentation"]).tolist()
        x, y = note["point_coords"][0]
        assert expected[y, x] and note["crop_box"] == [0, 0, 64, 64]
        assert (note["predicted_iou"], note["stability_score"]) == (0.9, 0.96)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=56,
                             patch_size=14)).save_pretrained(folder)
    return folder


def test_features_are_the_teachers_of_the_stored_photo(photo, dinov2):
    from instancersr.lab.method.models.teachers import Dinov2Teacher

    made = files(photo[1], size=64, features=str(dinov2))
    features = load(made["safetensors"])["teacher"]
    expected = Dinov2Teacher(dinov2)(decoded(made["jpg"]), (4, 4))[0]
    assert features.dtype == torch.float16 and features.shape == (16, 24)
    assert torch.allclose(features.float(), expected, atol=2e-3)


def test_latents_are_the_autoencoders_of_the_stored_photo_and_its_map(photo, tmp_path):
    from diffusers import AutoencoderKL

    from instancersr.lab.method.models import BlockAutoencoder

    torch.manual_seed(0)
    BlockAutoencoder(4).save_pretrained(tmp_path / "block")
    drawn = AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
                          down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                          scaling_factor=0.5, shift_factor=0.25).eval()
    drawn.save_pretrained(tmp_path / "kl")
    exact = files(photo[1], size=64, latents=str(tmp_path / "block"))
    assert set(load(exact["safetensors"])) == {"latent", "map_latent"}
    made = files(photo[1], size=64, latents=str(tmp_path / "kl"))
    tensors = load(made["safetensors"])
    assert set(tensors) == {"latent", "latent_std", "map_latent", "map_latent_std"}
    for prefix, picture in (("", decoded(made["jpg"])), ("map_", instance_map(made["json"], "flight"))):
        with torch.no_grad():
            posterior = drawn.encode(picture * 2 - 1).latent_dist
        mean, deviation = (posterior.mean[0] - 0.25) * 0.5, posterior.std[0] * 0.5
        assert tensors[f"{prefix}latent"].shape == (4, 8, 8)
        assert torch.allclose(tensors[f"{prefix}latent"].float(), mean, atol=2e-3)
        assert torch.allclose(tensors[f"{prefix}latent_std"].float(), deviation, atol=2e-3)


def decoded(encoded: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(encoded)) as image:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255


def instance_map(sa1b: bytes, key: str) -> torch.Tensor:
    """As training makes it: instances numbered in the order of their ids, painted from the largest to the smallest."""
    notes = json.loads(sa1b)["annotations"]
    ids = np.zeros((64, 64), np.int32)
    for number, note in enumerate(notes, 1):
        ids[coco.decode(note["segmentation"]) > 0] = number
    targets = {number: scale_target(key, number) for number in range(1, len(notes) + 1)}
    return torch.from_numpy(colorize(ids, targets)).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("photo", b"no picture", "cannot be decoded"),
    ("photo", None, "cannot be decoded"),  # cut off
    ("masks", b"{", "its masks cannot be used (Expecting"),
    ("masks", b"[]", "annotations"),
    ("masks", json.dumps(annotations_from_id_map(np.ones((8, 8), np.int32), "x")).encode(), "8, 8"),
    ("masks", b'{"image": {"width": 300, "height": 200}, "annotations": [{"id": 1, "area": 1}]}', "segmentation"),
])
@pytest.mark.parametrize("size", [None, 64])
def test_bad_photos_are_named_with_their_reason(photo, tmp_path, name, content, reason, size):
    path = tmp_path / ("flight.jpg" if name == "photo" else "flight.json")
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    made = make_sample(find_photos(tmp_path)[0][0], SampleSettings(size))
    assert isinstance(made, Skipped)
    assert made.photo.endswith("flight.jpg") and reason in made.reason and "\n" not in made.reason


def test_a_photo_below_the_size_is_left_out(photo):
    made = make_sample(photo[1], SampleSettings(256))
    assert made == Skipped(photo[1].picture.name, "300x200 pixels; 256 a side are asked for")


def test_a_photo_that_vanished_is_left_out(photo, tmp_path):
    (tmp_path / "flight.jpg").unlink()
    assert "cannot be read" in make_sample(photo[1], SampleSettings()).reason


def test_sam_makes_the_masks_that_no_json_gives(photo, small_sam, tmp_path):
    """Of random weights few masks are stable enough to be kept; which ones is the teacher's own test."""
    given = files(photo[1], size=64, sam=str(small_sam))
    assert [note["id"] for note in json.loads(given["json"])["annotations"]] == [11, 22]  # the JSON's own
    (tmp_path / "flight.json").unlink()
    made = files(find_photos(tmp_path)[0][0], size=64, sam=str(small_sam))
    sa1b = json.loads(made["json"])
    assert sa1b["image"] == {"image_id": 0, "width": 64, "height": 64, "file_name": "flight.jpg"}
    stored = (decoded(made["jpg"])[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert sa1b["annotations"] == SamMasks(small_sam)(stored)
