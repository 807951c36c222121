"""The page's picture in the documentation: a photo before and after, and one of its objects chosen.

    python benchmarks/screenshot.py examples/cat.jpg docs/images/web.png [--width 1280] [--height 900]
"""

import argparse
import io
import os
import shutil
import subprocess
import sys

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("output")
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
            page.set_default_timeout(600_000)
            page.goto(address)
            page.locator("#photos input[type=file]").set_input_files(arguments.photo)
            page.locator("#photos .file-preview").wait_for()
            page.get_by_role("button", name="Enlarge").click()
            page.locator("#viewer .viewer").wait_for()
            page.locator("#objects").wait_for()
            page.get_by_label("Show all objects").check()
            canvas = page.locator("#viewer canvas")
            box = canvas.bounding_box()
            canvas.click(position={"x": 0.75 * box["width"], "y": 0.5 * box["height"]})
            page.wait_for_function("document.querySelector('#object input').value !== ''")
            page.get_by_role("heading").first.hover()
            page.wait_for_timeout(1000)
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            picture.quantize(256, dither=Image.Dither.NONE).save(arguments.output, optimize=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
