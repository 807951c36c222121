"""A whole preparation: begins or goes on, and leaves a folder that says what is in it.

`OUT/.progress` holds the settings, and a record and a part of the index for each finished shard; `manifest.json`,
`skipped.jsonl` and `index.npy`, written at the end, are made of them. Nothing in them depends on time, workers or
interruptions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from instancersr.cores import usable_cores
from instancersr.errors import MissingPackage, UserError
from instancersr.files import PART, write_whole

from ..dataset import TOKEN
from ..index import INDEX, MANIFEST, join_parts, save_rows, scan_shard
from ..pages import write_pages
from ..sources import Skipped
from .photos import add_photos, cut_shards, find_photos, fingerprint
from .sample import SampleSettings
from .shards import PROGRESS, ShardRecord, index_part
from .workers import run_local, run_ray

PAGES = ".progress/pages"
SETTINGS = "settings.json"
SKIPPED = "skipped.jsonl"


def prepare_photos(
    photos: str | Path,
    out: str | Path,
    settings: SampleSettings,
    shard_photos: int = 1000,
    shard_mb: float = 1000,
    pages: int = 0,
    workers: int | None = None,
    ray: str | None = None,
    device: str = "cpu",
    gpus: int | None = None,
    devices: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Makes `out/shard-000000.tar` and so on of the photos; the same call goes on where a stopped one ended.

    Args:
        photos: a folder, a tar, a glob pattern of tars, or a folder of tars.
        out: folder for the shards, made if need be.
        settings: what samples hold.
        shard_photos: most photos of a shard.
        shard_mb: most megabytes of a shard's source files.
        pages: drawn pages of text and line art that are added to the photos; see `data.pages`.
        workers: processes on this machine; None for one a core.
        ray: address of a Ray cluster to work on instead, or `auto`.
        device: of the models: `cpu`, `cuda` or `mps`; with `ray` also `auto`.
        gpus: how many of this machine's, or of the cluster's, are used; None for all.
        devices: of the models by name, one process each, instead of the two above.
        progress: called with the photos done, and all photos.

    Returns:
        The manifest: settings, counts, and the size and checksum of each shard.

    Raises:
        UserError: options that do not go together, unusable photos, models that are not there, or an `out` that
            holds something else or was begun with other settings or photos.
    """
    _check(settings)
    out = Path(out).expanduser().absolute()
    if out == Path(photos).expanduser().absolute():
        raise UserError(f"{out}: photos and shards need folders of their own")
    _check_folder(out)
    found, duplicates = find_photos(photos)
    if pages:
        write_pages(out / PAGES, pages)
        found, duplicates = add_photos(found, duplicates, find_photos(out / PAGES)[0])
    shards = list(cut_shards(found, shard_photos, shard_mb * 1e6))
    plan = {**asdict(settings), "shard_photos": shard_photos, "shard_mb": float(shard_mb),
            "pages": pages, "photos": fingerprint(found)}
    records = _begin(out, plan)
    todo = [shard for shard in shards if shard.name not in records]
    done = len(found) - sum(len(shard.photos) for shard in todo)

    def advance(photos: int) -> None:
        nonlocal done
        done += photos
        progress(done, len(found))

    advance(0)
    if todo and ray is not None:
        results = run_ray(todo, out, settings, device, gpus, ray, advance)
    else:
        chosen = model_devices(settings, device, gpus) if devices is None else devices
        results = run_local(todo, out, settings, chosen, workers or usable_cores(), advance)
    for record in results if todo else ():
        write_whole(out / PROGRESS / f"{record.name}.json", json.dumps(asdict(record)))
        records[record.name] = record
    return _finish(out, plan, [records[shard.name] for shard in shards], duplicates)


def _check(settings: SampleSettings) -> None:
    cached = [f"--{name}" for name in ("latents", "features") if getattr(settings, name)]
    if settings.size is None:
        if cached:
            raise UserError(f"{cached[0]}: needs --size, as stored tensors belong to one crop of each photo")
    elif settings.size < TOKEN or settings.size % TOKEN:
        raise UserError(f"--size: {settings.size} must be a multiple of {TOKEN}, the pixels of a token")
    if settings.sam or settings.features:
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingPackage(error, "train") from error


