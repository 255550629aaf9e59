"""Commands whose standard streams are closed, full or without a reader, and whose folder has gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppsolo.cli import main

ROOT = Path(__file__).parents[2]
WORKS = """
import contextlib, logging, os, sys
from ppsolo.cli import main, zoo
from ppsolo.cli.shared import say
from ppsolo.progress import ProgressBar

def run(options):
    with open("result.txt", "w") as result:
        logging.getLogger("ppsolo").warning("a note")
        with ProgressBar("work") as bar:
            for step in range(100):
                bar.update(step, 100)
        say("said")
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"a line of C code")
        result.write("whole")
    return 0

zoo.run = run
sys.exit(main(["zoo", "list"]))
"""
REFUSES = "import sys; from ppsolo.cli import main; sys.exit(main(['check-data', '-c', 'no-such']))"


def run_in_shell(program: str, streams: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROGRAM": program, "PYTHON": sys.executable}
    command = ["bash", "-c", f'"$PYTHON" -c "$PROGRAM" {streams}']
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "<&-", "2>/dev/full", "2> >(true)"])
def test_the_work_is_done_with_any_streams(tmp_path, streams):
    done = run_in_shell(WORKS, streams, tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "result.txt").read_text() == "whole"  # and nothing that was meant for a stream


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "2> >(true)", "<&- >&- 2>&-"])
def test_a_refusal_that_nobody_reads_keeps_its_exit_code(tmp_path, streams):
    assert run_in_shell(REFUSES, streams, tmp_path).returncode == 2


@pytest.mark.parametrize("value", ["many", "-1", "", "9" * 30])
def test_a_limit_that_opencv_cannot_read_is_named(monkeypatch, capsys, value):
    """OpenCV ends the process when it is imported."""
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", value)
    assert main(["check-data", "-c", "compact"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("ppsolo: error: OPENCV_IO_MAX_IMAGE_PIXELS is") and "unset it" in line


def test_a_folder_that_has_gone_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    program = f"import os, sys; os.rmdir(os.getcwd()); {REFUSES}"
    done = run_in_shell(program, "", tmp_path / "gone")
    line = "ppsolo: error: the current folder no longer exists: change to another one with cd\n"
    assert (done.returncode, done.stderr) == (2, line)
