"""A short run of each fuzzing target, and the inputs that failed once; `scripts/fuzz.py` runs them for long."""

import argparse
import importlib.util
import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXECUTIONS = 60


def _script():
    spec = importlib.util.spec_from_file_location("fuzz_script", ROOT / "scripts" / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = _script()


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_changed_inputs_end_in_an_answer_or_in_one_line(tmp_path, name):
    place = tmp_path / "input"
    place.write_bytes(bytes(fuzz.LONGEST_INPUT + 8))
    with place.open("r+b") as file, mmap.mmap(file.fileno(), 0) as current:
        run = fuzz.Run(fuzz.TARGETS[name], current, place)
        run.with_random_changes(
            argparse.Namespace(
                seed=1, seconds=20.0, executions=EXECUTIONS + len(fuzz.stored_seeds(name)), targets=[name]
            )
        )
    result = json.loads(place.with_suffix(".json").read_text())
    assert result["executions"] > 0
    slow = f"took more than {fuzz.SLOWEST} s"  # a busy machine may be slow; the long run judges that
    assert [finding for finding in result["findings"] if finding["error"] != slow] == []


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
