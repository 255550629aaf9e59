"""The script that tests combinations of versions: what it tests, and how it records the results."""

import re
from pathlib import Path

from script_files import load_script

ROOT = Path(__file__).parent.parent
matrix, reliability = load_script("matrix"), load_script("reliability")


def test_every_line_of_python_and_paddle_with_old_and_new_packages():
    cells = matrix.cells()
    assert len(cells) == len(set(cells)) == 24
    assert {(cell.python, cell.paddle) for cell in cells} == {
        (python, paddle) for python in ("3.10", "3.11", "3.12") for paddle in ("3.3.1", "2.6.2")
    }
    for test in matrix.QUICK_TESTS:
        assert (ROOT / test).exists()


def test_a_recorded_combination_leaves_the_others(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    for function in (reliability.record, reliability.recorded):
        monkeypatch.setattr(function, "__defaults__", (page,))
    first, *_, last = matrix.cells()
    for cell, result in ((last, "passed: numpy 1"), (first, "failed: one test"), (last, "passed: numpy 2")):
        matrix.record_cell(cell, result)
    rows = list(reliability.recorded_rows("matrix.py", 3).values())
    assert [row.split(" | ")[-1] for row in rows] == ["failed: one test |", "passed: numpy 2 |"]


def test_the_readme_counts_the_combinations_that_passed():
    rows = reliability.recorded_rows("matrix.py", 3).values()
    passed = sum("| passed: " in row for row in rows)
    (said,) = re.findall(r"(\d+) of (\d+) combinations", (ROOT / "README.md").read_text())
    assert said == (str(passed), str(len(matrix.cells())))
