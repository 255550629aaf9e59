"""Injects faults into training at random moments and counts them: no finished file is lost, and a resume succeeds.

    python scripts/faults_training.py --times 5 --report faults.json

Each fault hits a small run on drawn pictures. After it, every training state and every weights file must be whole, the
run must have ended properly (exit code, one line), and `-r auto` must resume it. In the end the run must equal an
undisturbed run bit for bit. A file-size limit replaces a full disk.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from small_system import CONFIG, NETWORK, overrides

from ppsolo.atomic import atomic_writer
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.data.synthetic import draw_dataset
from ppsolo.training.state import read_state

ROOT = Path(__file__).resolve().parents[1]
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
LIMITED = (
    "import resource, sys; from ppsolo.cli import main; "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY)); "
    "sys.exit(main(sys.argv[2:]))"
)


class Faulty:
    """A run in its own folder that is hit by a fault, checked and resumed.

    processes: 1, or more with Paddle's launcher.
    """

    def __init__(self, folder: Path, data: Path, *, processes: int = 1):
        self.folder, self.run, self.processes = folder, folder / "run", processes
        folder.mkdir(parents=True)
        values = {**SMALL, "name": "run", "train.output_dir": str(folder), "data.root": str(data)}
        values["train.batch_size"] = 2 // processes
        self.arguments = ["train", "-c", CONFIG, "-r", "auto", "-o", *overrides(values)]
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(self) -> "subprocess.Popen[str]":
        """Start or resume the run; its output goes to the file `said`."""
        command = [sys.executable, "-m", "ppsolo", *self.arguments]
        if self.processes > 1:
            script = self.folder / "train.py"
            script.write_text("import sys\n\nfrom ppsolo.cli import main\n\nsys.exit(main())\n")
            launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(self.processes)]
            command = [*launcher, "--log_dir", str(self.folder / "log"), str(script), *self.arguments]
        return self.run_command(command)

    def run_command(self, command: list[str]) -> "subprocess.Popen[str]":
        with (self.folder / "said").open("w") as stream:
            return subprocess.Popen(
                command,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def said(self) -> str:
        return "".join(path.read_text() for path in [self.folder / "said", *self.folder.glob("log/workerlog.*")])

    def states(self) -> list[Path]:
        return sorted((self.run / "checkpoints").glob("*.safetensors"))

    def wait_for_step(self, process: "subprocess.Popen[str]") -> None:
        """Wait until a new state is written, and a random moment longer."""
        before, deadline = self.states()[-1:], time.monotonic() + TIMEOUT
        while self.states()[-1:] == before:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no step was made, exit code {process.returncode}: {self.said()[-500:]}")
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.5))

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
            if str(self.folder / "train.py") in command and "distributed.launch" not in command:
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
    if run.states() and random.random() < 0.3:
        time.sleep(random.uniform(0, 5))  # may be before the first step
    else:
        run.wait_for_step(process)
    process.send_signal(number)
    code = process.wait(timeout=TIMEOUT)
    expected = -number if number == signal.SIGKILL else 128 + number
    if code == 0:
        return  # it had already finished
    # While Python starts, SIGTERM has its default effect, and nothing is lost.
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
    os.kill(random.choice(run.ranks()), signal.SIGKILL)
    process.wait(timeout=TIMEOUT)
    _wait_until_gone(run)


def stop_rank(run: Faulty) -> None:
    """Pause a rank: the others wait, and continue when it does."""
    process = run.start()
    run.wait_for_step(process)
    rank = random.choice(run.ranks())
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
        [sys.executable, "-m", "ppsolo", *run.arguments], env=run.environment, capture_output=True, text=True
    )
    assert process.poll() is not None or (other.returncode == 2 and "is in use by process" in other.stderr), other
    process.kill()
    process.wait()


def fill_disk(run: Faulty) -> None:
    """Limit files to a random size: the state before must stay."""
    kept = {path: path.read_bytes() for path in run.states()}
    largest = max((path.stat().st_size for path in kept), default=500_000)
    limit = random.randrange(largest // 10, largest)
    process = run.run_command([sys.executable, "-c", LIMITED, str(limit), *run.arguments])
    assert process.wait(timeout=TIMEOUT) in (0, 2), run.said()[-1000:]
    assert "Traceback" not in run.said(), run.said()[-1000:]
    assert all(path.read_bytes() == content for path, content in kept.items() if path.exists())


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
    "rank killed": (2, kill_rank),
    "rank stopped": (2, stop_rank),
    "launcher killed": (2, kill_launcher),
}


def main() -> int:
    """Inject each fault as often as asked; return 1 if one did harm."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--times", type=int, default=3, help="number of times for each fault, default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="these faults")
    parser.add_argument("--report", metavar="FILE", help="write the counts as JSON")
    options = parser.parse_args()
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_dataset(folder / "data", train=2 * STEPS, val=2, size=(48, 64))
        alone: dict[int, Faulty] = {}
        for number in sorted({FAULTS[fault][0] for fault in options.only}):
            alone[number] = Faulty(folder / f"alone{number}", folder / "data", processes=number)
            assert alone[number].start().wait(timeout=TIMEOUT) == 0, alone[number].said()
        for fault in options.only:
            processes, inject = FAULTS[fault]
            counts[fault] = {"injected": 0, "harmed": 0}
            run = Faulty(folder / fault.replace(" ", "_"), folder / "data", processes=processes)
            try:
                for _ in range(options.times):
                    if run.states() and int(run.states()[-1].stem) >= EPOCHS * STEPS - 4:
                        run.finish(alone[processes])
                        run = Faulty(folder / f"{run.folder.name}_", folder / "data", processes=processes)
                    counts[fault]["injected"] += 1
                    inject(run)
                    run.check()
                run.finish(alone[processes])
            except (AssertionError, subprocess.TimeoutExpired) as error:
                counts[fault]["harmed"] += 1
                sys.stderr.write(f"{fault}: {error}\n")
            sys.stdout.write(f"{fault}: {counts[fault]['injected']} injected, {counts[fault]['harmed']} did harm\n")
            sys.stdout.flush()
    if options.report is not None:
        with atomic_writer(options.report, "w") as stream:
            json.dump(counts, stream, indent=1)
    return int(any(count["harmed"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
