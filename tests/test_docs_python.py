"""The documents' blocks of Python compile, and run with a small model in place of a trained one."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from busy import busy_model

import ppsolo
from ppsolo import deploy

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M))
]
# What a block needs that is not here: text in it -> why it is only compiled.
ONLY_COMPILED = {
    "tritonclient": "asks a running Triton",
    "import ray": "starts Ray; tests/bulk/test_ray.py does",
}


@pytest.fixture(scope="module")
def predictor(tiny) -> ppsolo.Predictor:
    config = ppsolo.load_config("solov2_r50_fpn_3x", {**tiny, "num_classes": 80})
    return ppsolo.Predictor(config, model=busy_model(config))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_compiles_and_runs(block, predictor, tmp_path, monkeypatch):
    compile(block, "block", "exec")
    if any(text in block for text in ONLY_COMPILED):
        return
    for name in ("load", "Predictor.from_pretrained"):
        monkeypatch.setattr(f"ppsolo.{name}", lambda *args, **options: predictor)
    monkeypatch.setattr(deploy, "load", lambda *args, **options: predictor)
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    for file in dict.fromkeys(re.findall(r'"([\w/]+\.(?:jpg|png|tif))"', block)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / file), image)
    if "to_supervision" in block:
        pytest.importorskip("supervision", reason="supervision is not installed: pip install '.[formats]'")
    names: dict[str, Any] = {"image": image, "instances": predictor(image), "predictor": predictor}
    exec(block, names)
    assert len(names["instances"]) > 0


def test_there_are_blocks_to_try():
    assert len(BLOCKS) >= 6
