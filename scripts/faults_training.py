"""Injects faults into training at random moments and counts them: no finished file is lost, and a resume succeeds.

    python scripts/faults_training.py --times 10 --seconds 600 --record

A small run on drawn pictures is hit by one fault after another: with one process, and with two under Paddle's launcher.
After each fault every training state and every weights file must be whole, the run must have ended properly (exit code,
one line), and `-r auto` must resume it. In the end the run must equal an undisturbed run bit for bit. `faults.py` does
the same with the other commands, and says what the disks are.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from injection.counts import Outcome, add_options, before_the_start, inject_all, record_outcomes
from injection.disks import READ_ONLY, environment, file_system, jumping_clock, limited_disk, read_only_disk
from small_system import CONFIG, NETWORK, overrides

from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.data.synthetic import draw_dataset
from ppsolo.training.state import read_state

TIMEOUT = 300.0
EPOCHS, STEPS = 6, 4  # number of epochs, and of steps in an epoch
SMALL = {
    **NETWORK,
    "data.train_annotations": "instances_train.json",
    "data.train_images": "train",
    "data.val_annotations": "instances_val.json",
    "data.val_images": "val",
    "data.num_workers": 1,
    "train.epochs": EPOCHS,
    "train.evaluate_every": 2,
    "train.checkpoint_steps": 1,
    "train.keep_checkpoints": 3,
    "train.log_every": 1,
    "train.augment": {"short_sides": [48], "long_side": 96},
}


class Faulty:
    """A run in its own folder that is hit by faults, checked and resumed.

    processes: 1, or more with Paddle's launcher. chance: chooses the moments.
    """

    def __init__(self, folder: Path, data: Path, chance: random.Random, *, processes: int = 1):
        self.folder, self.run, self.processes, self.chance = folder, folder / "run", processes, chance
        self.beside = folder.with_name(f"{folder.name}.beside")  # what the run does not write itself
        self.prefix: list[str] = []
        self.variables: dict[str, str] = {}
        folder.mkdir()
        self.beside.mkdir()
        values = {**SMALL, "name": "run", "train.output_dir": str(folder), "data.root": str(data)}
        values["train.batch_size"] = 2 // processes
        self.arguments = ["train", "-c", CONFIG, "-r", "auto", "-o", *overrides(values)]

    def start(self) -> "subprocess.Popen[str]":
        """Start or resume the run; its output goes to the file `said`, ranks' to logs."""
        command = [sys.executable, "-m", "ppsolo", *self.arguments]
        if self.processes > 1:
            script = self.beside / "train.py"
            script.write_text("import sys\n\nfrom ppsolo.cli import main\n\nsys.exit(main())\n")
            launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(self.processes)]
            command = [*launcher, "--log_dir", str(self.beside / "log"), str(script), *self.arguments]
        with (self.beside / "said").open("w") as stream:
            self.process = subprocess.Popen(
                [*self.prefix, *command],
                env={**environment(), **self.variables},
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return self.process

    def abandon(self) -> None:
        """End every process of the run, after a fault that did harm."""
        for number in [self.process.pid, *self.ranks()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait(timeout=TIMEOUT)

    def said(self) -> str:
        files = [self.beside / "said", *self.beside.glob("log/workerlog.*")]
        return "".join(path.read_text(errors="replace") for path in files)

    def states(self) -> list[Path]:
        return sorted((self.run / "checkpoints").glob("*.safetensors"))

    def wait_for_step(self, process: "subprocess.Popen[str]") -> None:
        """Wait until a new state is written, and a random moment longer."""
        before, deadline = self.states()[-1:], time.monotonic() + TIMEOUT
        while self.states()[-1:] == before:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no step was made, exit code {process.returncode}: {self.said()[-500:]}")
            time.sleep(0.005)
        time.sleep(self.chance.uniform(0, 0.5))

    def ranks(self) -> list[int]:
        """Return the process ids of the training processes under a launcher."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            # Data workers have the same command line; their parent is a rank.
            if str(self.beside / "train.py") in command and "distributed.launch" not in command:
                found.append((int(folder.name), parent))
        ids = {number for number, _ in found}
        return [number for number, parent in found if parent not in ids]

    def check(self) -> None:
        """Check that every file with the name of a state or of weights is whole."""
        for path in self.states():
            assert read_state(path).record["step"] == int(path.stem), path
        for path in self.run.glob("*.pdparams"):
            read_checkpoint(path)

    def finish(self, alone: "Faulty") -> None:
        """Resume to the end; the result must equal that of `alone`."""
        process = self.start()
        assert process.wait(timeout=TIMEOUT) == 0, self.said()[-1000:]
        ours, theirs = (read_state(run.states()[-1]) for run in (self, alone))
        assert ours.record["step"] == theirs.record["step"] == EPOCHS * STEPS
        for group, arrays in theirs.arrays.items():
            for name, array in arrays.items():
                assert np.array_equal(array, ours.arrays[group][name]), (group, name)


def end_with_signal(run: Faulty, number: int) -> None:
    """Ctrl-C and SIGTERM end with a state and a line, SIGKILL with neither; check the shell's exit code."""
    process = run.start()
    if run.states() and run.chance.random() < 0.3:
        time.sleep(run.chance.uniform(0, 5))  # may be before the first step
    else:
        run.wait_for_step(process)
    process.send_signal(number)
    code = process.wait(timeout=TIMEOUT)
    expected = -number if number == signal.SIGKILL else 128 + number
    if code == 0 or (before_the_start(run.said()) and code in (1, -number)):
        return  # it had already finished, or not yet begun
    assert code in (expected, -number), (code, run.said()[-1000:])
    if code == 128 + number and "stopped by" in run.said():
        assert "-r auto" in run.said() or "same command" in run.said(), run.said()[-1000:]
    assert "Traceback" not in run.said() and "(External)" not in run.said(), run.said()[-1000:]


def kill_worker(run: Faulty) -> None:
    """Kill a worker, as the kernel does without memory: one line with the remedy, exit code 2."""
    process = run.start()
    run.wait_for_step(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if not children:
        process.kill()
        process.wait()
        return
    os.kill(int(children[0]), signal.SIGKILL)
    assert process.wait(timeout=TIMEOUT) in (0, 2), run.said()[-1000:]
    assert "Traceback" not in run.said(), run.said()[-1000:]


def kill_rank(run: Faulty) -> None:
    """Kill a rank: the others must not continue alone."""
    process = run.start()
    run.wait_for_step(process)
    os.kill(run.chance.choice(run.ranks()), signal.SIGKILL)
    process.wait(timeout=TIMEOUT)
    _wait_until_gone(run)


def stop_rank(run: Faulty) -> None:
    """Pause a rank: the others wait, and continue when it does."""
    process = run.start()
    run.wait_for_step(process)
    rank = run.chance.choice(run.ranks())
    os.kill(rank, signal.SIGSTOP)
    time.sleep(3)
    os.kill(rank, signal.SIGCONT)
    run.wait_for_step(process)
    process.terminate()
    process.wait(timeout=TIMEOUT)
    _wait_until_gone(run)


def kill_launcher(run: Faulty) -> None:
    """Kill the launcher: its processes must write a state and end."""
    process = run.start()
    run.wait_for_step(process)
    process.kill()
    process.wait()
    _wait_until_gone(run)
    assert "stopped because" in run.said(), run.said()[-1000:]


def cut_state(run: Faulty) -> None:
    """Cut the newest state at each twentieth of its length: it must be skipped."""
    end_with_signal(run, signal.SIGTERM)
    newest = run.states()[-1]
    content = newest.read_bytes()
    for part in range(20):
        newest.write_bytes(content[: len(content) * part // 20])
        try:
            read_state(newest)
        except Exception as error:
            assert "ppsolo" in type(error).__module__, repr(error)
        else:
            raise AssertionError(f"{newest} cut at {part}/20 was read")
    process = run.start()
    run.wait_for_step(process)
    process.kill()
    process.wait()
    assert "skipped a broken checkpoint" in run.said(), run.said()[-1000:]


def start_twice(run: Faulty) -> None:
    """Start twice in the directory: the second run is refused, the first continues."""
    process = run.start()
    run.wait_for_step(process)
    other = subprocess.run(
        [sys.executable, "-m", "ppsolo", *run.arguments], env=environment(), capture_output=True, text=True
    )
    if other.returncode == 0:  # it came to the directory when the first run had just ended
        assert process.wait(timeout=TIMEOUT) == 0, run.said()[-1000:]
    else:
        assert other.returncode == 2 and "is in use by process" in other.stderr, other
    process.kill()
    process.wait()


def fill_disk(run: Faulty) -> None:
    """Leave a random room on the disk: the states before must stay whole, and the run ends with a line."""
    kept = {path: path.read_bytes() for path in run.states()}
    largest = max((path.stat().st_size for path in kept), default=500_000)
    with limited_disk(run.folder, run.chance.randrange(8192, 4 * largest)) as run.prefix:
        code = run.start().wait(timeout=TIMEOUT)
    run.prefix = []
    assert code in (0, 2), (code, run.said()[-1000:])
    assert "Traceback" not in run.said(), run.said()[-2000:]
    assert code == 0 or "ppsolo: error: " in run.said(), run.said()[-300:]
    assert all(path.read_bytes() == content for path, content in kept.items() if path.exists())


def forbid_writing(run: Faulty) -> None:
    """Start on a disk that is read-only: one line, exit code 2."""
    with read_only_disk(run.folder):
        code = run.start().wait(timeout=TIMEOUT)
    assert code == 2 and "ppsolo: error: " in run.said(), (code, run.said()[-1000:])
    assert "Traceback" not in run.said(), run.said()[-2000:]


def move_clock(run: Faulty) -> None:
    """Let every reading of the clock give another month; it must have no effect."""
    run.variables = jumping_clock(run.beside / "clock")
    end_with_signal(run, signal.SIGTERM)
    run.variables = {}


def _wait_until_gone(run: Faulty) -> None:
    deadline = time.monotonic() + TIMEOUT
    while run.ranks():
        assert time.monotonic() < deadline, "training processes were left behind"
        time.sleep(0.1)


def _with(number: int) -> Callable[[Faulty], None]:
    return lambda run: end_with_signal(run, number)


FAULTS: dict[str, tuple[int, Callable[[Faulty], None]]] = {
    "SIGKILL": (1, _with(signal.SIGKILL)),
    "SIGTERM": (1, _with(signal.SIGTERM)),
    "SIGINT": (1, _with(signal.SIGINT)),
    "worker killed": (1, kill_worker),
    "state cut at each twentieth": (1, cut_state),
    "two runs in one directory": (1, start_twice),
    "disk full": (1, fill_disk),
    READ_ONLY: (1, forbid_writing),
    "clock that jumps": (1, move_clock),
    "rank killed": (2, kill_rank),
    "rank stopped": (2, stop_rank),
    "launcher killed": (2, kill_launcher),
}


ROWS = {"one process": 1, "two processes": 2}


class Row:
    """One row of the table: a run that goes on from fault to fault, and the next run when it is at its end."""

    def __init__(self, what: str, place: Path, options: argparse.Namespace):
        self.what, self.processes = what, ROWS[what]
        self._place, self._options = place / what.replace(" ", "_"), options
        self._data = place / "data"
        self._chance = random.Random(f"{options.seed} {what}")
        self._stack = contextlib.ExitStack()
        self._number = 0
        self._place.mkdir()
        self._alone = Faulty(self._place / "alone", self._data, self._chance, processes=self.processes)
        self._run: Faulty | None = None

    def strike_all(self) -> Outcome:
        """Inject the faults of this row as often as asked."""
        faults = [fault for fault in self._options.faults if FAULTS[fault][0] == self.processes]
        assert self._alone.start().wait(timeout=TIMEOUT) == 0, self._alone.said()
        with self._stack:
            found = inject_all(
                self.what, faults, self._inject, times=self._options.times, seconds=self._options.seconds
            )
            harm = list(found.harm)
            try:
                self._finish()
            except (AssertionError, subprocess.SubprocessError) as error:
                harm.append(f"{self.what}, the end: {error}")
                sys.stderr.write(f"{harm[-1]}\n")
        return Outcome(found.counts, harm)

    def _inject(self, fault: str, number: int) -> None:
        if self._run is not None and self._run.states() and int(self._run.states()[-1].stem) >= EPOCHS * STEPS - 4:
            self._finish()
        if self._run is None:
            self._run = Faulty(self._place / f"run{self._number}", self._data, self._chance, processes=self.processes)
            self._stack.enter_context(file_system(self._run.folder))
            self._number += 1
        try:
            FAULTS[fault][1](self._run)
            self._run.check()
        except (AssertionError, subprocess.SubprocessError):
            self._run.abandon()
            self._run = None  # the next fault hits a new run
            raise

    def _finish(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(self._alone)
        self._stack.close()


def main() -> int:
    """Inject each fault as often as asked; return 1 if one did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, list(FAULTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ppsolo-faults-") as name, ThreadPoolExecutor(options.jobs) as jobs:
        place = Path(name)
        draw_dataset(place / "data", train=2 * STEPS, val=2, size=(48, 64))
        wanted = {FAULTS[fault][0] for fault in options.faults}
        rows = [Row(what, place, options) for what, processes in ROWS.items() if processes in wanted]
        results = {row.what: found for row, found in zip(rows, jobs.map(Row.strike_all, rows), strict=True)}
    if options.record:
        record_outcomes("faults_training.py", results)
    return int(any(outcome.harm for outcome in results.values()))


if __name__ == "__main__":
    sys.exit(main())
