"""The benchmark of training: what is measured, and how it is put beside a baseline."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ppsolo.benchmark import training as training_benchmark
from ppsolo.benchmark.paddledetection import paddledetection_model
from ppsolo.benchmark.training import (
    NETS,
    READER,
    SMALL_SIZES,
    STEP,
    benchmark,
    cases,
    format_measurement,
    measure_paddledetection_reader,
    measure_paddledetection_step,
    measure_reader,
    measure_step,
    measure_targets,
    read_baseline,
)
from ppsolo.build.network import build_model
from ppsolo.build.training import build_dataset
from ppsolo.config import load_config
from ppsolo.errors import DatasetError

ROOT = Path(__file__).parents[2]
with_paddledetection = pytest.mark.skipif(
    importlib.util.find_spec("ppdet") is None, reason="PaddleDetection is not installed"
)


@pytest.mark.parametrize(
    ("measure", "count"), [(measure_reader, "batches"), (measure_targets, "batches"), (measure_step, "steps")]
)
def test_what_is_measured(training, measure, count):
    figures = measure(load_config("solov2_r50_enhance_coco", training), **{count: 3})
    seconds = figures["seconds"]
    assert seconds["n"] == 3 and 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert figures["peak_rss_mb"] > 50


@with_paddledetection
@pytest.mark.parametrize(
    ("measure", "count"), [(measure_paddledetection_reader, "batches"), (measure_paddledetection_step, "steps")]
)
def test_paddledetection_is_measured_where_it_is_installed(training, measure, count, capsys):
    overrides = {key: value for key, value in training.items() if key.startswith(("data.", "train.augment."))}
    figures = measure(load_config("solov2_r50_enhance_coco", overrides), **{count: 2})
    assert figures["seconds"]["n"] == 2 and figures["seconds"]["min"] > 0
    assert not capsys.readouterr().out


@with_paddledetection
@pytest.mark.parametrize("name", NETS)
def test_paddledetections_network_learns_what_ours_does(training, name):
    config = load_config(name, {key: value for key, value in training.items() if key.startswith("data.")})
    config = replace(config, num_classes=len(build_dataset(config).category_ids))
    shapes = [
        sorted(tuple(parameter.shape) for parameter in model.parameters() if not parameter.stop_gradient)
        for model in (build_model(config), paddledetection_model(config))
    ]
    assert shapes[0] == shapes[1]


def test_ratios(monkeypatch, training):
    """A machine of half the speed that takes twice the time is as good."""
    measured = {"seconds": {"median": 0.2, "min": 0.1, "max": 0.3, "n": 5}, "peak_rss_mb": 100.0}
    monkeypatch.setattr(training_benchmark, "in_new_process", lambda function, *_: function())
    monkeypatch.setattr(training_benchmark, "matrix_product", lambda: {"numpy": 20.0, "paddle": 50.0})
    monkeypatch.setattr(training_benchmark, "MEASURES", dict.fromkeys(("reader", "targets", "step"), lambda: measured))
    theirs = {"seconds": {"median": 0.8, "min": 0.7, "max": 0.9, "n": 5}, "peak_rss_mb": 400.0}
    monkeypatch.setattr(training_benchmark, "ORIGINALS", {"step": lambda: theirs})
    monkeypatch.setattr(training_benchmark, "has_paddledetection", lambda: True)
    net = NETS["solov2_r50_fpn_1x_coco"]
    baseline = {
        "machine": "some machine; a matrix product takes 100.0 GFLOP/s",
        "measurements": [
            {"path": READER + SMALL_SIZES, "net": net, "batch_s": {"median": 0.1}, "peak_rss_mb": 200.0},
            {"path": f"{STEP}1 thread", "net": net, "step_s": {"median": 0.4}, "peak_rss_mb": 400.0},
        ],
    }
    lines = []
    result = benchmark({}, baseline=baseline, progress=lines.append)
    assert len(lines) == len(result["measurements"]) == len(cases(("reader", "targets", "step")))
    found = {entry["figure"]: entry for entry in result["measurements"] if entry["ratio"] is not None}
    assert {figure: entry["ratio"] for figure, entry in found.items()} == pytest.approx({"reader": 2, "step": 0.5})
    assert found["reader"]["normalized_ratio"] == pytest.approx(1)
    assert found["reader"]["memory_ratio"] == pytest.approx(0.5) and found["step"]["memory_ratio"] == pytest.approx(
        0.25
    )
    assert "2.00 of the baseline's time" in format_measurement(found["reader"])
    assert "paddledetection_seconds" not in found["reader"]
    assert "0.250 of the time of PaddleDetection, 0.25 of its memory" in format_measurement(found["step"])
    assert all(entry["ratio"] is None for entry in benchmark({}, progress=lines.append)["measurements"])
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("text", ["{", "[]", '{"machine": "x", "measurements": []}'])
def test_other_files_are_no_baseline(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(DatasetError, match=r"b\.json: is not a baseline"):
        read_baseline(tmp_path / "b.json")


def test_the_script_says_what_is_wrong(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_training.py"), "--annotations", "a", "--images", "b"]
    command += ["--baseline", str(tmp_path / "gone.json")]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("benchmark_training: error: ") and "gone.json" in done.stderr
