"""What the page's buttons do when they are pressed sooner than the work before is done; a tiny random model."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from instancersr.loading import load_upscaler
from instancersr.web.session import Sessions, Setting
from instancersr.web.studio import Options, Studio
from instancersr.web.tasks import Task, Worker

ME = "me"


@pytest.fixture
def visited(tiny_model, tmp_path):
    """A page's worker, its functions by name, the buttons' in their order, and a visitor's result of two objects."""
    gradio = pytest.importorskip("gradio", reason="needs the page's packages: pip install '.[web]'")
    from instancersr.web.app import build_page

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / "a.png")
    halves = np.repeat([1, 2], 64).astype(np.int32) * np.ones((96, 1), np.int32)
    studio = Studio(load_upscaler(str(tiny_model), threads=1), 1_000_000, lambda: lambda rgb: halves)
    worker, sessions = Worker(), Sessions(tmp_path)
    page = build_page(studio, worker, sessions)
    assert isinstance(page, gradio.Blocks)
    functions = {}
    for each in page.fns.values():
        functions.setdefault(each.name, []).append(each.fn)
    session = sessions.begin(ME)
    outcome, result = studio.enlarge(session, [tmp_path / "a.png"], Options(4, "balanced", None, ".png",
                                                                            segmented=True), Task(ME))
    sessions.keep(session, outcome.pixels, result)
    yield worker, functions, result
    worker.close()


async def ended(updates) -> None:
    async for _ in updates:
        pass


def test_the_second_of_two_quick_changes_keeps_the_first(visited):
    worker, functions, result = visited
    apply, request = functions["change"][0], SimpleNamespace(session_hash=ME)
    free = threading.Event()

    async def press() -> None:
        other = asyncio.create_task(ended(worker.run("other", lambda task: free.wait(60))))
        await asyncio.sleep(0)
        changes = [apply(1, [], 0.2, request), apply(2, [], 0.5, request)]
        for each in changes:
            await anext(each)  # each waits in line
        free.set()
        for each in [*map(ended, changes), other]:
            await each

    with ThreadPoolExecutor(1) as pool:  # a browser's tests leave a running loop in this thread
        pool.submit(asyncio.run, press()).result()
    assert [version.changes.settings for version in result.versions] == [
        {}, {1: Setting(0.2)}, {1: Setting(0.2), 2: Setting(0.5)}]
