"""The tables of an evaluation: numbers where they belong, published never mixed up with measured."""

import xml.etree.ElementTree as ET

import pytest

from instancersr.lab.evaluation.tables import html, html_page, latex, make_tables, markdown

SUMMARY = [
    ("RealSR", "ours_v2 & co", "lpips", 0.26541, 0.25, 0.28, 100),
    ("RealSR", "ours_v2 & co", "memory", 1290.4, 1290, 1290, 100),
    ("RealSR", "peer (published)", "lpips", 0.3, 0.3, 0.3, 25),
    ("my|photos", "ours_v2 & co", "psnr", 27.0, 26, 28, 2),
]


@pytest.fixture
def tables():
    return make_tables(SUMMARY, {"peer (published)"})


def test_measured_published_by_image_and_published_in_the_paper_are_three_groups(tables):
    realsr, mine = tables
    assert [list(group.rows) for group in realsr.groups[:2]] == [["ours_v2 & co"], ["peer (published)"]]
    paper = realsr.groups[2]
    assert paper.rows["InstanceRSR (published)"]["lpips"] == 0.25  # Table 1 of the paper
    assert paper.rows["SeeSR (published)"] == {"lpips": 0.299, "musiq": 69.675, "maniqa": 0.643, "clipiqa+": 0.577,
                                               "liqe": 4.123}
    assert all("published" in group.origin for group in realsr.groups[1:]) and len(mine.groups) == 1


def test_markdown_has_a_cell_for_every_column(tables):
    text = markdown(tables, ["fid is left out: no weights"])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    row = next(line for line in lines if "ours_v2" in line).split("|")
    head = lines[0].split("|")
    assert row[head.index(" lpips ↓ ")] == " 0.2654 " and row[head.index(" memory, MiB ↓ ")] == " 1290 "
    assert all(len(line.split("|")) == len(head) for line in lines[: lines.index(next(
        each for each in lines if "psnr" in each))])
    assert "fid is left out: no weights" in text


def test_latex_escapes_names_and_balances(tables):
    text = latex(tables)
    assert r"ours\_v2 \& co & 0.2654" in text
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 2
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    rows = [line for line in text.split(r"\end{tabular}")[0].splitlines() if " & " in line]
    assert all(line.replace(r"\&", "").count("&") == len(columns) - 1 for line in rows)


def test_html_is_well_formed_and_marks_what_is_published(tables):
    body = ET.fromstring(f"<div>{html(tables, ['a < b'])}</div>")
    groups = {tbody.find("tr/th").text: tbody.get("class") for tbody in body.iter("tbody")}
    assert groups["measured here"] == "measured" and set(groups.values()) == {"measured", "published"}
    assert body.find("p").text == "a < b" and "<table" in html_page(html(tables))
