"""The page's server with many clients, clients that leave, and clients that mean harm; a tiny random model."""

import asyncio
import base64
import gc
import json
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

CLIENTS = 20
API = "gradio_api/"


class GatedPipeline:
    """The real upscaler, which after each tile waits until the test lets it go on, and counts each task's tiles."""

    def __init__(self, pipe):
        self._pipe = pipe
        self.gate = threading.Event()
        self.gate.set()
        self.tiles: list[int] = []
        self.total = 0

    def __call__(self, *arguments, progress, **options):
        task = len(self.tiles)
        self.tiles.append(0)

        def report(done, total):
            self.tiles[task] += 1
            self.total = total
            assert self.gate.wait(60)
            progress(done, total)

        return self._pipe(*arguments, progress=report, tile=16, **options)

    @property
    def denoises(self):
        return self._pipe.denoises

    def edit(self, *arguments, **options):
        return self._pipe.edit(*arguments, **options)


@pytest.fixture(scope="module")
def pipe(tiny_model):
    from instancersr.loading import load_upscaler

    return GatedPipeline(load_upscaler(str(tiny_model), threads=1))


@pytest.fixture(scope="module")
def address(serve_page, pipe):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("instancersr.web.session.KEPT_SESSIONS", CLIENTS)
        with serve_page(pipe) as address:
            yield address


@pytest.fixture
def held(pipe):
    """Tasks stand still after their first tile until the test ends or opens the gate."""
    pipe.gate.clear()
    pipe.tiles = []
    yield pipe
    pipe.gate.set()


def wait_for_tile(held, wait=lambda milliseconds: time.sleep(milliseconds / 1000)):
    """Until the first tile is done: for ever, were the task refused, so there is an end to patience."""
    end = time.monotonic() + 60
    while not sum(held.tiles):
        assert time.monotonic() < end, "no task has begun"
        wait(50)


class Client:
    """What the page's own script does: upload, join the queue, read the stream of events."""

    def __init__(self, address, name="me", **options):
        self.http = httpx.Client(base_url=address, timeout=60, **options)
        self.session = f"session-{name}"
        config = self.http.get("config").json()
        self._functions = {each["api_name"]: each["id"] for each in config["dependencies"]}

    def upload(self, *paths):
        files = [("files", (Path(path).name, Path(path).read_bytes())) for path in paths]
        answer = self.http.post(API + "upload", files=files)
        answer.raise_for_status()
        return [as_file(path) for path in answer.json()]

    def call(self, name, *values):
        """Joins the queue, and gives the event's id."""
        body = {"data": values, "fn_index": self._functions[name], "session_hash": self.session}
        answer = self.http.post(API + "queue/join", json=body)
        answer.raise_for_status()
        return answer.json()["event_id"]

    def events(self):
        """The messages of this session, until the server ends the stream."""
        with self.http.stream("GET", API + "queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def enlarge(self, files, kind=".png"):
        return self.call("enlarge", files, 4, "balanced", "natural", kind, "auto", "map")

    def outcome(self):
        """What the page shows at the end, as text."""
        *_, text = [json.dumps(message["output"]) for message in self.events() if "output" in message]
        return text


def as_file(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)).save(path)
    return path


def png_of(width, height):
    """A PNG's beginning: nothing but its size is true."""
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------- many, and gone


def test_twenty_clients_at_once_are_all_served(address, photo):
    texts = {}

    def visit(number):
        client = Client(address, f"crowd-{number}")
        client.enlarge(client.upload(photo))
        texts[number] = client.outcome()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(texts) == CLIENTS
    assert all("128 \\u00d7 96" in text for text in texts.values())


def test_gradio_too_forgets_the_oldest_visitors(address, photo):
    """Else memory grows with every visitor: its notes on one are a copy of the page's settings."""
    from gradio.state_holder import StateHolder

    for number in range(CLIENTS + 2):
        client = Client(address, f"passing-{number}")
        client.enlarge(client.upload(photo))
        assert "128 \\u00d7 96" in client.outcome()
    noted = {session for each in gc.get_objects() if isinstance(each, StateHolder) for session in each.session_data}
    assert {session for session in noted if "passing" in session} == {
        f"session-passing-{number}" for number in range(2, CLIENTS + 2)}


