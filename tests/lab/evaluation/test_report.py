"""report.html in a real browser: opened from disk, sorted, zoomed, its picture pairs, no network."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from instancersr.lab.evaluation.benchmarks import BenchmarkConfig
from instancersr.lab.evaluation.evaluate import EvaluationConfig, evaluate

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An evaluation of three pictures of 96x64, the second hardest, by bicubic and by a folder of outputs."""
    folder = tmp_path_factory.mktemp("a folder") / "with #5"
    for part in ("LR", "HR", "done"):
        (folder / part).mkdir(parents=True)
    flat = Image.new("RGB", (96, 64), "teal")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    cat = Image.fromarray(data.chelsea()[100:164, 150:246])
    for name, truth in (("a", flat), ("b", noise), ("c", cat)):
        truth.save(folder / "HR" / f"{name}.png")
        truth.filter(ImageFilter.GaussianBlur(1)).save(folder / "done" / f"{name}.png")
        truth.resize((24, 16), Image.Resampling.BICUBIC).save(folder / "LR" / f"{name}.png")
    return evaluate(EvaluationConfig(
        output=folder / "out", benchmarks={"tiny": BenchmarkConfig(lr=folder / "LR", hr=folder / "HR")},
        methods={"cubic": "bicubic", "soft": str(folder / "done")}, metrics=["psnr", "ssim"]))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    with playwright.sync_playwright() as runner:
        if not (found or Path(runner.chromium.executable_path).exists()):
            pytest.skip("needs Chromium: playwright install chromium, or a system package")
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = runner.chromium.launch(executable_path=found, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, folder):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.goto((folder / "report.html").as_uri())
    yield page
    page.wait_for_load_state("networkidle")
    page.close()
    assert not wrong
    assert all(url.startswith(("file:", "data:")) for url in asked)


def order(page) -> list[str]:
    return page.eval_on_selector_all(".pictures tbody", "bodies => bodies.map(body => body.dataset.image)")


def test_worst_pictures_come_first_and_a_click_turns_the_order_round(page):
    assert order(page) == ["b", "c", "a"]  # by the first metric of the first method that is not the baseline
    button = page.locator("th[data-method=cubic][data-metric=psnr] button")
    page.locator("th.name button").click()
    assert order(page) == ["a", "b", "c"]
    button.click()
    assert order(page) == ["b", "c", "a"] and "worst first" in page.locator(".order").inner_text()
    button.click()
    assert order(page) == ["a", "c", "b"] and "best first" in page.locator(".order").inner_text()


def test_every_picture_is_there_at_its_size(page):
    for image in page.locator(".picture img").all():
        image.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('.picture img')].every(i => i.complete && i.naturalWidth)")
    sizes = page.eval_on_selector_all(".picture img", "all => all.map(i => [i.naturalWidth, i.naturalHeight])")
    assert len(sizes) == 3 * 4 and all(size == [96, 64] for size in sizes)  # the input too, enlarged by nearest


def test_zoomed_crops_of_all_methods_show_one_place(page):
    page.locator("tbody[data-image=c] .picture").first.click()
    names = page.locator("dialog figcaption").all_inner_texts()
    assert [name.split("\n")[0] for name in names] == ["input", "truth", "cubic", "soft"]
    assert "ssim\u00a00." in names[3] and "ssim" not in names[0]
    positions = "all => all.map(i => [i.style.width, i.style.left, i.style.top])"
    before = page.eval_on_selector_all("dialog img", positions)
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    after = page.eval_on_selector_all("dialog img", positions)
    assert len({tuple(place) for place in after}) == 1 and after[0] != before[0]
    page.keyboard.press("PageDown")
    assert page.locator("#zoom-title").inner_text() == "a (tiny)"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
