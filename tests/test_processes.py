"""Two processes on the CPU through gloo: they train as one would, and fail together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppsolo.build.network import build_model
from ppsolo.checkpoint.load import save_weights
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.cli import main
from ppsolo.config import load_config
from ppsolo.data.synthetic import draw_dataset
from ppsolo.errors import ConfigError, TrainingError
from ppsolo.processes import Launched, _naming_the_cause, launched, start_processes

ROOT = Path(__file__).parents[1]
TIMEOUT = 600  # seconds; a hang would be the failure that these tests are about


def logs(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted(folder.glob("workerlog.*")))


@pytest.fixture(scope="module")
def settings(training):
    """One image per process, without batch norms and DropBlock: they depend on which process has which images.

    All images have one size, since images that share a batch are padded to the largest.
    """
    return {
        **training,
        "model.head.drop_block": False,
        "model.backbone.norm": "gn",
        "model.backbone.norm_groups": 4,
        "train.augment.short_sides": [48],
        "train.augment.crop": "none",
        "train.epochs": 1,
        "train.pictures": 0,
        "train.batch_size": 1,
    }


def options(settings, folder: Path, **changes) -> list[str]:
    values = {**settings, "train.output_dir": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}}
    return ["-c", "solov2_r50_enhance_coco", "-o", *(f"{key}={json.dumps(value)}" for key, value in values.items())]


def test_two_processes_train_as_one_with_twice_the_batch(settings, tmp_path, launch):
    """20 steps; also one writer, and a checkpoint of one process refused by two."""
    epochs = {"train__epochs": 5, "train__evaluate_every": 5}
    done = launch(ROOT / "scripts" / "train.py", *options(settings, tmp_path / "two", **epochs), log=tmp_path / "log")
    assert done.returncode == 0, logs(tmp_path / "log")
    for name, change in (("batch", {"train__batch_size": 2}), ("accumulated", {"train__accumulate": 2})):
        assert main(["train", *options(settings, tmp_path / name, **epochs, **change)]) == 0
    two, *ones = (tmp_path / name / "tiny" for name in ("two", "batch", "accumulated"))
    records = [json.loads(line) for line in (two / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [*range(1, 21), 20]
    theirs = read_checkpoint(two / "last.pdparams")
    # float32 sums in another order, which 20 steps carry on: 5e-6 of the largest weight. But displacements are still
    # near zero, where sampling bends, and rounding may decide which side a gradient is taken from: 3e-4 were seen then.
    tolerance = 1e-3
    for one in ones:
        ours = read_checkpoint(one / "last.pdparams")
        assert theirs.keys() == ours.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(theirs[name], value, rtol=0, atol=tolerance * np.abs(value).max(), err_msg=name)
        own_records = [json.loads(line) for line in (one / "log.jsonl").read_text().splitlines()]
        for mine, other in zip(own_records, records, strict=True):
            for key in mine.keys() - {"train/step_seconds", "train/data_seconds"}:
                assert other[key] == pytest.approx(mine[key], rel=tolerance), (one, mine["step"], key)
    again = options(settings, tmp_path / "batch", train__batch_size=2)
    resumed = launch(ROOT / "scripts" / "train.py", *again, "-r", "auto", log=tmp_path / "again")
    assert resumed.returncode != 0
    assert "world_size is 2, the checkpoint's is 1" in logs(tmp_path / "again")


def test_sharded_evaluation_gives_the_same_numbers(settings, tmp_path, launch):
    """5 images on 1, 2 and 3 processes: an unequal share, and everything that a network without training finds."""
    draw_dataset(tmp_path, train=1, val=5, size=(48, 64), seed=3)
    everything = {"postprocess__score_threshold": 0.0, "postprocess__update_threshold": 0.0}
    model = build_model(load_config("solov2_r50_enhance_coco", settings))
    save_weights(model, tmp_path / "random.pdparams", generation="ppsolo")
    arguments = options(
        settings, tmp_path, **everything, data__root=str(tmp_path), weights=str(tmp_path / "random.pdparams")
    )
    found = []
    for processes in (1, 2, 3):
        output = tmp_path / str(processes)
        done = launch(
            ROOT / "scripts" / "eval.py", *arguments, "--save_results", "--output_dir", str(output), "--report",
            str(tmp_path / f"{processes}.json"), log=output / "log", processes=processes,
        )  # fmt: skip
        assert done.returncode == 0, logs(output / "log")
        found.append(
            (json.loads((tmp_path / f"{processes}.json").read_text()), (output / "predictions.json").read_bytes())
        )
    assert len(json.loads(found[0][1])) == 500
    assert found[1:] == [found[0]] * 2


DYING = """
import os, signal, sys
from ppsolo.cli import main
from ppsolo.training.trainer import Trainer

