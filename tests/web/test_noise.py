"""The page's choice of noise and grain: there where the model has the control, and what it does to the picture."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

pytest.importorskip("gradio", reason="needs the page's packages: pip install '.[web]'")

from instancersr.lab.method.models import RestorationNetwork
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.web.app import build_page
from instancersr.web.session import Sessions
from instancersr.web.studio import Studio
from instancersr.web.tasks import Worker

LABEL = "Noise and grain"


@pytest.fixture
def page(tmp_path):
    """Builds the page for an upscaler -> it, and its sessions."""
    workers = []

    def build(upscaler):
        workers.append(Worker())
        sessions = Sessions(tmp_path / "files")
        return build_page(Studio(upscaler, 10_000), workers[-1], sessions), sessions

    yield build
    for worker in workers:
        worker.close()


def choice(page) -> dict:
    [found] = [each["props"] for each in page.config["components"] if each["props"].get("label") == LABEL]
    return found


def test_the_choice_is_there_where_the_model_has_the_control_and_changes_the_picture(tiny_model, page, tmp_path):
    pipe = InstanceRSRPipeline.from_pretrained(tiny_model)
    plain, _ = page(pipe)
    assert not choice(plain)["visible"]
    torch.manual_seed(0)
    grained = InstanceRSRPipeline.from_pretrained(tiny_model, restoration_grain=RestorationNetwork(8, 1))
    blocks, sessions = page(grained)
    assert choice(blocks)["visible"] and choice(blocks)["value"] == "auto"
    assert [value for _, value in choice(blocks)["choices"]] == ["auto", "keep", "light", "strong"]

    [enlarge] = [each for each in blocks.fns.values() if each.api_name == "enlarge"]
    values = {"Enlarge": 4, "Quality": "balanced", "Look": "faithful", "Save as": ".png", "Objects by": "map"}
    photo = data.chelsea()[60:84, 100:124]
    Image.fromarray(photo).save(tmp_path / "a.png")
    seen = {}
    for word, denoise in (("auto", None), ("keep", 0.0), ("light", 0.5), ("strong", 1.0)):
        given = [(values | {LABEL: word}).get(each.label, [str(tmp_path / "a.png")]) for each in enlarge.inputs]

        async def run(given=given) -> None:
            async for _ in enlarge.fn(*given, SimpleNamespace(session_hash="visitor")):
                pass

        asyncio.run(run())
        seen[word] = np.asarray(sessions.find("visitor")[1].picture)
        np.testing.assert_array_equal(seen[word], np.asarray(grained(photo, fidelity=1, denoise=denoise).images[0]))
    kinds = {word: picture.tobytes() for word, picture in seen.items()}
    assert len(set(kinds.values())) == 3 and kinds["auto"] in (kinds["keep"], kinds["strong"])
