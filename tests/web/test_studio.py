"""What the page asks of the upscaler."""

import pytest
from PIL import Image
from skimage import data

from instancersr.loading import load_upscaler
from instancersr.web.jobs import Job
from instancersr.web.session import Session
from instancersr.web.studio import Options, Studio


@pytest.mark.parametrize("quality", ["fast", "balanced"])
def test_only_what_was_sampled_has_objects_to_change(tmp_path, quality):
    Image.fromarray(data.astronaut()[40:64, 200:232]).save(tmp_path / "a.png")
    studio = Studio(load_upscaler(threads=1), 1_000_000)
    options = Options(4, quality, None, ".png")
    outcome, result = studio.enlarge(Session(tmp_path), [tmp_path / "a.png"], options, Job("me"))
    assert outcome.problems == [] and result.picture.size == (128, 96) and outcome.pixels == 128 * 96
    if quality == "fast":
        assert result.ids is None and outcome.view["objects"] == [] and "another quality" in outcome.view["note"]
    else:
        assert result.ids.shape == (96, 128) and outcome.view["objects"]
