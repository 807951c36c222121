"""`instancersr doctor`: what this installation consists of, whether it works, and what could be better."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .errors import UserError
from .inference.loading import Device, load_pipeline, pick_device

PACKAGES = ("torch", "diffusers", "numpy", "scipy", "pillow", "safetensors", "pydantic", "typer", "rich")
WEIGHTS = Path(__file__).parent / "weights"
CHECKSUMS = WEIGHTS / "SHA256SUMS"
"""In sha256sum's format: of every file of weights in the package."""
FIXED_MEMORY, MEMORY_PER_PIXEL = 1.15e9, 24
"""Bytes that an upscale takes with the shipped weights on a CPU: for itself, and for each pixel of the result
(`benchmarks/memory.py` at several sizes; docs/decisions.md)."""
LOW_MEMORY = 2e9


@dataclass
class Check:
    """What was found of something; `advice` is a line on what could be better, or None."""

    name: str
    found: str
    ok: bool = True
    advice: str | None = None


def examine(model: str = "builtin", device: Device = "auto") -> list[Check]:
    """All checks; a broken part does not hide the others. The last one upscales a picture of 16x16."""
    checks: list[tuple[str, Callable[[], Check | str]]] = [
        ("instancersr", lambda: f"{_installed('instancersr') or 'not installed'} in {Path(__file__).parent}"),
        ("python", lambda: f"{platform.python_version()} on {platform.platform()}"),
        *((name, lambda name=name: _essential(name)) for name in PACKAGES),  # type: ignore[misc]
        ("HEIC pictures", _heic),
        ("processor", _processor),
        ("threads", _threads),
        ("device", lambda: _device(device)),
        ("weights", _weights),
        ("memory", _memory),
        ("model", lambda: _try_model(model, device)),
    ]
    return [_done(name, check) for name, check in checks]


def _done(name: str, check: Callable[[], Check | str]) -> Check:
    try:
        found = check()
    except Exception as error:  # packages break in many ways
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Check(name, lines[0] if lines else type(error).__name__, ok=False)
    return Check(name, found) if isinstance(found, str) else found


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _essential(package: str) -> str:
    found = _installed(package)
    if found is None:
        raise UserError(f"not installed; pip install {package}")
    return found


def _heic() -> Check:
    found = _installed("pillow-heif")
    advice = None if found else "for photos of iPhones (HEIC): pip install pillow-heif"
    return Check("HEIC pictures", found or "no", advice=advice)


def _processor() -> Check:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    features = [capability]
    info = Path("/proc/cpuinfo")
    if info.is_file():  # torch says nothing of the units for bf16
        flags = info.read_text(errors="replace").split()
        features += [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    libraries = [name for name, backend in (("oneDNN", torch.backends.mkldnn), ("MKL", torch.backends.mkl))
                 if backend.is_available()]
    advice = None
    if platform.machine() in ("x86_64", "AMD64") and not libraries:
        advice = "this torch has neither oneDNN nor MKL and is slow; install torch's own wheel"
    return Check("processor", f"{', '.join(features)}; {', '.join(libraries) or 'no accelerating library'}",
                 advice=advice)


def _threads() -> Check:
    import torch

    used, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (
        os.cpu_count() or 1)
    advice = None
    if used * 2 < cores:  # two threads of a core count as two here, and torch uses one of them
        advice = f"torch uses {used} of {cores} cores (OMP_NUM_THREADS?); try --threads {cores}"
    return Check("threads", f"{used} of {cores} cores", advice=advice)


def _device(device: Device) -> Check:
    import torch

    name = pick_device(device)
    if name == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Check("device", f"cuda ({torch.cuda.get_device_name()}, {memory:.0f} GB)")
    advice = None
    if device == "auto" and shutil.which("nvidia-smi") and name == "cpu":
        advice = (f"there is an NVIDIA driver, but torch {torch.__version__} does not see the GPU; install torch's "
                  "build for CUDA")
    return Check("device", name, advice=advice)


def _weights() -> str:
    """The weights in the package are those that were recorded."""
    files = sorted(WEIGHTS.rglob("*.safetensors"))
    recorded = dict(line.split(maxsplit=1)[::-1] for line in CHECKSUMS.read_text().splitlines())
    sums = {file.relative_to(WEIGHTS).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    wrong = sorted(name for name in sums.keys() | recorded.keys() if sums.get(name) != recorded.get(name))
    if wrong:
        raise UserError(f"{', '.join(wrong)} in {WEIGHTS}: missing or damaged; install the package again")
    whole = hashlib.sha256(CHECKSUMS.read_bytes()).hexdigest()
    size = sum(file.stat().st_size for file in files) / 1e6
    return f"{len(files)} files, {size:.1f} MB, SHA-256 {whole[:16]} as recorded"


def _memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available
    megapixels = largest_picture(free) / 1e6
    advice = None
    if free < LOW_MEMORY:
        advice = "close other programs, or use --tile 64"
    return Check("memory", f"{free / 1e9:.1f} GB free: results of up to {megapixels:.0f} megapixels", advice=advice)


def largest_picture(free: float) -> float:
    """Pixels of the largest result that so many bytes of memory allow on a CPU."""
    return max(0.0, free - FIXED_MEMORY) / MEMORY_PER_PIXEL


def _try_model(model: str, device: Device) -> Check:
    import numpy as np

    started = time.perf_counter()
    pipe: Any = load_pipeline(model, device)
    loaded = time.perf_counter()
    gradient = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    picture = pipe(gradient, scale=4).images[0]
    if picture.size != (64, 64):
        raise UserError(f"the model {model} made {picture.size} of a 16x16 picture, not 64x64")
    dtype = str(pipe.dtype).removeprefix("torch.")
    return Check("model", f"{model}, {dtype}, loaded in {loaded - started:.1f} s, 16x16 -> 64x64 in "
                 f"{time.perf_counter() - loaded:.1f} s")
