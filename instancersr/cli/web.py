"""``instancersr web``."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Annotated

import typer

from instancersr.errors import MissingPackage
from instancersr.presets import Device, EngineName

from .app import app
from .messages import one_line_errors


@app.command(epilog="Example:  instancersr web --port 7860")
def web(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7860,
    auth: Annotated[
        str | None, typer.Option(metavar="USER:PASSWORD", envvar="INSTANCERSR_AUTH",
                                 help="Ask every visitor for these.")
    ] = None,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=80, help="Largest photo.")] = 16,
    model: Annotated[
        str, typer.Option(help="'builtin', a folder with a model, or a hub id.")
    ] = "builtin",
    segmenter: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A Segment Anything model, hub id or folder, that may find the "
                                 "objects; without it, facebook/sam-vit-base where that is installed.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = "auto",
    engine: Annotated[
        EngineName, typer.Option(help="What computes; auto: ONNX Runtime, and torch where only torch can.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; without it, what the engine chooses.")
    ] = None,
) -> None:
    """Serve a page for the browser: upscale photos, compare, change single objects, download."""
    if auth is not None and not all(auth.partition(":")):
        raise typer.BadParameter("expected USER:PASSWORD", param_hint="--auth")
    with one_line_errors():
        from instancersr.loading import installed_segmenter, load_segmenter, load_upscaler
        from instancersr.web.server import serve

        if find_spec("gradio") is None:  # imported later: it reads its settings at once
            raise MissingPackage(ImportError("No module named 'gradio'"), "web")
        if segmenter is not None:
            load_segmenter(segmenter, device)  # what is missing is said now
        name = segmenter or installed_segmenter()
        serve(load_upscaler(model, device, threads, engine), host, port, auth, round(max_megapixels * 1e6),
              partial(load_segmenter, name, device) if name else None)
