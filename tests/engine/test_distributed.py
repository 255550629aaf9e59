"""Two processes on the CPU through gloo: they train as one would, and fail together."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.cli import main

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # seconds; a hang would be the failure that these tests are about


def launch(script: Path, *arguments: str, log: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(log)]
    command = [*launcher, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)


def logs(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted(folder.glob("workerlog.*")))


@pytest.fixture(scope="module")
def settings(training):
    """Two images a step, nothing random but the flip; the same gradients, however they are shared out."""
    return {
        **training,
        "model.head.drop_block": False,
        "model.backbone.freeze_norm": True,
        "train.epochs": 1,
        "train.evaluate_every": 1,
        "train.pictures": 0,
        "train.optimizer.clip_norm": None,
        "train.batch_size": 1,
    }


def options(settings, folder: Path, **changes) -> list[str]:
    values = {**settings, "train.output_dir": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}}
    return ["-c", "solov2_r50_enhance_coco", "-o", *(f"{key}={json.dumps(value)}" for key, value in values.items())]


def test_two_processes_train_as_one_with_twice_the_batches(settings, tmp_path):
    """Also sharded evaluation, one writer, and the same weights in both."""
    done = launch(ROOT / "scripts" / "train.py", *options(settings, tmp_path / "two"), log=tmp_path / "log")
    assert done.returncode == 0, logs(tmp_path / "log")
    assert main(["train", *options(settings, tmp_path / "one", train__accumulate=2)]) == 0
    one, two = tmp_path / "one" / "tiny", tmp_path / "two" / "tiny"
    theirs, ours = read_checkpoint(two / "last.pdparams"), read_checkpoint(one / "last.pdparams")
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        # float32 sums in another order, over 4 steps
        np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    records = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [len(lines) for lines in records] == [5, 5]
    for mine, other in zip(*records, strict=True):
        for key in mine.keys() - {"train/step_seconds", "train/data_seconds"}:
            assert other[key] == pytest.approx(mine[key], rel=1e-3), key
    resumed = launch(
        ROOT / "scripts" / "train.py", *options(settings, tmp_path / "one", train__accumulate=2), "-r", "auto",
        log=tmp_path / "again",
    )  # fmt: skip
    assert resumed.returncode != 0
    assert "world_size is 2, the checkpoint's is 1" in logs(tmp_path / "again")


DYING = """
import os, signal, sys
from ppsolo.cli import main
from ppsolo.engine.train import Trainer

step = Trainer.train_step

def dying(self, batches):
    if self.step == 2 and self.processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batches)

Trainer.train_step = dying
sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_the_launcher_ends_all_when_one_dies_and_says_why(settings, tmp_path):
    """Whichever comes first: the launcher sees the death, or the survivor misses the dead and ends by itself."""
    (tmp_path / "dying.py").write_text(DYING)
    done = launch(tmp_path / "dying.py", *options(settings, tmp_path), log=tmp_path / "log")
    assert done.returncode != 0
    by_launcher = "rank 1 status failed" in done.stdout + done.stderr
    by_survivor = "ppsolo: error: lost another process" in (tmp_path / "log" / "workerlog.0").read_text()
    assert by_launcher or by_survivor, logs(tmp_path / "log")


def test_who_is_left_alone_ends_with_a_clear_message(settings, tmp_path):
    """As on another machine, whose launcher cannot see the death: here there is no launcher at all."""
    (tmp_path / "dying.py").write_text(DYING)
    master, *endpoints = (f"127.0.0.1:{port}" for port in free_ports(3))
    shared = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PADDLE_MASTER": master,
        "PADDLE_TRAINERS_NUM": "2",
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_DISTRI_BACKEND": "gloo",
    }
    command = [sys.executable, str(tmp_path / "dying.py"), *options(settings, tmp_path)]
    processes = []
    for rank, endpoint in enumerate(endpoints):
        own = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": endpoint}
        processes.append(subprocess.Popen(command, env={**shared, **own}, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, -signal.SIGKILL], errors
    assert "ppsolo: error: lost another process" in errors[0]
    assert len(list((tmp_path / "tiny").glob("*.pdparams"))) == 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
