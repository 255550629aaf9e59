"""The examples in docstrings run; those of train, evaluate, export and load in `tests/test_api.py`, on a tiny run."""

import doctest
import importlib
from pathlib import Path

import pytest

import ppsolo

PACKAGE = Path(ppsolo.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if ">>> " in file.read_text(encoding="utf-8") and file.name != "api.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
