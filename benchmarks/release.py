"""Whether the wheel works on each Python: a new environment, its size on disk, an upscale, and the time of the import.

    python benchmarks/release.py python3.10 python3.11 python3.12 python3.13

Prints a row for each; exits with 1 if one failed. Downloads what pip downloads; `PIP_CONSTRAINT` holds for it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMER = "import time; t = time.perf_counter(); import instancersr; print(time.perf_counter() - t)"


def run(*command, cwd: Path) -> str:
    return subprocess.run([str(part) for part in command], cwd=cwd, check=True, capture_output=True, text=True).stdout


def try_python(python: str, wheel: Path) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(python, "-m", "venv", folder / "venv", cwd=folder)
        inside = folder / "venv" / "bin"
        run(inside / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        size = sum(path.lstat().st_blocks for path in (folder / "venv").rglob("*")) * 512 / 2**20  # as du counts
        run(inside / "instancersr", "upscale", ROOT / "examples" / "cat.jpg", "-o", folder / "cat.png", cwd=folder)
        seconds = min(float(run(inside / "python", "-c", TIMER, cwd=folder)) for _ in range(5))
        number = run(inside / "python", "-V", cwd=folder).strip()
        return f"{number}: {size:.0f} MiB with pip, upscales, imports in {seconds * 1000:.1f} ms"


def main() -> None:
    failed = False
    with tempfile.TemporaryDirectory() as name:
        run(sys.executable, "-m", "build", "--wheel", "--outdir", name, ROOT, cwd=ROOT)
        [wheel] = Path(name).glob("*.whl")
        for python in sys.argv[1:]:
            try:
                print(try_python(python, wheel), flush=True)
            except (OSError, subprocess.CalledProcessError) as error:
                failed = True
                print(f"{python}: {(getattr(error, 'stderr', '') or str(error)).strip().splitlines()[-1]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