def test_who_waits_sees_how_many_are_before(address, photo, held):
    first, second = Client(address, "first"), Client(address, "second")
    first.enlarge(first.upload(photo))
    wait_for_tile(held)
    second.enlarge(second.upload(photo))
    events = second.events()
    assert any("1 other task is before yours" in json.dumps(event) for event in events)
    held.gate.set()
    assert "128 \\u00d7 96" in [json.dumps(event) for event in events if "output" in event][-1]


@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_cancel_and_a_closed_tab_stop_the_computation(address, browser, photo, held, leave):
    page = browser.new_page()
    page.goto(address)
    page.locator("#photos input[type=file]").set_input_files(photo)
    page.get_by_text(photo.stem).first.wait_for()
    page.get_by_role("button", name="Enlarge").click()
    wait_for_tile(held, page.wait_for_timeout)
    if leave == "cancel":
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.").wait_for()
    page.close()
    check_that_the_next_is_served(address, photo, held)


def test_a_client_whose_connection_breaks_frees_the_worker(address, photo, held):
    client = Client(address, "broken")
    client.enlarge(client.upload(photo))
    events = client.events()
    wait_for_tile(held, lambda _: next(events))
    client.http.close()
    check_that_the_next_is_served(address, photo, held)


def check_that_the_next_is_served(address, photo, held):
    """The task before has left the line though its first tile is not finished, and gets no second one."""
    client = Client(address, "next")
    client.enlarge(client.upload(photo))
    events = client.events()
    while "Working" not in json.dumps(next(events)):
        pass
    assert held.tiles[0] == 1
    held.gate.set()
    assert "128 \\u00d7 96" in [json.dumps(event) for event in events if "output" in event][-1]
    assert held.tiles == [1, held.total]


