"""Runs that are killed at random moments and resumed give the same bits as an uninterrupted run.

PPSOLO_KILLS sets how often each run is killed. Without it: 3 times with one process, once with two.
"""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.training.state import read_state

ROOT = Path(__file__).parents[2]
logger = logging.getLogger(__name__)

TIMEOUT = 600  # seconds; a hang would be a failure
TIMES = ("train/step_seconds", "train/data_seconds")
STEPS_PER_EPOCH = 4
PARTIAL = ".ppsolo-*.part"


class Run:
    """Processes that train together in a folder, and what they leave there."""

    def __init__(self, folder: Path, settings, endpoints):
        self.folder = folder / "tiny"
        values = {**settings, "train.output_dir": str(folder)}
        overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        script = ROOT / "scripts" / "train.py"
        self.command = [sys.executable, str(script), "-c", "solov2_r50_enhance_coco", "-r", "-o", *overrides]
        self.endpoints = endpoints
        self.errors = folder / "errors"

    def start(self) -> list[subprocess.Popen]:
        shared = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        master, *endpoints = self.endpoints()
        if len(endpoints) > 1:
            shared |= {
                "PADDLE_MASTER": master,
                "PADDLE_TRAINERS_NUM": str(len(endpoints)),
                "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
                "PADDLE_DISTRI_BACKEND": "gloo",
            }
        processes = []
        for rank, endpoint in enumerate(endpoints):
            own = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": endpoint}
            with open(f"{self.errors}{rank}", "w") as stream:
                processes.append(
                    subprocess.Popen(self.command, env={**shared, **own}, stdout=subprocess.DEVNULL, stderr=stream)
                )
        return processes

    def finish(self, processes) -> None:
        codes = [process.wait(timeout=TIMEOUT) for process in processes]
        assert codes == [0] * len(processes), self.said()

    def said(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.parent.glob("errors*"))]

    def states(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("*.safetensors"))

    def wait_for_checkpoints(self, processes, count: int) -> float:
        """Until `count` new ones are written -> the seconds that the last one took."""
        seconds, deadline = 0.0, time.monotonic() + TIMEOUT
        for _ in range(count):
            before, start = self.states(), time.monotonic()
            while self.states()[-1:] == before[-1:]:
                assert time.monotonic() < deadline and all(p.poll() is None for p in processes), self.said()
                time.sleep(0.001)
            seconds = time.monotonic() - start
        return seconds

    def wait_for_a_save(self, processes) -> None:
        """Until a file is being written."""
        deadline = time.monotonic() + TIMEOUT
        while not list(self.folder.rglob(PARTIAL)):
            assert time.monotonic() < deadline and all(p.poll() is None for p in processes), self.said()

    def kill(self, processes) -> None:
        """Kill one; the others are to end by themselves."""
        victim = random.choice(processes)
        victim.send_signal(signal.SIGKILL)
        codes = [process.wait(timeout=TIMEOUT) for process in processes]
        assert victim.returncode == -signal.SIGKILL, "the run ended before it was killed"
        assert 0 not in codes, self.said()

    def check_files(self) -> None:
        """Whatever has the name of a state or of weights is whole."""
        for path in self.states():
            assert read_state(path).record["step"] == int(path.stem)
        for path in self.folder.glob("*.pdparams"):
            read_checkpoint(path)

    def curve(self) -> list[dict]:
        records = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
        return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("count", "usual"), [(1, 3), (2, 1)])
def test_killed_at_random_moments(training, tmp_path, free_endpoints, count, usual):
    kills = int(os.environ.get("PPSOLO_KILLS", usual))
    settings = {
        **training,
        "train.batch_size": 2 // count,
        "train.epochs": 2 * kills + 1,
        "train.evaluate_every": 1,
        "train.checkpoint_steps": 1,
        "train.keep_checkpoints": 3,
        "train.pictures": 0,
        "train.log_every": 3,
        "train.schedule.milestones": [kills],
    }
    alone, killed = (Run(tmp_path / name, settings, lambda: free_endpoints(count + 1)) for name in ("alone", "killed"))
    for run in (alone, killed):
        run.folder.mkdir(parents=True)
    alone.finish(alone.start())
    during_a_save = 0
    for _ in range(kills):
        # Two to five of the eight steps that there are for each kill, and up to two more.
        processes = killed.start()
        seconds = killed.wait_for_checkpoints(processes, random.randint(2, 5))
        if random.random() < 0.5:
            time.sleep(random.uniform(0, 2 * seconds))
        else:
            killed.wait_for_a_save(processes)
        killed.kill(processes)
        killed.check_files()
        during_a_save += bool(list(killed.folder.rglob(PARTIAL)))
    killed.finish(killed.start())
    logger.info("%d kills of %d processes, %d during a save", kills, count, during_a_save)
    assert killed.curve() == alone.curve() and len(alone.curve()) > 2 * kills
    for name in ("last.pdparams", "best.pdparams"):
        assert same(read_checkpoint(alone.folder / name), read_checkpoint(killed.folder / name))
    ours, theirs = read_state(killed.states()[-1]), read_state(alone.states()[-1])
    record, own = dict(theirs.record), dict(ours.record)
    for each in (record, own):
        each.pop("config")  # has the folder
    assert own == record and own["step"] == STEPS_PER_EPOCH * (2 * kills + 1)
    assert all(same(ours.arrays[group], theirs.arrays[group]) for group in ours.arrays.keys() | theirs.arrays.keys())
    assert not list(killed.folder.rglob(PARTIAL))
