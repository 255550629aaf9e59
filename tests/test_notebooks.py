"""The notebooks run from the first cell to the last, on a few drawn scenes."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "docs" / "notebooks"
TIMEOUT = 300  # seconds for a cell; a hang would be a failure
# What makes them quick: text in a cell -> what stands there in the test.
SMALLER = {
    "train": {
        "SCENES = 160": "SCENES = 8",
        '"train.epochs": 5': '"train.epochs": 1',
        '"train.evaluate_every": 5': '"train.evaluate_every": 1',
    },
    "export": {},
    "predict": {'MODEL = "solov2_r50_fpn_3x"': 'MODEL = "output/notebook"'},
}


def run(name: str, folder: Path) -> str:
    """Runs a notebook in `folder`; gives what its cells answered."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install '.[test]'")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install '.[test]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install '.[test]'")
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    book = nbformat.reads(text, as_version=4)
    for cell in book.cells:
        for before, after in SMALLER[name].items():
            cell.source = cell.source.replace(before, after)
    client = nbclient.NotebookClient(book, timeout=TIMEOUT, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"})
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return "\n".join(output["data"].get("text/plain", "") for output in outputs if "data" in output)


def test_every_notebook_is_tried_and_holds_no_outputs():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALLER)
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = "\n".join("".join(cell["source"]) for cell in cells)
        assert all(before in sources for before in SMALLER[path.stem])
        assert not any(cell.get("outputs") for cell in cells)


def test_notebooks_run_one_after_the_other(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[onnx]'")
    assert "mask AP" in run("train", tmp_path)
    assert "objects over HTTP" in run("export", tmp_path)
    assert "COCO results" in run("predict", tmp_path)
