"""The demonstration, on a few scenes: it trains, evaluates, and leaves the files that it names."""

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ppsolo import demo
from ppsolo.cli import main
from ppsolo.config import config_from_dict, config_to_dict
from ppsolo.data.images import read_image
from ppsolo.demo import MARK, _clear, read_curve, run_demo
from ppsolo.errors import ConfigError, ImageError, TrainingError, UnavailableError
from ppsolo.training.state import RunDirectory

ROOT = Path(__file__).parents[1]
TINY = {
    "model": {
        "backbone": {"width": 4, "norm_groups": 1},
        "neck": {"channels": 4},
        "mask_feature_head": {"mid_channels": 4, "out_channels": 4},
        "head": {"channels": 4, "num_convs": 1},
        "norm_groups": 1,
    },
    "train": {"epochs": 2, "batch_size": 2, "log_every": 1, "evaluate_every": 1},
}


def run_tiny(folder, console, **options):
    flat = {f"{part}.{key}": value for part, keys in TINY.items() for key, value in keys.items()}
    return run_demo(output_dir=folder, console=console, scenes=(4, 2), overrides=flat, **options)


def test_what_it_leaves_and_a_second_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "available_cores", lambda: 2)
    with (tmp_path / "console.txt").open("w") as console:
        lines = run_tiny(tmp_path / "demo", console)
        (tmp_path / "demo" / "training" / "run" / "mine.txt").write_text("stays")
        run_tiny(tmp_path / "demo", console)
    assert capsys.readouterr() == ("", "")
    assert "epoch 2, loss" in (tmp_path / "console.txt").read_text()
    record = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert record["mask_ap"] == record["report"]["segm"]["stats"][0]
    assert re.match(rf"mask AP {100 * record['mask_ap']:.1f} \(AP50 .*\) on 2 scenes .* 2 epochs of 4: ", lines[0])
    curve = record["curve"]
    assert [point["step"] for point in curve["losses"]] == [1, 2]
    assert [point["step"] for point in curve["evaluations"]] == [1, 2]
    assert curve["evaluations"][-1]["AP"] == record["mask_ap"]
    assert 0 < curve["losses"][0]["minutes"] < record["minutes"]["training"] < record["minutes"]["all"]
    for name, width in (("scene", 640), ("prediction", 640), ("predictions", 1398), ("curve", 1240)):
        picture = read_image(tmp_path / "demo" / f"{name}.png")
        assert picture.shape[1] == width and picture.std() > 5
    assert (tmp_path / "demo" / "training" / "run" / "mine.txt").read_text() == "stays"
    assert not (tmp_path / "demo" / "photo_prediction.png").exists()


def test_one_core_trains_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "available_cores", lambda: 1)
    with (tmp_path / "console.txt").open("w") as console:
        run_tiny(tmp_path / "demo", console)
    curve = json.loads((tmp_path / "demo" / "demo.json").read_text())["curve"]
    assert [point["step"] for point in curve["losses"]] == [1, 2, 3, 4]
    assert "epoch 2, loss" in (tmp_path / "console.txt").read_text()


def test_training_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "available_cores", lambda: 2)
    monkeypatch.setattr(demo, "SCRIPT", "raise SystemExit('broken')")
    with (tmp_path / "console.txt").open("w") as console, pytest.raises(TrainingError, match=r"workerlog\.0 says why"):
        run_tiny(tmp_path / "demo", console)
    assert "broken" in (tmp_path / "demo" / "training" / "logs" / "workerlog.0").read_text()


