"""A short run of each fuzzing target, and the inputs that failed once; `scripts/fuzz.py` runs them for long."""

import argparse
import json
import mmap
import random
import subprocess
import sys
from pathlib import Path

import pytest
from script_files import load_script

ROOT = Path(__file__).parents[1]
EXECUTIONS = 30


fuzz = load_script("fuzz")


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_changed_inputs_end_in_an_answer_or_in_one_line(tmp_path, name):
    if name in ("form", "request"):
        pytest.importorskip("fastapi")
    place = tmp_path / "input"
    place.write_bytes(bytes(fuzz.LONGEST_INPUT + 8))
    with place.open("r+b") as file, mmap.mmap(file.fileno(), 0) as current:
        run = fuzz.Run(fuzz.TARGETS[name], current, place)
        executions = EXECUTIONS + len(fuzz.stored_seeds(name)) + len(fuzz.TARGETS[name].seeds())
        run.with_random_changes(argparse.Namespace(seed=1, seconds=20.0, executions=executions, targets=[name]))
    fuzz.stop_clocks()
    result = json.loads(place.with_suffix(".json").read_text())
    assert result["executions"] > 0
    slow = f"took more than {fuzz.SLOWEST} s"  # a busy machine may be slow; the long run judges that
    assert [finding for finding in result["findings"] if finding["error"] != slow] == []


def test_stored_inputs_belong_to_a_target():
    assert {folder.name for folder in fuzz.SEEDS.iterdir()} <= set(fuzz.TARGETS)


def test_good_inputs_are_answered():
    """A target that refuses its own seeds tests nothing but the refusal."""
    refused = {}
    for name in ("coco", "import-labelme", "import-label_studio", "import-cvat", "rle", "manifest", "safetensors"):
        for number, seed in enumerate(fuzz.TARGETS[name].seeds()):
            try:
                fuzz.TARGETS[name].run(seed, fuzz.Path(fuzz.tempfile.mkdtemp()))
            except fuzz.PpsoloError as error:
                refused[name, number] = str(error)
    assert refused == {}


def test_json_stays_json_and_shares_nothing():
    """Changed values must not leak into the next input, and most changes must leave JSON that can be read."""
    chance, seed = random.Random(0), b'head {"a": [1, {"b": "c"}], "d": null} tail'
    inputs = [fuzz.changed(seed, chance, [seed]) for _ in range(300)]
    whole = [data for data in inputs if data.startswith(b"head ") and data.endswith(b" tail")]
    assert len(whole) > 200 and len(set(whole)) > 100
    assert [fuzz.changed(seed, random.Random(5), [seed]) for _ in range(2)] == [
        fuzz.changed(seed, random.Random(5), [seed])
    ] * 2


def test_the_script_reports_a_crash_and_a_wrong_exception(tmp_path):
    """A target that fails must be noticed: by its exception, and by the end of its process."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
import fuzz
def broken(data, folder):
    raise ZeroDivisionError(data[:0])
fuzz.TARGETS["text"] = fuzz.Target(broken, lambda: [b"a"])
sys.argv = ["fuzz.py", "text", "--child", sys.argv[1], "--seconds", "1", "--executions", "3"]
fuzz.main()
"""
    place = tmp_path / "input"
    place.write_bytes(bytes(fuzz.LONGEST_INPUT + 8))
    subprocess.run([sys.executable, "-c", program, str(place)], check=True, timeout=120)
    (finding,) = json.loads(place.with_suffix(".json").read_text())["findings"]
    assert "ZeroDivisionError" in finding["error"]


def test_rows_of_other_targets_stay(tmp_path, monkeypatch):
    """A run of one target replaces its own row on the page, and no other."""
    import reliability

    page = tmp_path / "page.md"
    monkeypatch.setattr(reliability.record, "__defaults__", (page,))
    monkeypatch.setattr(reliability.recorded, "__defaults__", (page,))
    result = {"executions": 1000, "seconds": 2.0, "slowest": 0.1, "findings": []}
    fuzz._record({"yaml": result, "text": result}, "random")
    fuzz._record({"text": {**result, "executions": 5}}, "random")
    rows = [line.split("|")[1:4] for line in page.read_text().splitlines() if line.startswith("| ")][1:]
    assert [[cell.strip() for cell in row] for row in rows] == [["yaml", "random", "1,000"], ["text", "random", "5"]]
