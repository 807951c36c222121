"""A server of the page in this process, and a browser to look at it."""

import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def serve_page():
    """A context manager that serves the page for an upscaler, by a thread, and gives its address."""
    pytest.importorskip("gradio", reason="needs the page's packages: pip install '.[web]'")
    return served


@contextmanager
def served(upscaler, **options):
    import uvicorn

    from instancersr.web.server import page_app

    with socket.create_server(("127.0.0.1", 0)) as listener, page_app(upscaler, 2_000_000, **options) as app:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


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
