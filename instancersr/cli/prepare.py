"""``instancersr prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from instancersr.presets import TorchDevice

from .app import app
from .messages import as_line, needs, one_line_errors
from .progress import CountProgress


@app.command(epilog="Example:  instancersr prepare photos/ shards/ --size 512 --sam facebook/sam-vit-huge")
def prepare(
    photos: Annotated[str, typer.Argument(help="A folder of photos, a tar, a pattern of tars, or a folder of tars.")],
    output: Annotated[Path, typer.Argument(help="Folder for the shards; on a cluster, one that all machines see.")],
    size: Annotated[
        int | None,
        typer.Option(min=16, help="Cut the centre square of photos and masks and resize it to this many pixels a "
                     "side; without it, files keep their bytes."),
    ] = None,
    sam: Annotated[
        str | None, typer.Option(help="SAM, hub name or folder, that makes the masks where no JSON is beside a photo.")
    ] = None,
    latents: Annotated[
        str | None, typer.Option(help="Also store the latents of this autoencoder, hub name or folder.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Also store the features of this DINOv2, hub name or folder.")
    ] = None,
    shard_photos: Annotated[int, typer.Option(min=1, help="Most photos of a shard.")] = 1000,
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Most megabytes of a shard's source files.")] = 1000,
    pages: Annotated[
        int, typer.Option(min=0, help="Add so many drawn pages of text, forms and line art, which few photos show.")
    ] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; without it, one a core.")] = None,
    ray: Annotated[
        str | None, typer.Option(help="Work on a Ray cluster instead: its address, or 'auto'.")
    ] = None,
    device: Annotated[TorchDevice, typer.Option(help="Where the models compute.")] = "auto",
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs for the models, one process each; without it, all there are.")
    ] = None,
) -> None:
    """Make WebDataset shards of photos, with instance masks; the same command goes on where a stopped one ended.

    Bad photos are left out and listed in OUTPUT/skipped.jsonl; OUTPUT/manifest.json has counts and checksums.
    """
    errors = Console(stderr=True)
    with one_line_errors():
        from instancersr.loading import pick_torch_device

        with needs("train"):
            from instancersr.lab.data.prepare.run import prepare_photos
            from instancersr.lab.data.prepare.sample import SampleSettings

        with CountProgress(errors, "photos") as progress:
            try:
                manifest = prepare_photos(photos, output, SampleSettings(size, sam, latents, features), shard_photos,
                                          shard_mb, pages, workers, ray,
                                          device if ray else pick_torch_device(device), gpus, progress=progress.show)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("the same command goes on with what is left") from None
        without = manifest["photos"] - manifest["with_masks"]
        if without:
            errors.print(as_line(f"note: {without} photos have no masks; --sam makes them"), style="yellow")
        if manifest["skipped"]:
            errors.print(as_line(f"note: {manifest['skipped']} photos left out; the reasons are in "
                                 f"{output / 'skipped.jsonl'}"), style="yellow", soft_wrap=True)
        Console().print(as_line(f"{manifest['photos']} photos, {len(manifest['shards'])} shards, "
                                f"{manifest['bytes'] / 1e6:.1f} MB in {output}"), soft_wrap=True)
