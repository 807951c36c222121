"""The notebook runs from top to bottom, in a process of its own, by nbmake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "tour.ipynb"


def test_the_tour_runs_from_top_to_bottom_and_shows_its_pictures(tmp_path):
    for package in ("nbmake", "ipykernel"):
        pytest.importorskip(package, reason="the extra 'dev' is not installed")
    shutil.copy(NOTEBOOK, tmp_path)
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "--nbmake", "--overwrite", tmp_path / NOTEBOOK.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    cells = json.loads((tmp_path / NOTEBOOK.name).read_text())["cells"]
    kinds = [kind for cell in cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert kinds.count("image/png") == 3


def test_what_it_shows_names_no_folder_of_the_machine_it_ran_on():
    printed = [output for cell in json.loads(NOTEBOOK.read_text())["cells"] for output in cell.get("outputs", [])
               if output["output_type"] == "stream"]
    assert printed == []