# ---------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize("name, content, told", [
    ("vast.png", png_of(20_000, 15_000), "over the limit of 2 megapixels"),
    ("large.png", png_of(2000, 1500), "over the limit of 2 megapixels"),
    ("text.png", b"This is no picture.\n" * 20, "is not a picture"),
    ("empty.png", b"", "is empty"),
    ("cut.png", png_of(64, 64)[:60], "damaged"),
])
def test_a_bad_upload_is_one_line(address, tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    client = Client(address, name)
    client.enlarge(client.upload(tmp_path / name))
    text = client.outcome()
    assert text.count("class='problem'") == 1 and f"{name}: " in text and told in text
    assert "Traceback" not in text and str(tmp_path) not in text and "/tmp" not in text


def test_a_bad_photo_does_not_stop_the_others(address, photo, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    client = Client(address, "several")
    client.enlarge(client.upload(photo, bad, photo))
    text = client.outcome()
    assert text.count("class='problem'") == 1 and "instancersr.zip" in text
    link = text.split("<a href='")[1].split("'")[0]
    archive = tmp_path / "got.zip"
    archive.write_bytes(client.http.get(link).content)
    assert sorted(zipfile.ZipFile(archive).namelist()) == ["photo_x4.png", "photo_x4_2.png"]


def test_photos_of_one_name_keep_both_and_an_odd_file_refuses_no_other(address, tmp_path):
    """The zip's names are those of the command line; notes and problems name files, never a path of the server."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-2])
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    client = Client(address, "names")
    client.enlarge(client.upload(*(tmp_path / name for name in ("a.png", "clip.mp4", "a.jpg", "cut.jpg"))))
    text = client.outcome()
    assert text.count("class='problem'") == 1 and "clip.mp4: is a video" in text
    assert "cut.jpg: the file is cut off" in text and str(tmp_path) not in text and "/tmp/gradio" not in text
    link = text.split("<a href='")[1].split("'")[0]
    assert text.replace(link, "").count("/tmp/") == text.replace(link, "").count("file=/tmp/")
    archive = tmp_path / "got.zip"
    archive.write_bytes(client.http.get(link).content)
    assert sorted(zipfile.ZipFile(archive).namelist()) == ["a_jpg_x4.png", "a_png_x4.png", "cut_x4.png"]


def test_paths_outside_the_upload_folder_are_refused(address, photo):
    client = Client(address, "path")
    for path in ("/etc/passwd", "../../../etc/passwd", str(photo)):
        client.call("enlarge", [as_file(path)], 4, "balanced", "natural", ".png")
        text = client.outcome()
        assert "Traceback" not in text and "128 \\u00d7 96" not in text
        for form in ("file=", "file/"):
            assert client.http.get(API + form + path).status_code in (403, 404)


def test_the_server_fetches_no_other_address(address):
    client = Client(address, "fetch")
    for path in ("file=http://example.com/a.png", "file=https://example.com/a.png", "proxy=https://a.hf.space/b",
                 "file/https://example.com/a.png"):
        assert client.http.get(API + path).status_code == 404
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        client.enlarge([as_file("https://example.com/a.png")])


def test_one_visitors_result_is_not_anothers(address, photo):
    mine, other = Client(address, "mine"), Client(address, "other")
    mine.enlarge(mine.upload(photo))
    assert "128 \\u00d7 96" in mine.outcome()
    mine.call("keep", ".png")
    link = mine.outcome().split("<a href='")[1].split("'")[0]
    assert mine.http.get(link).status_code == 200
    other.call("keep", ".png")
    assert "no longer kept" in other.outcome()
    # neither the folder nor its parents can be listed, and the name in between has 24 random bytes
    folder, secret, _, name = link.removeprefix(API + "file=").rsplit("/", 3)
    assert len(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))) == 24
    for guess in (folder, f"{folder}/", f"{folder}/*/*/{name}", f"{folder}/{secret}", f"{folder}/{'a' * 32}/{name}"):
        assert other.http.get(f"{API}file={guess}").status_code in (403, 404)


def test_wrong_values_are_refused_without_a_traceback(address, photo):
    client = Client(address, "wrong")
    files = client.upload(photo)
    for values in ([files, 1e9, "balanced", "natural", ".png"], [files, 4, "x", "natural", ".png"],
                   [files, 4, "balanced", "natural", "/../../x.png"], [None, 4, "balanced", "natural", ".png"],
                   [[], 4, "balanced", "natural", ".png"], ["text", 4, "balanced", "natural", ".png"]):
        client.call("enlarge", *values)
        text = client.outcome()
        assert "Traceback" not in text and "128 \\u00d7 96" not in text


def test_the_password_stands_before_everything():
    from instancersr.web.server import Gate

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})

    transport = httpx.ASGITransport(Gate(app, "me:se:cret"))

    async def ask(path, auth):
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return (await client.get(path, auth=auth)).status_code

    def status(path, auth):  # Playwright has a loop in this thread
        return ThreadPoolExecutor(1).submit(asyncio.run, ask(path, auth)).result()

    for path in ("/", "/config", "/assets/index.js", "/gradio_api/file=/x", "/gradio_api/cancel", "/login"):
        assert status(path, None) == 401
        assert status(path, ("me", "wrong")) == 401
        assert status(path, ("me", "se:cret")) == 200


@pytest.mark.parametrize("chunks", [1, 1000])
def test_a_request_that_is_no_upload_has_a_limit(chunks):
    """Nothing behind the gate sees more, whatever the sender says of its length; what fits arrives unchanged."""
    from instancersr.web.server import LARGEST_BODY, Gate

    def ask(size: int) -> tuple[list[int], list[bytes]]:
        sizes = [size // chunks] * (chunks - 1) + [size - size // chunks * (chunks - 1)]
        parts = iter([{"type": "http.request", "body": b"x" * part, "more_body": number < chunks - 1}
                      for number, part in enumerate(sizes)])
        statuses, seen = [], []

        async def receive():
            return next(parts)

        async def send(message):
            statuses.append(message.get("status"))

        async def behind(scope, receive, send):
            seen.append((await receive())["body"])

        scope = {"type": "http", "method": "POST", "path": "/join", "headers": []}
        with ThreadPoolExecutor(1) as pool:  # a browser's tests leave a running loop in this thread
            pool.submit(asyncio.run, Gate(behind, None)(scope, receive, send)).result()
        return statuses, seen

    assert ask(LARGEST_BODY) == ([], [b"x" * LARGEST_BODY])
    assert ask(LARGEST_BODY + chunks) == ([413, None], [])
