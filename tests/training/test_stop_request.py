"""Requests to stop: the step is finished, a state is written, and resuming from it gives the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppsolo.build.training import build_dataset, build_loader, build_trainer
from ppsolo.config import load_config
from ppsolo.errors import TrainingError
from ppsolo.evaluation.evaluate import EvaluationSet
from ppsolo.processes import ALONE
from ppsolo.training import state
from ppsolo.training.state import RunDirectory, TrainingState
from ppsolo.training.stop_request import StopRequest
from ppsolo.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


def trainer_of(training, stop, checkpoint=None, sinks=()):
    """A trainer that evaluates after each of its 2 epochs of 4 steps."""
    config = load_config("solov2_r50_enhance_coco", {**training, "train.evaluate_every": 1})
    dataset = build_dataset(config)
    loader = build_loader(config, [dataset[i] for i in range(len(dataset))])
    folder = Path(config.data.root)
    validation_set = EvaluationSet(folder / config.data.val_annotations, folder / config.data.val_images)
    return build_trainer(
        config, loader, ALONE, validation_set=validation_set, checkpoint=checkpoint, sinks=sinks, stop=stop
    )


def same(one: TrainingState, other: TrainingState) -> bool:
    return one.record == other.record and all(
        np.array_equal(array, other.arrays[group][name])
        for group, arrays in one.arrays.items()
        for name, array in arrays.items()
    )


class Watched(StopRequest):
    """A request that is there once the trainer has done so many steps, or within the evaluation after them."""

    def __init__(self, after: int, *, in_evaluation: bool = False):
        super().__init__()
        self.after, self.in_evaluation = after, in_evaluation
        self.trainer: Trainer | None = None

    @property
    def requested(self) -> bool:
        assert self.trainer is not None
        evaluating = not self.trainer.model.training
        return self.trainer.step >= self.after and evaluating is self.in_evaluation


@pytest.fixture(scope="module")
def uninterrupted(training):
    trainer = trainer_of(training, None)
    trainer.fit()
    assert not trainer.stopped
    return trainer.state()


@pytest.mark.parametrize(("after", "in_evaluation"), [(3, False), (4, False), (4, True), (8, True)])
def test_a_stopped_run_goes_on_bit_for_bit(training, uninterrupted, after, in_evaluation):
    stop, states = Watched(after, in_evaluation=in_evaluation), []
    trainer = trainer_of(training, stop, lambda trainer, best: None if best else states.append(trainer.state()))
    stop.trainer = trainer
    trainer.fit()
    assert trainer.stopped and trainer.step == after and states[-1].record["step"] == after
    resumed = trainer_of(training, None)
    resumed.load_state(states[-1])
    resumed.fit()
    assert same(resumed.state(), uninterrupted)


def test_one_run_at_a_time_in_a_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "HOLDER_PATIENCE", 0.0)
    one, other = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    with one.held():
        with pytest.raises(TrainingError, match=rf"run is in use by process {os.getpid()} on .*: wait until it ends"):
            other.held().__enter__()
        (tmp_path / "run" / "file").write_text("")
    with other.held():
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_a_refused_run_leaves_no_directory(tmp_path):
    with pytest.raises(TrainingError), RunDirectory(tmp_path / "run").held():
        raise TrainingError("refused")
    assert not (tmp_path / "run").exists()


def test_the_directory_may_go_while_a_run_waits_for_it(tmp_path, monkeypatch):
    """The holder before is refused and removes the empty directory in the moment between the two steps of the next."""
    real, gone = state.sole_holder, []

    def holder(lock, *, patience):
        if not gone:
            gone.append(lock.parent.rmdir())
        return real(lock, patience=patience)

    monkeypatch.setattr(state, "sole_holder", holder)
    with RunDirectory(tmp_path / "run").held():
        assert (tmp_path / "run" / "run.lock").is_file()


WAITING = """
import os, sys, time
from ppsolo.training.stop_request import StopRequest, launcher_id

with StopRequest(launcher=launcher_id(), grace=float(sys.argv[1]), console=sys.stderr) as stop:
    stop.defer()
    print("ready", flush=True)
    while sys.argv[2] == "never" or not stop.requested:
        time.sleep(0.05)
    stop.hear()
    print(stop.reason, flush=True)
    sys.exit(128 + stop.signal_number)
"""
PARENT = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], env={**os.environ, "PADDLE_LOCAL_RANK": "0"})
print(process.pid, flush=True)
process.wait()
"""


def start(code: str, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PADDLE_LOCAL_RANK", None)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "stopped by Ctrl-C"), (signal.SIGTERM, 143, "stopped by SIGTERM")],
)
def test_a_signal_is_noted_with_one_line(number, code, words):
    with start(WAITING, "60", "step") as process:
        assert line_of(process) == "ready\n"
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert process.returncode == code and out == f"{words}\n"
    (line,) = error.splitlines()
    assert line.startswith(f"{words}: finishing the step, then writing a training state")


def test_a_second_ctrl_c_ends_at_once():
    with start(WAITING, "60", "never") as process:
        line_of(process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped at once by the second Ctrl-C" in error


def test_a_step_that_never_ends_is_given_up():
    """As when another process of the run was stopped and does not answer."""
    with start(WAITING, "0.5", "never") as process:
        line_of(process)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and "the step did not end within 0.5 s" in error


def test_a_start_that_never_ends_is_given_up_sooner():
    """Before the first step there is nothing to save, and a process may wait for others for ever."""
    program = f"""
import signal
from ppsolo.training import stop_request

stop_request.START_GRACE_SECONDS = 0.5
stop_request.StopRequest._on_signal = lambda self, number, frame: None  # as when C++ waits
{WAITING.replace("stop.defer()", "")}"""
    with start(program, "600", "never") as process:
        line_of(process)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and error.endswith("before the first step: run the same command again\n")


def test_the_death_of_the_launcher_is_a_request():
    with start(PARENT, WAITING, "60", "step") as parent:
        child = int(line_of(parent))
        assert line_of(parent) == "ready\n"
        parent.kill()
        parent.wait()
        assert line_of(parent) == "stopped because the launcher has ended\n"  # written by the child
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
