"""``instancersr doctor``: what this installation consists of, whether it works, and what could be better."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .batch.loading import Device, load_pipeline, pick_device
from .errors import UserError
from .images.reading import MAX_PIXELS
from .lab.pipeline import BUILTIN, find_model

PACKAGES = ("torch", "diffusers", "numpy", "scipy", "pillow", "safetensors", "pydantic", "typer", "rich")
CHECKSUMS = "SHA256SUMS"
"""File beside the shipped weights, made by `sha256sum */*.safetensors > SHA256SUMS` in their folder."""
FIXED_BYTES = 1.15e9
"""What an upscale takes whatever the picture: torch, the weights, one tile (benchmarks/memory.py)."""
BYTES_PER_PIXEL = 24
"""What it takes more for each pixel of the result (benchmarks/memory.py)."""
ENOUGH = 48e6
"""Pixels of the result for a 3-megapixel photo, enlarged four times: fewer are worth advice."""


@dataclass(frozen=True)
class Finding:
    """One part of the installation: what was found, whether it can work so, and how it could be better, or None."""

    name: str
    found: str
    works: bool = True
    advice: str | None = None


def examine(model: str, device: Device) -> Iterator[Finding]:
    """Looks at every part; the last and longest look upscales a picture of 16x16.

    Args:
        model: "builtin", a folder, or a hub id.
        device: "auto", "cpu", "cuda" or "mps".
    """
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("instancersr", lambda: Finding("instancersr", f"{_version('instancersr') or '?'} in {Path(__file__).parent}")),
        ("python", lambda: Finding("python", f"{platform.python_version()} on {platform.platform()}")),
        *((name, partial(_package, name)) for name in PACKAGES),
        ("HEIC pictures", _heic),
        ("device", lambda: _device(device)),
        ("CPU", _cpu),
        ("threads", _threads),
        ("acceleration", lambda: _acceleration(device)),
        ("memory", lambda: _memory(device)),
        ("embedded weights", lambda: _weights(BUILTIN)),
        ("checksum", lambda: _weights(find_model(model))),
        ("model", lambda: _model(model, device)),
    ]
    for name, look in looks:
        try:
            found = look()
        except Exception as error:  # a broken part must not hide the others
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            found = Finding(name, lines[0] if lines else type(error).__name__, works=False)
        yield Finding(name, found.found, found.works, found.advice)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    found = _version(name)
    if found is None:
        raise UserError(f"not installed; pip install {name}")
    return Finding(name, found)


def _heic() -> Finding:
    found = _version("pillow-heif")
    return Finding("", found or "no", advice=None if found else "for HEIC pictures: pip install pillow-heif")


# ------------------------------------------------------------------------------------------------- speed


def _device(device: Device) -> Finding:
    name = pick_device(device)
    if name == "cuda":
        return Finding("", f"cuda ({torch.cuda.get_device_name()})")
    unused = name == "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available())
    if unused:
        return Finding("", name, advice="there is a GPU: leave out --device cpu")
    blind = name == "cpu" and shutil.which("nvidia-smi") and not torch.backends.cuda.is_built()
    return Finding("", name, advice="there may be an NVIDIA GPU, but this torch is built without CUDA; "
                   "pytorch.org/get-started has one with it" if blind else None)


def _cpu() -> Finding:
    level = torch.backends.cpu.get_cpu_capability()
    info = Path("/proc/cpuinfo")  # torch says nothing of the bf16 units
    flags = set(info.read_text(errors="replace").split()) if info.is_file() else set()
    features = [level, *(flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags)]
    slow = level in ("DEFAULT", "NO AVX") and platform.machine().lower() in ("x86_64", "amd64")
    return Finding("", ", ".join(features), advice="torch uses no AVX2 here and is several times slower; "
                   "unset ATEN_CPU_CAPABILITY or use a newer processor" if slow else None)


def _threads() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    advice = None
    if 2 * used < usable:  # hyper-threads count twice, torch counts cores
        advice = f"{usable} cores may be used: unset OMP_NUM_THREADS, or upscale with --threads {usable}"
    elif used > usable:
        advice = f"more threads than cores slow each other down: upscale with --threads {usable}"
    return Finding("", f"{used} used, {usable} of {os.cpu_count()} cores usable", advice=advice)


def _acceleration(device: Device) -> Finding:
    name = pick_device(device)
    backends = {"MKL": torch.backends.mkl.is_available(), "oneDNN": torch.backends.mkldnn.is_available()}
    present = [each for each, there in backends.items() if there] if name == "cpu" else []
    attention = next((kind for kind, backend in (("flash", SDPBackend.FLASH_ATTENTION),
                                                 ("memory-efficient", SDPBackend.EFFICIENT_ATTENTION))
                      if _attends(backend, name)), "plain")
    advice = None
    if name == "cpu" and not present:
        advice = "this torch has neither MKL nor oneDNN and is slow; install the one from pip"
    elif attention == "plain" and name != "mps":
        advice = "no fused attention: update torch with pip install -U torch"
    return Finding("", ", ".join([*present, f"{attention} attention", "not compiled"]), advice=advice)


def _attends(backend: SDPBackend, device: str) -> bool:
    q = torch.zeros(1, 5, 64, 64, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    try:
        with sdpa_kernel(backend), torch.no_grad():
            F.scaled_dot_product_attention(q, q, q)
    except RuntimeError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ memory


def _memory(device: Device) -> Finding:
    free = free_memory()
    if free is None:
        return Finding("", "unknown on this system")
    pixels = min(largest_result(free), 16 * MAX_PIXELS)
    found = f"{free / 2**30:.1f} GiB free"
    if pick_device(device) == "cuda":
        found += f", {torch.cuda.mem_get_info()[0] / 2**30:.1f} GiB on the GPU"
    if not pixels:
        return Finding("", found, False, f"an upscale takes {FIXED_BYTES / 2**30:.1f} GiB: close other programs")
    found += f": results up to {pixels / 1e6:.0f} megapixels, from {pixels / 16e6:.1f} at 4x"
    few = f"for results over {pixels / 1e6:.0f} megapixels close other programs, or cut the picture in parts"
    return Finding("", found, advice=few if pixels < ENOUGH else None)


def largest_result(free: float) -> float:
    """Pixels of the largest result that so many bytes allow; 0 where none does."""
    return max(0.0, (free - FIXED_BYTES) / BYTES_PER_PIXEL)


def free_memory() -> int | None:
    """Bytes that this process may still take: the system's, or what a container's limit leaves; None: unknown."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0])
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:  # cgroups v2 and v1, as a container sees its own
            bound, taken = (Path("/sys/fs/cgroup", name).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if bound != "max":
            free = min(free, max(0, int(bound) - int(taken)))
    return free


# ------------------------------------------------------------------------------------------------- model


def checksums(folder: Path) -> dict[str, str]:
    """Path under the folder -> SHA-256 of each file of weights, sorted."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found[file.relative_to(folder).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _weights(folder: Path) -> Finding:
    found = checksums(folder)
    if not found:
        raise UserError(f"no weights in {folder}; install the package again")
    size = sum((folder / name).stat().st_size for name in found) / 1e6
    text = "".join(f"{digest}  {name}\n" for name, digest in found.items())
    said = f"{len(found)} files, {size:.1f} MB, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    record = folder / CHECKSUMS
    if not record.is_file():
        return Finding("", f"{said}, none recorded to check it against, in {folder}")
    recorded = {name: digest for digest, name in (line.split() for line in record.read_text().splitlines())}
    damaged = sorted(name for name in recorded | found if recorded.get(name) != found.get(name))
    if damaged:
        raise UserError(f"{', '.join(damaged)} in {folder}: not the file that {CHECKSUMS} records; "
                        "install the package again")
    return Finding("", f"{said}, as recorded, in {folder}")


def _model(model: str, device: Device) -> Finding:
    started = time.perf_counter()
    pipe = load_pipeline(model, device, None)
    loaded = time.perf_counter()
    gradient = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    picture = pipe(gradient, scale=4).images[0]
    if picture.size != (64, 64):
        raise UserError(f"the model {model} made {picture.size} of a 16x16 picture, not 64x64")
    return Finding("", f"{model}, {str(pipe.dtype).removeprefix('torch.')}, loaded in {loaded - started:.1f} s, "
                   f"16x16 -> 64x64 in {time.perf_counter() - loaded:.1f} s")
