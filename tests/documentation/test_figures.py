"""The scores that README, model card and docs print: one file has them all, each with the command that makes it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
FIGURES = yaml.safe_load((ROOT / "docs" / "figures.yaml").read_text(encoding="utf-8"))
CARD = ROOT / "instancersr" / "weights" / "README.md"
DOCUMENTS = [ROOT / "README.md", CARD, *(path for path in sorted(ROOT.glob("docs/*.md")) if not path.is_symlink())]
LOGS = ("decisions.md", "training-log.md")
"""They tell what was measured on the way, of models that no longer exist."""
REGION = re.compile(r"^<!-- figures: (\S+) -->\n(.*?)^<!-- end of figures -->$", re.DOTALL | re.MULTILINE)
SCORE = re.compile(r"(?:LPIPS|DISTS|NIQE|PSNR|PSNR-Y|SSIM|SSIM-Y|Rand index|IoU)\W{1,6}\d*\.\d")
METRICS = {"LPIPS ↓": "lpips", "DISTS ↓": "dists", "PSNR-Y ↑": "psnr", "SSIM-Y ↑": "ssim", "NIQE ↓": "niqe"}


def run_figures(root: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "benchmarks" / "figures.py", "--root", root, *options],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def rows(document: Path, name: str) -> list[dict[str, str]]:
    """A marked table as a reader sees it: a dictionary a row, the first column under ""."""
    table = dict(REGION.findall(document.read_text(encoding="utf-8")))[name]
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
                      if line.startswith("|"))
    return [dict(zip(head, row, strict=True)) for row in body]


def test_every_table_is_as_the_file_of_figures_says():
    done = run_figures(ROOT, "--check")
    assert done.returncode == 0, f"run python benchmarks/figures.py; it changes\n{done.stdout}"


@pytest.mark.parametrize(("document", "table"), [(ROOT / "docs" / "results.md", "realsr"), (CARD, "card")])
def test_a_reader_finds_the_scores_of_realsr(document, table):
    """Cell by cell, without the program that writes them."""
    scores = FIGURES["measurements"]["realsr"]["scores"]
    names = {name: method for method, name in FIGURES["methods"].items()}
    names[f"**InstanceRSR {FIGURES['shipped']}**"] = FIGURES["shipped"]
    compared = 0
    for row in rows(document, table):
        method = names.get(row[""], row[""])
        for head in METRICS.keys() & row.keys():
            value = scores[method].get(METRICS[head])
            if value is None:
                assert row[head] == "–"
                continue
            mean = value[0] if isinstance(value, list) else value
            digit = 0.01 if mean > 1 else 0.001
            assert float(row[head].split()[0]) == pytest.approx(mean, abs=0.51 * digit), (method, head)
            compared += 1
    assert compared >= 12


def test_the_readme_compares_with_real_esrgan_on_every_kind_of_photo():
    ours, rival, bicubic = rows(ROOT / "README.md", "readme")
    assert FIGURES["shipped"] in ours[""] and rival[""] == "Real-ESRGAN x4plus" and bicubic[""] == "bicubic"
    for head, kind in {"JPEG": "jpeg", "messenger": "messenger", "night": "night", "old scan": "old",
                       "good camera (RealSR)": "realsr"}.items():
        scores = FIGURES["measurements"][kind]["scores"]
        for row, method in ((ours, FIGURES["shipped"]), (rival, "x4plus"), (bicubic, "bicubic")):
            value = scores[method]["lpips"]
            assert float(row[head]) == pytest.approx(value[0] if isinstance(value, list) else value, abs=0.00051)


@pytest.mark.parametrize("changed", ["README.md", "docs/figures.yaml"])
def test_a_figure_that_was_changed_in_one_place_is_noticed_and_written_anew(tmp_path, changed):
    for document in (*DOCUMENTS, ROOT / "docs" / "figures.yaml"):
        copy = tmp_path / document.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(document, copy)
    assert run_figures(tmp_path, "--check").returncode == 0
    file, old = tmp_path / changed, {"README.md": "| .271 |", "docs/figures.yaml": "lpips: 0.271,"}[changed]
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, old.replace("271", "171")), encoding="utf-8")
    done = run_figures(tmp_path, "--check")
    assert done.returncode == 1 and "README.md: readme" in done.stdout
    assert run_figures(tmp_path).returncode == 0 and run_figures(tmp_path, "--check").returncode == 0
    expected = "| .271 |" if changed == "README.md" else "| .171 |"
    assert expected in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("document", "table"), [(path, name) for path in DOCUMENTS for name, _ in REGION.findall(
    path.read_text(encoding="utf-8"))], ids=lambda value: value if isinstance(value, str) else value.name)
def test_no_row_and_no_column_is_without_a_score(document, table):
    """As one is whose key in the file is mistyped, or whose model was not measured."""
    cells = [list(row.values()) for row in rows(document, table)]
    assert all(set(row[1:]) != {"–"} for row in cells), table
    assert all(set(column) != {"–"} for column in zip(*cells, strict=True)), table


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name not in LOGS],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_no_score_stands_outside_a_table_of_the_file(document):
    rest = REGION.sub("", document.read_text(encoding="utf-8"))
    assert SCORE.findall(rest) == []


def test_what_a_stray_score_looks_like():
    for text in ("LPIPS .251", "PSNR-Y 27.25", "a mean IoU\nof .486".replace("\nof", ""), "NIQE (6.17)"):
        assert SCORE.search(text), text
    assert not SCORE.search("LPIPS and DISTS of 100 photos")


@pytest.mark.parametrize("name", [name for name in FIGURES["measurements"] if name != "runs"])
def test_every_measurement_has_a_command_that_exists(name):
    """A benchmark of this repository with options that it has; options of `instancersr` are test_blocks's."""
    for command in FIGURES["measurements"][name]["command"].splitlines():
        program, *arguments = command.split()
        assert program in ("python", "instancersr")
        if program == "python":
            source = (ROOT / arguments[0]).read_text(encoding="utf-8")
            for option in (argument for argument in arguments if argument.startswith("-")):
                assert f'"{option}"' in source, f"{arguments[0]} has no {option}"