@pytest.mark.parametrize("named", ["0", ""])
def test_a_machine_without_gpu_trains_whatever_gpus_are_named(tmp_path, monkeypatch, named):
    """Paddle's launcher gives each process one of the GPUs in the variable, and has one here, if any."""
    if demo.paddle.device.get_device().startswith("gpu"):
        pytest.skip("needs a machine without a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(demo, "available_cores", lambda: 2)
    script = """
        import paddle
        paddle.distributed.init_parallel_env()
        number = paddle.to_tensor([1.0])
        paddle.distributed.all_reduce(number)
        print("step 1:", paddle.device.get_device(), float(number[0]))
    """
    monkeypatch.setattr(demo, "SCRIPT", textwrap.dedent(script))
    with (tmp_path / "console.txt").open("w") as console:
        demo._train_together(demo.load_config("demo"), tmp_path, console, processes=2)
    assert "step 1: cpu 2.0" in (tmp_path / "console.txt").read_text()


def test_a_launcher_that_fails_is_heard(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_LOG_LEVEL", "NO_SUCH_LEVEL")
    with pytest.raises(TrainingError, match=r"exit code 1: Paddle's launcher says: .*Error"):
        demo._train_together(demo.load_config("demo"), tmp_path, sys.stdout, processes=2)


def test_an_interrupted_demo_ends_its_training_first(tmp_path, monkeypatch):
    """Python's own way waits for a quarter of a second after Ctrl-C."""
    launcher = """
        import signal, sys, time

        def end(number, frame):
            time.sleep(1.5)
            open("ended.txt", "w").close()
            sys.exit(0)

        signal.signal(signal.SIGTERM, end)
        print("step 1: begins", flush=True)
        time.sleep(600)
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "LAUNCHER", textwrap.dedent(launcher))

    class Console(io.StringIO):
        def write(self, text):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo._train_together(demo.load_config("demo"), tmp_path, Console(), processes=2)
    assert (tmp_path / "ended.txt").is_file()


def test_the_training_ends_with_a_demo_that_is_killed(tmp_path):
    (tmp_path / "train.py").write_text("import time; print('runs', flush=True); time.sleep(600)")
    program = """
import os, subprocess, sys
from ppsolo.demo import LAUNCHER
command = [sys.executable, "-c", LAUNCHER, str(os.getpid()), "--nproc_per_node", "1", "train.py"]
process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
while "runs" not in process.stdout.readline():
    pass
print("runs", flush=True)
process.wait()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == "runs\n"
        killed.kill()
        killed.communicate(timeout=60)  # the launcher held the other end


def test_a_launcher_around_the_demo_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert main(["demo"]) == 2
    assert "ppsolo demo starts its processes itself" in capsys.readouterr().err


def test_a_demo_that_was_killed_at_its_start_can_be_started_again(tmp_path):
    run = RunDirectory(tmp_path / "training" / "run")
    (tmp_path / "training").mkdir()  # and not yet marked
    _clear(tmp_path / "training", run)
    (tmp_path / "training" / "data").mkdir()
    _clear(tmp_path / "training", run)
    assert (tmp_path / "training" / MARK).is_file()


def test_nothing_of_others_is_touched(tmp_path, capsys):
    (tmp_path / "training" / "run").mkdir(parents=True)
    (tmp_path / "training" / "run" / "config.yml").write_text("mine")
    with pytest.raises(ConfigError, match=r"training is not from an earlier demo and is kept; choose another"):
        run_tiny(tmp_path, console=None)
    assert (tmp_path / "training" / "run" / "config.yml").read_text() == "mine"
    with pytest.raises(ImageError, match=r"gone\.jpg"):  # before any minute is spent on training
        run_tiny(tmp_path / "other", console=None, image=tmp_path / "gone.jpg")
    assert not (tmp_path / "other").exists()


def test_a_photograph_without_published_weights(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise UnavailableError("no network here; put the file there")

    small = config_from_dict({"name": "small", "preprocess": {"short_side": 64}, "model": TINY["model"]}, "small")
    (tmp_path / "small.yml").write_text(json.dumps(config_to_dict(small)))
    monkeypatch.setattr(demo, "PUBLISHED", tmp_path / "small.yml")
    monkeypatch.setattr(demo.Predictor, "from_pretrained", refuse)
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    target = tmp_path / "photo_prediction.png"
    first, second, last = demo._predict_photo(photo, target, None)
    assert "cannot be fetched: no network here" in first and "not what a trained SOLOv2 finds" in second
    drawn = read_image(target)
    assert "photo_prediction.png" in last and drawn.shape == photo.shape
    assert (drawn[-2:] == 255).all(), "there is no stamp that says that the weights are untrained"
    trained = demo.Predictor(tmp_path / "small.yml", model=demo.seeded_model(seed=0))
    monkeypatch.setattr(demo.Predictor, "from_pretrained", lambda *args, **kwargs: trained)
    assert len(demo._predict_photo(photo, target, None)) == 2
    assert not (read_image(target)[-2:] == 255).all()


def test_a_contact_sheet_keeps_every_pixel():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30, 3), np.uint8)
    sheet = demo._contact_sheet(list(map(list, pictures)), captions=("a", "b", "c"), gap=5)
    assert sheet.shape == (44 + 2 * 25, 3 * 35 + 5, 3)
    for row in range(2):
        for column in range(3):
            top, left = 44 + row * 25, 5 + column * 35
            assert np.array_equal(sheet[top : top + 20, left : left + 30], pictures[row, column])


def test_minutes_are_those_of_training(tmp_path):
    losses = {"train/loss": 3.0, "train/loss_mask": 2.0, "train/loss_category": 1.0}
    records = [
        {"step": 20, **losses, "train/step_seconds": 3.0},
        {"step": 30, "val/segm_AP": 0.5, "val/segm_AP50": 0.8, "val/segm_AP75": 0.4, "val/bbox_AP": 0.6},
        {"step": 40, **losses, "train/step_seconds": 6.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    curve = read_curve(tmp_path / "log.jsonl")
    assert [point["minutes"] for point in curve.losses] == [1.0, 3.0]
    assert curve.evaluations == [{"step": 30, "minutes": 1.5, "AP": 0.5, "AP50": 0.8, "AP75": 0.4}]
    assert curve.losses[0] == {"step": 20, "minutes": 1.0, "loss": 3.0, "loss_mask": 2.0, "loss_category": 1.0}


@pytest.mark.parametrize(
    ("device", "gpus", "cores", "processes"),
    [("gpu:0", 1, 8, 1), ("gpu:0", 4, 8, 4), ("cpu", 0, 8, 2), ("cpu", 0, 1, 1)],
)
def test_one_process_for_each_gpu(monkeypatch, device, gpus, cores, processes):
    """Paddle's launcher fails where there are more processes than GPUs."""
    monkeypatch.setattr(demo.paddle.device, "get_device", lambda: device)
    monkeypatch.setattr(demo.paddle.device.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(demo, "available_cores", lambda: cores)
    assert demo._process_count() == processes
