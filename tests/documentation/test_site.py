"""The documentation's site: built without a warning, and nothing in it is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FETCHED = re.compile(r"""<(?:script|img|link|iframe|source)[^>]*?\s(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")


def test_it_builds_strictly_and_fetches_nothing(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the extra 'docs' is not installed")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    fetched = {address for page in pages for address in FETCHED.findall(page.read_text(encoding="utf-8"))}
    assert not fetched
    assert "representation_alignment_loss" in (tmp_path / "how-it-works" / "index.html").read_text(encoding="utf-8")
