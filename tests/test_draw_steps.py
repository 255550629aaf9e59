"""A trained run is enough to draw the pictures of docs/how-it-works.md and of the README, and the pages show them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ppsolo
from ppsolo.data.images import read_image

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory, training) -> Path:
    """A finished run of the tiny network."""
    folder = tmp_path_factory.mktemp("drawn_run")
    ppsolo.train("solov2_r50_fpn_3x", {**training, "train.output_dir": str(folder), "model.backbone.norm": "bn"})
    return folder / "tiny"


def draw(script: str, *options: str) -> None:
    """Run a script of the repository."""
    command = [sys.executable, str(ROOT / "scripts" / script), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)


def test_every_step_is_drawn_and_shown(tmp_path, run):
    draw("draw_steps.py", "--run", str(run), "--output_dir", str(tmp_path / "steps"))
    drawn = {path.name for path in (tmp_path / "steps").iterdir()}
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert drawn == set(re.findall(r"\(images/(step-[\w-]+\.png)\)", page))
    assert all(read_image(tmp_path / "steps" / name).std() > 0 for name in drawn)


def test_the_first_picture_has_the_scenes_of_the_one_in_the_readme(tmp_path, run):
    draw("draw_first.py", "--run", str(run), "--output", str(tmp_path / "first.jpg"))
    drawn, shown = read_image(tmp_path / "first.jpg"), read_image(ROOT / "docs" / "images" / "first.jpg")
    assert drawn.shape == shown.shape
    assert "(docs/images/first.jpg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    # The scenes do not depend on the network; JPEG changes a pixel only where its block holds a neighbour's pixels.
    for left in (0, 656):
        scenes = [picture[:, left : left + 312].astype(int) for picture in (drawn, shown)]
        assert abs(scenes[0] - scenes[1]).mean() < 0.5
