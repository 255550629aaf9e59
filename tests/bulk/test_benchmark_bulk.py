"""The script that measures bulk runs, on short lists: every figure is printed, and harm is noticed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "benchmark_bulk.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the script takes Linux")
def test_every_figure_is_measured(tmp_path):
    pytest.importorskip("onnxruntime")
    small = ["--paths", "200", "--decode", "--pictures", "40", "--rounds", "1", "--shards", "8", "--kills", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), *small]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    for line in (
        "memory: 200 paths",
        "processes: round 1",
        "8 shards give the same bytes",
        "kills: 2 (1 SIGKILL, 1 SIGTERM",
    ):
        assert line in ended.stdout
    assert not list(tmp_path.glob("tmp*"))
