"""How the documents read: lines that fit a window, a README of a screen and a half, links that lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md",
             ROOT / "examples/README.md", *sorted(ROOT.glob("docs/*.md"))]
COLUMNS, README_LINES = 140, 120
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_too_wide_outside_tables(document):
    wide = [f"{number}: {len(line)} columns" for number, line
            in enumerate(document.read_text(encoding="utf-8").splitlines(), 1)
            if len(line) > COLUMNS and not line.startswith("|")]
    assert not wide


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < README_LINES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_resolves(document):
    """Anchors of the site are checked by its strict build."""
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8"))
             if not link.startswith(("http://", "https://", "#", "mailto:"))]
    missing = [link for link in links if not (document.parent / link.split("#")[0]).exists()]
    assert not missing
