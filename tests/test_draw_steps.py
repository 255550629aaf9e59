"""The pictures of docs/how-it-works.md are drawn from a trained run, and the page shows all of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ppsolo
from ppsolo.data.images import read_image

ROOT = Path(__file__).parent.parent


def test_every_step_is_drawn_and_shown(tmp_path, training):
    ppsolo.train("solov2_r50_fpn_3x", {**training, "train.output_dir": str(tmp_path), "model.backbone.norm": "bn"})
    command = [sys.executable, str(ROOT / "scripts" / "draw_steps.py")]
    options = ["--run", str(tmp_path / "tiny"), "--output_dir", str(tmp_path / "steps")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, *options], env=environment, check=True, capture_output=True, timeout=300)
    drawn = {path.name for path in (tmp_path / "steps").iterdir()}
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert drawn == set(re.findall(r"\(images/(step-[\w-]+\.png)\)", page))
    assert all(read_image(tmp_path / "steps" / name).std() > 0 for name in drawn)
