"""The command and its service as processes of their own: a few seconds of load, the end, and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from busy import busy_model

from ppsolo import load_config, save_weights
from ppsolo.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def system(tmp_path_factory, tiny) -> list[str]:
    """Command-line arguments that choose a tiny system which finds something."""
    weights = tmp_path_factory.mktemp("system") / "tiny.pdparams"
    model = busy_model(load_config("solov2_r50_fpn_1x", tiny))
    save_weights(model, weights)
    overrides = {**tiny, "weights": weights, "postprocess.max_instances": 20}
    return ["-c", "solov2_r50_fpn_1x", "-o", *(f"{key}={value}" for key, value in overrides.items())]


def test_the_service_stands_under_load(system):
    """Right answers, orderly refusals, exit code 0 after SIGTERM; the full minute with 200 clients is in the script."""
    command = [sys.executable, str(ROOT / "scripts" / "load_test.py"), *system]
    command += ["--clients", "12", "--hostile", "4", "--seconds", "3", "--batch_size", "2", "--queue", "6"]
    command += ["--health_ms", "2000", "--slack_mb", "50"]  # other tests share the machine, and three seconds are few
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    report = json.loads(done.stdout)
    assert report["stood"] and done.returncode == 0, report["disorder"]
    assert report["statuses"]["200"] > 0 and set(report["statuses"]) <= {"200", "503"}
    assert report["instances_compared"] > 0 and sum(report["hostile"].values()) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give a configuration (-c) or an exported directory"),
        (["-c", "solov2_r50_fpn_1x", "--model_dir", "x"], "-c and --model_dir both name a model: give one of them"),
        (["-c", "solov2_r50_fpn_1x", "--queue", "0"], "--queue is 0"),
        (["-c", "solov2_r50_fpn_1x", "--port", "99999"], "--port 99999: cannot listen there"),
        (["-c", "solov2_r50_fpn_1x", "--port", "0"], "has no weights"),
        (["--model_dir", "nowhere", "--port", "0"], "nowhere"),
    ],
)
def test_refusals_are_one_line(capsys, arguments, words):
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


def test_without_its_libraries_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ppsolo.serve.server", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "-c", "solov2_r50_fpn_1x"]) == 2
    assert "pip install 'ppsolo[serve]'" in capsys.readouterr().err
