"""The page's pictures in the documentation: a still, and a recording of its use up to a changed object.

    python benchmarks/screenshot.py examples/cat.jpg docs/images/web.png docs/images/web.webp

The still is of a photo before and after with one of its objects chosen. The recording begins with the empty page, draws
the handle over the photo, chooses an object, and weakens it, at half of the size.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PAUSE, MOVE = 1600, 120
"""Milliseconds for which a step of the recording is shown, and a position of the handle."""

SLIDE = "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})) }"


class Recording:
    """Pictures of a page, and for how long each is shown."""

    def __init__(self, page: Page):
        self.page, self.frames, self.durations = page, [], []

    def take(self, duration: int = PAUSE) -> None:
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        self.frames.append(picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS))
        self.durations.append(duration)

    def save(self, path: str) -> None:
        self.frames[0].save(path, save_all=True, append_images=self.frames[1:], duration=self.durations, loop=0,
                            quality=60, method=6)


def use(page: Page, photo: str, recording: Recording, still: str) -> None:
    """Enlarges the photo, compares, chooses an object, takes the still, and weakens the object."""
    page.locator("#photos input[type=file]").wait_for(state="attached")
    recording.take()
    page.locator("#photos input[type=file]").set_input_files(photo)
    page.locator("#photos .file-preview").wait_for()
    recording.take()
    page.get_by_role("button", name="Enlarge").click()
    page.locator("#viewer .viewer").wait_for()
    page.locator("#objects").wait_for()
    page.locator("#viewer").scroll_into_view_if_needed()
    slider = page.get_by_role("slider", name="How much of the picture before is shown, in percent")
    for percent in (50, *range(90, 9, -10), *range(20, 51, 10)):
        slider.evaluate(SLIDE, str(percent))
        recording.take(PAUSE if percent == 50 else MOVE)
    page.get_by_label("Show all objects").check()
    canvas = page.locator("#viewer canvas")
    box = canvas.bounding_box()
    canvas.click(position={"x": 0.75 * box["width"], "y": 0.5 * box["height"]})
    page.wait_for_function("document.querySelector('#object input').value !== ''")
    recording.take()
    page.get_by_role("heading").first.hover()
    page.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(still, optimize=True)
    page.get_by_label("Show all objects").uncheck()
    before = page.locator("#viewer img.after").get_attribute("src")
    page.locator("#strength input[type=number]").fill("0")
    page.get_by_role("button", name="Apply strength").click()
    page.wait_for_function("old => document.querySelector('#viewer img.after').getAttribute('src') !== old", arg=before)
    page.wait_for_timeout(1000)
    page.locator("#viewer").scroll_into_view_if_needed()
    recording.take(2 * PAUSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("still")
    parser.add_argument("recording")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "instancersr", "web", "--port", "0"]
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            address = server.stdout.readline().split()[0]
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": arguments.width, "height": arguments.height})
            page.set_default_timeout(120_000)
            page.goto(address)
            recording = Recording(page)
            use(page, arguments.photo, recording, arguments.still)
            recording.save(arguments.recording)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
