"""How much faster several processes do a folder of small pictures than one does, with the same cores.

    python benchmarks/bulk.py [--pictures 24] [--side 64] [--jobs 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

from PIL import Image
from skimage import data

from instancersr.batch.planning import plan_jobs
from instancersr.batch.workers import Call, run_here, run_local


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of the single process, and of all others together")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, side = Path(name), arguments.side
        for number in range(arguments.pictures):
            left = 8 * number % (512 - side)
            Image.fromarray(data.astronaut()[:side, left : left + side]).save(folder / f"{number}.png")
        seconds = []
        for workers in (1, arguments.jobs):
            jobs = plan_jobs([folder], folder / f"out{workers}", "_x4", ".png", False).jobs
            call = Call("builtin", "cpu", max(1, arguments.threads // workers))
            started = time.perf_counter()
            results = (run_here(jobs, call, lambda _: None, lambda *_: None) if workers == 1
                       else run_local(jobs, call, workers))
            assert all(result.error is None for result in results)
            seconds.append(time.perf_counter() - started)
    print(f"{arguments.pictures} pictures of {side}x{side}, {arguments.threads} threads in all: 1 process "
          f"{seconds[0]:.1f} s, {arguments.jobs} processes {seconds[1]:.1f} s, ratio {seconds[0] / seconds[1]:.2f}")


if __name__ == "__main__":
    main()
