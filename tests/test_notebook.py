"""The notebook runs from top to bottom, in a process of its own."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "tour.ipynb"


def test_the_tour_runs_from_top_to_bottom(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="the extra 'dev' is not installed")
    pytest.importorskip("ipykernel", reason="the extra 'dev' is not installed")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", [])
                if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
