"""What is released: a wheel that holds everything, and works where nothing else of the clone is."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

ROOT = Path(__file__).parent.parent


def run(*command, **options) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **options)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Wheel and source distribution, built from a copy as git has it."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package, reason="the extra 'dev' is not installed")
    folder = tmp_path_factory.mktemp("release")
    shutil.copytree(ROOT / "instancersr", folder / "src" / "instancersr", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "src")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "src",
        env=os.environ | {"SETUPTOOLS_SCM_PRETEND_VERSION": version("instancersr")})
    return folder / "dist"


def test_the_wheel_holds_the_weights_and_the_page_and_nothing_of_the_tests(dist):
    [wheel] = dist.glob("*.whl")
    [_] = dist.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "instancersr").rglob("*")
                if path.is_file() and "__pycache__" not in path.parts}
    assert {name for name in names if name.startswith("instancersr/")} == expected
    assert {name.split("/")[0] for name in names} == {"instancersr", f"instancersr-{version('instancersr')}.dist-info"}


def test_the_wheel_works_in_an_environment_of_its_own(dist, tmp_path):
    """Its dependencies are lent by this environment; `benchmarks/release.py` installs them too."""
    [wheel] = dist.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    lent = [Path(path) for path in sys.path if path.endswith("site-packages")]
    (packages / "lent.pth").write_text("\n".join(map(str, lent)))
    Image.fromarray(data.astronaut()[:16, :16]).save(tmp_path / "photo.png")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"cwd": tmp_path, "env": environment}
    where = run(python, "-c", "import instancersr; print(instancersr.__file__)", **options)
    assert Path(where.strip()).is_relative_to(tmp_path)
    command = tmp_path / "venv" / "bin" / "instancersr"
    assert version("instancersr") in run(command, "--version", **options)
    run(command, "upscale", "photo.png", **options)
    assert Image.open(tmp_path / "photo_x4.png").size == (64, 64)


def test_importing_the_package_imports_nothing_heavy():
    loaded = run(sys.executable, "-c", "import sys, instancersr; print(*sys.modules)", cwd=ROOT).split()
    assert "instancersr" in loaded and not {"torch", "numpy", "diffusers", "PIL", "typer"} & set(loaded)


def test_a_tag_is_the_version(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for package in ("build", "hatchling", "hatch_vcs"):
        pytest.importorskip(package, reason="the extra 'dev' is not installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "instancersr").mkdir()
    (tmp_path / "instancersr" / "__init__.py").touch()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", tmp_path]
    run(*git, "init", "--quiet")
    run(*git, "add", ".")
    run(*git, "commit", "--quiet", "-m", "A release")
    run(*git, "tag", "v7.8.9")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SETUPTOOLS_SCM")}
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "dist", tmp_path,
        env=environment)
    [wheel] = (tmp_path / "dist").iterdir()
    assert wheel.name == "instancersr-7.8.9-py3-none-any.whl"