step = Trainer.train_step

def dying(self, batches):
    if self.step == 2 and self.processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batches)

Trainer.train_step = dying
sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_the_launcher_ends_all_when_one_dies_and_says_why(settings, tmp_path, launch):
    """The launcher sees the dead process and ends the other one, or the other one notices first and ends by itself."""
    (tmp_path / "dying.py").write_text(DYING)
    done = launch(tmp_path / "dying.py", *options(settings, tmp_path), log=tmp_path / "log")
    assert done.returncode != 0
    by_launcher = "rank 1 status failed" in done.stdout + done.stderr
    by_survivor = "ppsolo: error: lost another process" in (tmp_path / "log" / "workerlog.0").read_text()
    assert by_launcher or by_survivor, logs(tmp_path / "log")


def test_who_is_left_alone_ends_with_a_clear_message(settings, tmp_path, free_endpoints):
    """A launcher on another machine would not see the death. Here there is no launcher at all."""
    (tmp_path / "dying.py").write_text(DYING)
    master, *endpoints = free_endpoints(3)
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


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("(External) NCCL error(2), unhandled system error. (at nccl_comm_context.cc:59)", True),
        ("[/gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:6170", True),
        ("(External) CUDA error(700), an illegal memory access was encountered. (at process_group_nccl.cc:9)", False),
        ("nccl frames\nError Message Summary:\nOut of memory error on GPU 0. Cannot allocate 2.0GB memory", False),
        ("(InvalidArgument) The shapes do not match", False),
    ],
)
def test_only_errors_of_the_communication_speak_of_a_lost_process(text, lost):
    with pytest.raises(TrainingError if lost else OSError) as caught, _naming_the_cause():
        raise OSError(text)
    assert ("lost another process" in str(caught.value)) == lost
    assert text.split()[-1] in str(caught.value)


