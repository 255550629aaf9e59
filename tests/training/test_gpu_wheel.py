"""Paddle's wheel for GPUs on a machine without one: the launcher's processes train on the CPU."""

import json
from pathlib import Path

import paddle
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not paddle.is_compiled_with_cuda() or paddle.device.cuda.device_count() > 0,
    reason="takes paddlepaddle-gpu on a machine without a GPU",
)


def test_the_launcher_trains_on_the_cpu(training, launch, tmp_path):
    settings = {**training, "train.output_dir": str(tmp_path / "runs"), "train.epochs": 1, "train.evaluate_every": 0}
    settings |= {"train.schedule.milestones": []}
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    script = ROOT / "scripts" / "train.py"
    done = launch(script, "-c", "solov2_r50_enhance_coco", "-o", *overrides, log=tmp_path / "log")
    log = (tmp_path / "log" / "workerlog.0").read_text()
    assert done.returncode == 0 and (tmp_path / "runs" / "tiny" / "last.pdparams").is_file(), log
    assert "Traceback" not in log and "steps trained" in log
