"""What the page asks of the upscaler."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from instancersr.edits import Edit
from instancersr.errors import UserError
from instancersr.loading import installed_segmenter, load_upscaler
from instancersr.web.session import Changes, Session, Setting
from instancersr.web.studio import Options, Studio, compare_with, go_to, save
from instancersr.web.tasks import Task


@pytest.mark.parametrize("quality", ["fast", "balanced"])
def test_only_what_was_sampled_has_objects_to_change(tmp_path, quality):
    Image.fromarray(data.astronaut()[40:64, 200:232]).save(tmp_path / "a.png")
    studio = Studio(load_upscaler(threads=1), 1_000_000)
    options = Options(4, quality, None, ".png")
    outcome, result = studio.enlarge(Session(tmp_path), [tmp_path / "a.png"], options, Task("me"))
    assert outcome.problems == [] and result.picture.size == (128, 96) and outcome.pixels == 128 * 96
    if quality == "fast":
        assert result.ids is None and outcome.view["objects"] == [] and "another quality" in outcome.view["note"]
    else:
        assert result.ids.shape == (96, 128) and outcome.view["objects"]


@pytest.fixture(scope="module")
def upscaler(tiny_model):
    return load_upscaler(str(tiny_model), threads=1)


@pytest.fixture
def enlarged(upscaler, tmp_path):
    """Studio, session and the result of a small photo with three objects side by side."""
    Image.fromarray(data.astronaut()[40:64, 200:232]).save(tmp_path / "a.png")
    studio, session = Studio(upscaler, 1_000_000, lambda: lambda rgb: thirds), Session(tmp_path)
    thirds = np.repeat([1, 2, 3], [48, 40, 40]).astype(np.int32) * np.ones((96, 1), np.int32)
    options = Options(4, "balanced", None, ".png", segmented=True)
    outcome, result = studio.enlarge(session, [tmp_path / "a.png"], options, Task("me"))
    assert outcome.problems == []
    return studio, session, result


def pixels(picture) -> np.ndarray:
    return np.asarray(picture).astype(int)


def preview(result, name: str) -> np.ndarray:
    """What the page shows on one side."""
    return pixels(Image.open(result.view[name].removeprefix("gradio_api/file=")))


def test_every_version_is_kept_and_shown_beside_the_one_before(enlarged):
    studio, session, result = enlarged
    number = result.view["objects"][0]["id"]
    looks = [pixels(result.picture)]
    assert result.view["tag_before"] == "Before" and result.view["tag_after"] == "After"
    for place, seed in ((2, 3), (3, 4)):
        before = result.view["after"]
        studio.change(session, result, result.changes.set(number, seed=seed), f"seed {seed}", Task("me"))
        looks.append(pixels(result.picture))
        assert result.view["before"] == before and result.view["after"] != before
        assert result.view["tag_after"] == f"Version {place}" and result.view["tag_before"] == f"Version {place - 1}"
    assert len({look.tobytes() for look in looks}) == 3
    assert [version.label for version in result.versions] == ["as enlarged", "seed 3", "seed 4"]
    for place in (0, 2, 1, 0):
        left = result.view["after"]
        go_to(result, place)
        np.testing.assert_array_equal(pixels(result.picture), looks[place])
        assert np.abs(preview(result, "after") - looks[place]).mean() < 6  # a JPEG of it
        assert result.view["before"] == left
    go_to(result, 0)
    assert result.view["before"] == left  # still the one that was left
    compare_with(result, None)
    assert result.view["before"] == result.view["photo"] and result.view["tag_before"] == "Before"


def test_what_was_drawn_already_is_not_drawn_again(enlarged):
    studio, session, result = enlarged
    number = result.view["objects"][0]["id"]
    again = Changes().set(number, seed=3)
    studio.change(session, result, again, "again", Task("me"))
    drawn = result.picture
    studio.change(session, result, Changes(), "all reset", Task("me"))
    assert result.at == 0 and len(result.versions) == 2
    studio.change(session, result, again, "again", Task("me"))
    assert result.at == 1 and len(result.versions) == 2
    np.testing.assert_array_equal(pixels(result.picture), pixels(drawn))


def test_a_version_is_stored_once_for_each_suffix(enlarged):
    studio, session, result = enlarged
    first = [save(session, result, suffix)[0] for suffix in (".png", ".jpg")]
    np.testing.assert_array_equal(pixels(Image.open(first[0])), pixels(result.picture))
    stored = set(session.folder.rglob("*"))
    assert [save(session, result, suffix)[0] for suffix in (".png", ".jpg")] == first
    assert set(session.folder.rglob("*")) == stored
    number = result.view["objects"][0]["id"]
    studio.change(session, result, result.changes.set(number, seed=3), "again", Task("me"))
    other = save(session, result, ".png")[0]
    np.testing.assert_array_equal(pixels(Image.open(other)), pixels(result.picture))
    go_to(result, 0)
    assert save(session, result, ".png")[0] == first[0] != other


def test_merged_objects_are_one_in_the_list_the_map_and_the_edits(enlarged, upscaler):
    studio, session, result = enlarged
    first, second = (each["id"] for each in result.view["objects"][:2])
    both, plain, packed = np.isin(result.ids, [first, second]), pixels(result.picture), result.view["map"]["data"]
    studio.change(session, result, result.changes.merge([first, second]), "merged", Task("me"))
    assert len(result.versions) == 1 and np.array_equal(pixels(result.picture), plain)  # nothing was drawn
    assert np.array_equal(result.ids == first, both) and result.view["map"]["data"] != packed
    listed = [each["id"] for each in result.view["objects"]]
    assert first in listed and second not in listed
    studio.change(session, result, result.changes.set(first, strength=0.0), "weaker", Task("me"))
    expected = upscaler.edit(result.original, [Edit(both, strength=0)]).images[0]
    np.testing.assert_array_equal(pixels(result.picture), pixels(expected))
    assert not np.array_equal(pixels(result.picture), plain)
    studio.change(session, result, Changes(), "all reset", Task("me"))
    assert second in [each["id"] for each in result.view["objects"]] and result.at == 0
    with pytest.raises(UserError, match="object 99999: not in the instance map"):
        studio.change(session, result, Changes().merge([first, 99999]), "merged", Task("me"))


def test_an_object_merged_again_takes_all_its_parts_and_the_first_ones_setting():
    changes = Changes().set(3, strength=0.2).set(9, seed=7).merge([3, 7]).merge([9, 3])
    assert changes.merged == {9: (9, 3, 7)} and changes.settings == {9: Setting(seed=7)}
    assert changes.reset(9).draws_as(Changes()) and not changes.draws_as(Changes().set(9, seed=7))
    assert changes.draws_as(changes.merge([1, 2])) and not changes.draws_as(changes.merge([9, 2]))


def test_a_segmenter_finds_the_objects_where_it_is_asked_for(upscaler, tmp_path):
    Image.fromarray(data.astronaut()[40:64, 200:232]).save(tmp_path / "a.png")
    ids = np.zeros((96, 128), np.int32)
    ids[:, 60:] = 4
    studio = Studio(upscaler, 1_000_000, lambda: lambda rgb: ids)
    assert studio.segments and not Studio(upscaler, 1_000_000).segments
    for segmented in (True, False):
        options = Options(4, "balanced", None, ".png", segmented=segmented)
        _, result = studio.enlarge(Session(tmp_path), [tmp_path / "a.png"], options, Task("me"))
        assert np.array_equal(result.ids, ids) == segmented


def test_sam_is_offered_where_its_packages_and_weights_are(tmp_path, monkeypatch):
    """The folder is laid out as the hub's client lays out its cache."""
    pytest.importorskip("torchvision")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert installed_segmenter() is None
    cached = tmp_path / "models--facebook--sam-vit-base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123abcd")
    (cached / "snapshots" / "0123abcd").mkdir(parents=True)
    (cached / "snapshots" / "0123abcd" / "model.safetensors").touch()
    assert installed_segmenter() == "facebook/sam-vit-base"
