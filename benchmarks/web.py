"""The page under load: memory of the server over many jobs, and many clients at once.

    python benchmarks/web.py [--jobs 100] [--clients 20] [--side 32] [--threads 2] [--model builtin]

Each job is a new visitor's with a photo of its own, through Gradio's client.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "instancersr", "web", "--port", "0", "--threads", str(arguments.threads),
               "--model", arguments.model]
    with (tempfile.TemporaryDirectory() as folder,
          subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server):
        try:
            address = server.stdout.readline().split()[0]
            visit = Visit(address, Path(folder), arguments.side)
            for number in range(arguments.jobs):
                visit(number)
                if number in (0, 9) or (number + 1) % 20 == 0:
                    print(f"{number + 1} jobs: {megabytes(server.pid):.0f} MB", flush=True)
            start = time.perf_counter()
            with ThreadPoolExecutor(arguments.clients) as pool:
                served = sum(pool.map(visit, range(arguments.jobs, arguments.jobs + arguments.clients)))
            print(f"{served} of {arguments.clients} clients at once served in {time.perf_counter() - start:.0f} s, "
                  f"{megabytes(server.pid):.0f} MB afterwards")
        finally:
            server.terminate()


class Visit:
    """Uploads a photo of random blocks, waits for the result, and leaves; True where it came."""

    def __init__(self, address: str, folder: Path, side: int):
        self._address, self._folder, self._side = address, folder, side

    def __call__(self, number: int) -> bool:
        blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        path = self._folder / f"{number}.png"
        Image.fromarray(blocks).resize((self._side, self._side)).save(path)
        client = Client(self._address, verbose=False)
        try:
            text = str(client.predict([handle_file(path)], 4, "balanced", "natural", ".png", api_name="/enlarge"))
        finally:
            client.close()
        return f"{4 * self._side} × {4 * self._side} pixels" in text


def megabytes(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
