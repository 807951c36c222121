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
from pathlib import Path

import numpy as np
import onnxruntime

from .cores import usable_cores
from .engines.onnx import PROVIDERS, own_threads
from .engines.onnx import pick_device as pick_onnx_device
from .errors import UserError, first_line
from .images.reading import MAX_PIXELS
from .installation import installed_version
from .loading import load_upscaler, pick_engine, pick_torch_device
from .model import BUILTIN, find_model
from .presets import Device, EngineName

PACKAGES = ("onnxruntime", "numpy", "scipy", "pillow", "typer", "rich")
CHECKSUMS = "SHA256SUMS"
"""File beside the shipped weights, made by `sha256sum */*.safetensors > SHA256SUMS` in their folder."""
FIXED_BYTES = 0.45e9
"""What an upscale takes whatever the picture: libraries, weights, one tile (benchmarks/memory.py)."""
BYTES_PER_PIXEL = 24
"""What it takes more for each pixel of the result (benchmarks/memory.py)."""
ENOUGH = 48e6
"""Pixels of the result for a 3-megapixel photo, enlarged four times: fewer are worth advice."""
VECTORS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "i8mm", "bf16")
"""Flags of a processor that ONNX Runtime has its own code for."""


@dataclass(frozen=True)
class Finding:
    """One part of the installation: what was found, whether it can work so, and how it could be better, or None."""

    name: str
    found: str
    works: bool = True
    advice: str | None = None


def examine(model: str, device: Device, engine: EngineName = "auto") -> Iterator[Finding]:
    """Looks at every part; the last and longest look upscales a picture of 16x16.

    Args:
        model, device, engine: as for `load_upscaler`.
    """
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("instancersr", lambda: Finding("instancersr", f"{installed_version() or '?'} in {Path(__file__).parent}")),
        ("python", lambda: Finding("python", f"{platform.python_version()} on {platform.platform()}")),
        *((name, partial(_package, name)) for name in PACKAGES),
        ("torch", lambda: Finding("", installed_version("torch") or "no; only research and some GPUs need it")),
        ("HEIC pictures", _heic),
        ("engine", lambda: _engine(model, device, engine)),
        ("CPU", _cpu),
        ("threads", _threads),
        ("memory", _memory),
        ("embedded weights", lambda: _weights(BUILTIN)),
        ("checksum", lambda: _weights(find_model(model).folder)),
        ("model", lambda: _model(model, device, engine)),
    ]
    for name, look in looks:
        try:
            found = look()
        except Exception as error:  # a broken part must not hide the others
            found = Finding(name, first_line(error), works=False)
        yield Finding(name, found.found, found.works, found.advice)


def _package(name: str) -> Finding:
    found = installed_version(name)
    if found is None:
        raise UserError(f"not installed; pip install {name}")
    return Finding(name, found)


def _heic() -> Finding:
    found = installed_version("pillow-heif")
    return Finding("", found or "no", advice=None if found else "pip install pillow-heif")


# ------------------------------------------------------------------------------------------------- speed


def _engine(model: str, device: Device, engine: EngineName) -> Finding:
    if pick_engine(find_model(model), device, engine) == "torch":
        return Finding("", f"torch {installed_version('torch')} on {pick_torch_device(device)}")
    name = pick_onnx_device(device)
    others = [each for each in onnxruntime.get_available_providers() if each != PROVIDERS[name]]
    found = f"onnx: ONNX Runtime {onnxruntime.__version__}, {PROVIDERS[name]} on {name}"
    blind = name == "cpu" and device == "auto" and shutil.which("nvidia-smi")
    return Finding("", f"{found} (also there: {', '.join(others)})" if others else found,
                   advice="there may be an NVIDIA GPU: for it, pip install onnxruntime-gpu in place of onnxruntime, or "
                   "pip install 'instancersr[torch]'" if blind else None)


def _cpu() -> Finding:
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text(errors="replace").split()) if info.is_file() else set()
    features = [flag for flag in VECTORS if flag in flags]
    slow = bool(flags) and not features and platform.machine().lower() in ("x86_64", "amd64")
    return Finding("", ", ".join([platform.machine(), *features]), advice="this processor has no AVX2, without which "
                   "an upscale takes several times as long" if slow else None)


def _threads() -> Finding:
    usable = usable_cores()
    used = own_threads() or "one a core"
    return Finding("", f"{used} used, {usable} of {os.cpu_count()} cores usable")


# ------------------------------------------------------------------------------------------------ memory


def _memory() -> Finding:
    free = free_memory()
    if free is None:
        return Finding("", "unknown on this system")
    pixels = min(largest_result(free), 16 * MAX_PIXELS)
    found = f"{free / 2**30:.1f} GiB free"
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


def read_checksums(folder: Path) -> dict[str, str]:
    """Those that are recorded, as `checksums`."""
    lines = (folder / CHECKSUMS).read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def write_checksums(folder: Path, found: dict[str, str]) -> None:
    """Records them."""
    (folder / CHECKSUMS).write_text(_listed(found))


def _listed(found: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))


def _weights(folder: Path) -> Finding:
    found = checksums(folder)
    if not found:
        raise UserError(f"no weights in {folder}; install the package again")
    size = sum((folder / name).stat().st_size for name in found) / 1e6
    said = f"{len(found)} files, {size:.1f} MB, SHA-256 {hashlib.sha256(_listed(found).encode()).hexdigest()[:16]}"
    if not (folder / CHECKSUMS).is_file():
        return Finding("", f"{said}, none recorded to check it against, in {folder}")
    recorded = read_checksums(folder)
    damaged = sorted(name for name in recorded | found if recorded.get(name) != found.get(name))
    if damaged:
        raise UserError(f"{', '.join(damaged)} in {folder}: not the file that {CHECKSUMS} records; "
                        "install the package again")
    return Finding("", f"{said}, as recorded, in {folder}")


def _model(model: str, device: Device, engine: EngineName) -> Finding:
    started = time.perf_counter()
    upscaler = load_upscaler(model, device, None, engine)
    gradient = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    picture = upscaler(gradient, scale=4).images[0]
    if picture.size != (64, 64):
        raise UserError(f"the model {model} made {picture.size} of a 16x16 picture, not 64x64")
    chosen = upscaler.engine
    return Finding("", f"{model}, {chosen.precision} on {chosen.name}/{chosen.device}, 16x16 -> 64x64 in "
                   f"{time.perf_counter() - started:.1f} s, with loading")