def model_devices(settings: SampleSettings, device: str, gpus: int | None) -> list[str]:
    """The devices of this machine that models run on, each by a process of its own; none: the CPU workers run them.

    Raises:
        UserError: there are fewer GPUs than asked for.
    """
    if not settings.needs_models or device == "cpu":
        if gpus:
            raise UserError("--gpus: nothing runs on a GPU without --sam, --latents or --features, or on --device cpu")
        return []
    if device != "cuda":
        return [device]
    import torch

    there = torch.cuda.device_count()
    if gpus and gpus > there:
        raise UserError(f"--gpus {gpus}: torch sees {there} here")
    return [f"cuda:{number}" for number in range(gpus or there)]


# ------------------------------------------------------------------------------------- begin, go on, finish


def _check_folder(out: Path) -> None:
    if out.is_file():
        raise UserError(f"{out}: is a file, not a folder")
    begun = (out / PROGRESS / SETTINGS).exists()  # then a shard without a record was ended between the two
    if not _finished(out) and out.exists() and any(
            path for path in out.iterdir() if path != out / PROGRESS and path.suffix != PART
            and not (begun and path.match("shard-*.tar"))):
        raise UserError(f"{out}: holds other things; name an empty or a new folder")


def _finished(out: Path) -> list[Path]:
    """The records of finished shards."""
    return sorted((out / PROGRESS).glob("shard-*.json"))


def _begin(out: Path, plan: dict) -> dict[str, ShardRecord]:
    """The finished shards of an earlier run with the same plan; what that run left unfinished is removed."""
    folder = out / PROGRESS
    finished = _finished(out)
    if finished:  # before the first, settings are still free: a mistyped model shall not spoil the folder
        _compare(out, {"pages": 0, **json.loads((folder / SETTINGS).read_text())}, plan)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SETTINGS, json.dumps(plan))
    _remove_parts(out)
    records = (_read_record(file) for file in finished)
    return {record.name: record for record in records if _is_whole(out, record)}


def _read_record(file: Path) -> ShardRecord:
    fields = json.loads(file.read_text())
    return ShardRecord(**{**fields, "skipped": tuple(Skipped(**photo) for photo in fields["skipped"])})


def _is_whole(out: Path, record: ShardRecord) -> bool:
    shard = out / record.name
    return shard.exists() and shard.stat().st_size == record.bytes


def _compare(out: Path, before: dict, now: dict) -> None:
    for name in now:
        if before.get(name) == now[name]:
            continue
        if name == "photos":
            raise UserError(f"{out}: the photos are not those it was begun with; name a new folder")
        raise UserError(f"{out}: was begun with --{name.replace('_', '-')} {before.get(name)}, now {now[name]}; "
                        "name a new folder or the same settings")


def _finish(out: Path, plan: dict, records: Sequence[ShardRecord], duplicates: Sequence[Skipped]) -> dict:
    """Writes the lists of what is there and what is not."""
    _remove_parts(out)  # of machines that died
    shutil.rmtree(out / PAGES, ignore_errors=True)
    skipped = [*duplicates, *(photo for record in records for photo in record.skipped)]
    write_whole(out / SKIPPED, "".join(json.dumps(asdict(photo)) + "\n" for photo in skipped))
    manifest = {
        "settings": plan,
        "photos": sum(record.photos for record in records),
        "with_masks": sum(record.with_masks for record in records),
        "skipped": len(skipped),
        "bytes": sum(record.bytes for record in records),
        "shards": [{name: value for name, value in asdict(record).items() if name != "skipped"} for record in records],
    }
    _write_index(out, [record.name for record in records])
    write_whole(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _write_index(out: Path, names: Sequence[str]) -> None:
    """Of all shards; their parts are not needed any more then."""
    parts = [index_part(out, name) for name in names]
    if (out / INDEX).exists() and not any(part.exists() for part in parts):
        return  # nothing was done since
    for part, name in zip(parts, names, strict=True):
        if not part.exists():
            save_rows(part, scan_shard(out / name))
    join_parts(parts, out / INDEX)
    for part in parts:
        part.unlink()


def _remove_parts(out: Path) -> None:
    for folder in (out, out / PROGRESS):
        for part in folder.glob(f".*{PART}"):
            part.unlink(missing_ok=True)