def test_two_nodes_train_the_curve_of_two_processes_on_one(settings, tmp_path, launch, free_endpoints):
    """Two launchers on this machine, each with one process, meet at one address."""
    run = options(settings, tmp_path / "one")
    done = launch(ROOT / "scripts" / "train.py", *run, log=tmp_path / "log")
    assert done.returncode == 0, logs(tmp_path / "log")
    (master,) = free_endpoints(1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    nodes = []
    for rank in range(2):
        launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nnodes", "2", "--master", master]
        own = ["--rank", str(rank), "--nproc_per_node", "1", "--log_dir", str(tmp_path / f"node{rank}")]
        command = [*launcher, *own, str(ROOT / "scripts" / "train.py"), *options(settings, tmp_path / "two")]
        nodes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        codes = [node.wait(timeout=TIMEOUT) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert codes == [0, 0], logs(tmp_path / "node0") + logs(tmp_path / "node1")
    curves = [curve(tmp_path / name / "tiny" / "log.jsonl") for name in ("one", "two")]
    assert len(curves[0]) > 2 and curves[0] == curves[1]
    weights = [read_checkpoint(tmp_path / name / "tiny" / "last.pdparams") for name in ("one", "two")]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def curve(log_file: Path) -> list[dict]:
    """The records of a run without the seconds."""
    records = [json.loads(line) for line in log_file.read_text().splitlines()]
    return [{key: value for key, value in record.items() if not key.endswith("_seconds")} for record in records]


LAUNCHER = ("PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID", "PADDLE_LOCAL_SIZE")


@pytest.fixture
def variables(monkeypatch):
    """Sets the launcher's variables; the others are unset."""

    def use(values: dict[str, str]) -> None:
        for name in LAUNCHER:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return use


def test_the_launcher_says_the_place_of_a_process(variables):
    variables({})
    assert launched() == Launched(0, 1, 1)
    variables(dict(zip(LAUNCHER, ("4", "3", "2"), strict=True)))
    assert launched() == Launched(3, 4, 2)
    variables({"PADDLE_TRAINERS_NUM": "4"})
    assert launched() == Launched(0, 4, 4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *(({name: text}, f"{name} is '{text}'") for name in LAUNCHER for text in ("abc", "", "-1", "1.5", "9" * 30)),
        ({"PADDLE_TRAINERS_NUM": "0"}, "at least 1"),
        ({"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "2"}, "PADDLE_TRAINER_ID is 2, but"),
    ],
)
def test_wrong_variables_of_a_launcher_are_one_line(variables, values, expected):
    variables(values)
    with pytest.raises(ConfigError, match=expected):
        launched()


@pytest.mark.parametrize(
    "command",
    [["train", "-c", "compact"], ["doctor"], ["eval", "-c", "compact"], ["infer", "-c", "compact", "--source", "x"]],
)
def test_commands_refuse_wrong_variables_of_a_launcher(variables, capsys, command):
    variables({"PADDLE_TRAINER_ID": "abc"})
    assert main(command) == 2
    assert "PADDLE_TRAINER_ID is 'abc' in the environment" in capsys.readouterr().err


def test_incomplete_variables_of_a_launcher_are_refused(variables, monkeypatch):
    variables({"PADDLE_TRAINERS_NUM": "2"})
    for name in ("PADDLE_DISTRI_BACKEND", "PADDLE_CURRENT_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="start them with"):
        start_processes()


MEETING = """
import paddle
from ppsolo.processes import start_processes

init = paddle.distributed.init_parallel_env
paddle.distributed.init_parallel_env = lambda: (print("meets", flush=True), init())
start_processes()
"""
LAUNCHING = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


@pytest.fixture
def lonely():
    """-> environment of the second of two processes, whose first never starts"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"
    place = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "1", "PADDLE_MASTER": master}
    ends = {"PADDLE_CURRENT_ENDPOINT": "127.0.0.1:1", "PADDLE_TRAINER_ENDPOINTS": f"{master},127.0.0.1:1"}
    return {**os.environ, **place, **ends, "PYTHONPATH": str(ROOT), "PADDLE_DISTRI_BACKEND": "gloo"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_the_first_one_can_be_ended(lonely, number):
    """Paddle waits in C++ with Python's lock held, so no handler in Python would be called."""
    with subprocess.Popen([sys.executable, "-c", MEETING], env=lonely, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "meets\n"
        time.sleep(1.0)
        process.send_signal(number)
        try:
            assert process.wait(timeout=20) == -number
        finally:
            process.kill()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux tells a process that its parent has ended")
def test_a_process_that_waits_for_the_first_one_ends_with_its_launcher(lonely):
    command = [sys.executable, "-c", LAUNCHING, MEETING]
    with subprocess.Popen(command, env=lonely, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "meets\n"
        time.sleep(1.0)
        launcher.kill()
        assert launcher.communicate(timeout=30) == ("", None)  # the process held the other end


# A program whose child is still importing, or at work, when the program ends.
STARTING = """
import multiprocessing, os, sys, time
from ppsolo.processes import end_with_starter, uninterrupted

if __name__ != "__main__":
    time.sleep(float(sys.argv[1]))  # the child starts

def work():
    end_with_starter()
    print("works", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with uninterrupted():
        child = multiprocessing.get_context("spawn").Process(target=work, daemon=True)
        child.start()
    print("started", flush=True)
    try:
        child.join()
    except KeyboardInterrupt:
        time.sleep(0.5)  # a child that hears it too has time to say so
        child.terminate()
"""


@pytest.mark.parametrize("seconds", [2.0, 0.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_a_command_started_ends_with_it_without_a_word(number, seconds, tmp_path):
    (tmp_path / "program.py").write_text(STARTING)
    with subprocess.Popen(
        [sys.executable, "-u", str(tmp_path / "program.py"), str(seconds)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        if seconds == 0:
            assert process.stdout.readline() == "works\n"
        else:
            time.sleep(1.0)
        send = os.killpg if number == signal.SIGINT else os.kill  # a terminal sends Ctrl-C to all
        send(process.pid, number)
        errors = process.communicate(timeout=30)[1]  # until the child has closed the pipes too
    assert "Traceback" not in errors and "Error" not in errors, errors


def test_a_measuring_process_ends_with_its_command():
    work = "print('works', flush=True); import time; time.sleep(600)"
    program = f"from ppsolo.benchmark.machine import in_new_process; in_new_process(exec, 1, {work!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "works\n"
        process.kill()
        process.communicate(timeout=30)  # until its process has closed the pipe too
