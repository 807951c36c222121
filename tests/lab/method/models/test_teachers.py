"""Teachers on small random models saved in the hub's layout."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install '.[train]'")
from pycocotools import mask as coco
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from instancersr.errors import UserError
from instancersr.lab.method.models import teachers
from instancersr.lab.method.models.teachers import ConvProjector, Dinov2Teacher, SamMasks, spatial_normalization

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}


@pytest.mark.parametrize("model", [Dinov2Model(Dinov2Config(**SMALL)),
                                   Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3))],
                         ids=["plain", "registers"])
def test_features_are_those_of_the_patches(model, tmp_path):
    model.save_pretrained(tmp_path)
    teacher = Dinov2Teacher(tmp_path)
    photos = torch.rand(2, 3, 32, 48)
    features = teacher(photos, (2, 3))
    assert features.shape == (2, 6, 16)
    # the patches are the last tokens: class and registers come first
    inputs = (photos - teacher.mean) / teacher.std
    inputs = torch.nn.functional.interpolate(inputs, (28, 42), mode="bicubic", antialias=True)
    with torch.no_grad():
        assert torch.allclose(features, model.eval()(inputs).last_hidden_state[:, -6:], atol=1e-5)


def test_another_kind_of_model_is_refused(tmp_path):
    ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="not a DINOv2"):
        Dinov2Teacher(tmp_path)


def test_convolution_projector_sees_the_neighbours_on_the_grid_and_no_others():
    projector = ConvProjector(4, 6)
    tokens = torch.zeros(1, 12, 4)
    base = projector(tokens, (3, 4))
    tokens[0, 5] = 1  # row 1, column 1
    changed = (projector(tokens, (3, 4)) != base).any(2).reshape(3, 4)
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[:, :3] = True
    assert torch.equal(changed, expected)


def test_spatial_normalization_leaves_no_mean_and_unit_deviation():
    features = 5 + 3 * torch.randn(2, 50, 8)
    normal = spatial_normalization(features, 1.0)
    assert normal.mean(1).abs().max() < 1e-5 and torch.allclose(normal.std(1), torch.ones(2, 8), atol=1e-4)
    kept = spatial_normalization(features, 0.0)
    assert torch.allclose(kept, features / features.std(1, keepdim=True), atol=1e-4)


ANY_MASK = {"points_per_side": 4, "pred_iou": -10.0, "stability": 0.0, "nms": 1.0}
"""A random network is sure of nothing: this lets everything pass."""


@pytest.mark.parametrize("kind", ["small_sam", "small_sam2"])
def test_sam_masks_become_sa1b_annotations(kind, request):
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    notes = SamMasks(request.getfixturevalue(kind), **ANY_MASK)(rgb)
    assert notes and [note["id"] for note in notes] == list(range(1, len(notes) + 1))
    for note in notes:
        mask = coco.decode({"size": note["segmentation"]["size"], "counts": note["segmentation"]["counts"].encode()
                            if isinstance(note["segmentation"]["counts"], str) else note["segmentation"]["counts"]})
        assert mask.shape == (48, 64) and mask.sum() == note["area"] > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert note["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize("kind", ["small_sam", "small_sam2"])
def test_objects_are_the_masks_with_the_smaller_on_top(kind, request, monkeypatch):
    sam = SamMasks(request.getfixturevalue(kind), **ANY_MASK)
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    expected = np.zeros((48, 64), np.int32)
    for note in sorted(sam(rgb), key=lambda note: -note["area"]):
        size, counts = note["segmentation"]["size"], note["segmentation"]["counts"].encode()
        expected[coco.decode({"size": size, "counts": counts}) > 0] = note["id"]
    ids = sam.find_objects(rgb)
    assert ids.dtype == np.int32 and len(np.unique(ids)) > 1
    np.testing.assert_array_equal(ids, expected)
    monkeypatch.setattr(teachers, "SAM_SIDE", 32)
    small = sam.find_objects(rgb)
    assert small.shape == (48, 64)
    np.testing.assert_array_equal(small, small[::2, ::2].repeat(2, 0).repeat(2, 1))


def test_missing_sam_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(UserError, match="hf download" if find_spec("torchvision") else "torchvision"):
        SamMasks(tmp_path)
