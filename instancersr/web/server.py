"""Serves the page: address, password, and nothing that leaves this machine."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..upscaler import Segmenter, Upscaler

OUTBOUND = re.compile(r"/proxy=|/file[=/]\s*https?:", re.IGNORECASE)
"""Addresses by which Gradio would fetch other addresses for a visitor."""

LARGEST_BYTES = 8
"""Bytes an uncompressed pixel has at most: 16 bits in four channels. It limits what is uploaded."""


LARGEST_BODY = 4 * 2**20
"""Bytes of a request that is no upload: it names files and settings. It is read whole before anything else."""


class Gate:
    """Stands before the whole page: asks for user and password, and refuses to fetch other addresses.

    Args:
        app: ASGI application.
        auth: "USER:PASSWORD", or None to ask for nothing.
    """

    def __init__(self, app: Any, auth: str | None):
        self._app = app
        self._expected = None if auth is None else b"Basic " + base64.b64encode(auth.encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if self._expected is not None and not secrets.compare_digest(given, self._expected):
                return await _answer(send, 401, [(b"www-authenticate", b'Basic realm="InstanceRSR", charset="UTF-8"')])
            if OUTBOUND.search(scope["path"]):
                return await _answer(send, 404)
            if scope["method"] == "POST" and not scope["path"].endswith("/upload"):
                body = await _read(receive)
                if body is None:
                    return await _answer(send, 413)
                if names_address(body):
                    return await _answer(send, 404)
                receive = _again(body, receive)
        await self._app(scope, receive, send)


def names_address(body: bytes) -> bool:
    """Whether JSON names a file by an address on the net, which Gradio would fetch."""
    try:
        waiting = [json.loads(body)]
    except ValueError:
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if str(value.get("path")).strip().lower().startswith(("http:", "https:")):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


async def _read(receive: Any) -> bytes | None:
    """The body of a request; None where it is larger than LARGEST_BODY."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Any) -> Any:
    """`receive` as if the body had not been read."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Any:
        return first.pop() if first else await receive()

    return read


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    await send({"type": "http.response.body"})


@contextmanager
def page_app(upscaler: Upscaler, max_pixels: int, auth: str | None = None,
             segmenter: Callable[[], Segmenter] | None = None) -> Iterator[Any]:
    """The page as an ASGI application; its files are in a new folder, which is deleted at the end.

    One at a time in a process: Gradio reads the folder's name from the environment.

    Args:
        max_pixels: largest photo, in pixels.
        auth: "USER:PASSWORD", or None.
        segmenter: as for `Studio`.
    """
    with tempfile.TemporaryDirectory(prefix="instancersr-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        import gradio as gr
        from fastapi import FastAPI

        from .app import THEME, build_page, read_part
        from .session import KEPT_SESSIONS, Sessions
        from .studio import Studio
        from .tasks import Worker

        worker = Worker()
        try:
            page = build_page(Studio(upscaler, max_pixels, segmenter), worker, Sessions(Path(folder)))
            page.state_session_capacity = KEPT_SESSIONS  # Gradio's own notes on visitors; it would keep 10,000
            page.has_launched = True  # else Gradio takes any path on this machine for an uploaded file
            app = gr.mount_gradio_app(
                FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page, path="/", theme=THEME,
                css=read_part("page.css"), js=read_part("page.js"), footer_links=[], run_history=False, pwa=False,
                ssr_mode=False, mcp_server=False, enable_monitoring=False, show_error=False, allowed_paths=[],
                max_file_size=LARGEST_BYTES * max_pixels)
            yield Gate(app, auth)
        finally:
            worker.close()


def serve(upscaler: Upscaler, host: str, port: int, auth: str | None, max_pixels: int,
          segmenter: Callable[[], Segmenter] | None = None) -> None:
    """Serves the page until it is interrupted.

    Raises:
        UserError: the address cannot be used.
    """
    import uvicorn

    listener = _listen(host, port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is deleted then, too
    with listener, page_app(upscaler, max_pixels, auth, segmenter) as app:
        print(f"http://{_in_url(host)}:{listener.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
        # a tab that is open at the end would otherwise leave a traceback; Gradio reports errors of the page itself
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        raise UserError(f"{host}:{port}: cannot be used ({error.strerror}); try another --port or --host") from error
    return listener


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
