"""Fuzzes the readers of ppsolo: random changes of good inputs must give a result or an error of one line."""

import argparse
import base64
import datetime
import json
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from fuzzing import TARGETS
from fuzzing.changes import LONGEST_INPUT, changed
from fuzzing.target import Target

from ppsolo.errors import PpsoloError

SLOWEST = 2.0  # CPU seconds for one input, which do not depend on the load
# Seconds of the processor, and of waiting: a process that takes more for one input is ended, and its parent has it.
LONGEST_WORK, LONGEST_WAIT = 20.0, 600
MOST_MEMORY = 2 << 30  # bytes that one process may allocate in addition to its start
SEEDS = Path(__file__).parents[1] / "tests" / "fuzz"
NO_MEMORY = ("memory", "allocate")  # words of an error that says that more than MOST_MEMORY was asked for
MEMORY = Path("/dev/shm")  # a folder in memory, where it exists: files are written by the thousand
HEAD = ("| target | changes | executions | seconds | slowest, s | findings | date |", "|---|---|---|---|---|---|---|")


def main() -> int:
    options = _options()
    if options.child:
        return _fuzz_here(options)
    names = options.targets or list(TARGETS)
    results = {name: _fuzz_in_child(name, options) for name in names}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if options.record:
        _record(results, "guided" if options.coverage else "random")
    return 1 if any(result["findings"] for result in results.values()) else 0


def _record(results: dict[str, dict[str, Any]], changes: str) -> None:
    """Write a row per target to the page; rows of other targets stay."""
    from reliability import record, recorded_rows

    rows = {key: row for key, row in recorded_rows("fuzz.py", 2).items() if key[0] in TARGETS}
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    for name, result in results.items():
        figures = " | ".join(f"{result[key]:,}" for key in ("executions", "seconds", "slowest"))
        rows[name, changes] = f"| {name} | {changes} | {figures} | {len(result['findings'])} | {today} |"
    order = list(TARGETS)
    record("fuzz.py", [*HEAD, *(rows[key] for key in sorted(rows, key=lambda key: (order.index(key[0]), key[1])))])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=900.0, metavar="S", help="per target, default: %(default)s")
    parser.add_argument(
        "--executions", type=int, default=1_000_000, metavar="N", help="largest number per target, default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the random changes, default: %(default)s"
    )
    parser.add_argument("--coverage", action="store_true", help="let atheris guide the changes (pip install atheris)")
    parser.add_argument("--record", action="store_true", help="write the figures to tests/RELIABILITY.md")
    parser.add_argument("--child", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"unknown target {unknown[0]}; known are {', '.join(TARGETS)}")
    return options


def _fuzz_in_child(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one target in its own process; a crash or a hang is a finding."""
    with tempfile.TemporaryDirectory(prefix="ppsolo-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        current = Path(folder, "input")
        current.write_bytes(bytes(LONGEST_INPUT + 8))
        command = [sys.executable, __file__, name, "--child", str(current), "--seed", str(options.seed)]
        command += ["--seconds", str(options.seconds), "--executions", str(options.executions)]
        command += ["--coverage"] if options.coverage else []
        environment = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8", **os.environ}
        child = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
        )
        result_file = current.with_suffix(".json")
        empty = {"executions": 0, "seconds": 0.0, "slowest": 0.0, "findings": []}
        result = json.loads(result_file.read_text()) if result_file.exists() else empty
        if child.returncode != 0:
            content = current.read_bytes()
            data = content[8 : 8 + int.from_bytes(content[:8], "little")]
            reason = f"the process ended with {child.returncode}: {child.stderr[-500:]}"
            result["findings"].append({"error": reason, "input": base64.b64encode(data[:5000]).decode()})
    return result


def _fuzz_here(options: argparse.Namespace) -> int:
    (name,) = options.targets
    warnings.simplefilter("ignore")
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, resource.RLIM_INFINITY))
    with Path(options.child).open("r+b") as file, mmap.mmap(file.fileno(), 0) as current:
        run = Run(TARGETS[name], current, Path(options.child))
        if options.coverage:
            run.with_atheris(options)
        else:
            run.with_random_changes(options)
    return 0


class Run:
    """The executions of one target, and the findings."""

    def __init__(self, target: Target, current: mmap.mmap, place: Path):
        self._target = target
        self._current = current
        self._place = place
        self._folder = Path(tempfile.mkdtemp(dir=place.parent))
        self._started = time.monotonic()
        self._executions, self._slowest = 0, 0.0
        self._findings: dict[str, dict[str, str]] = {}

    def execute(self, data: bytes) -> None:
        """Try one input: everything except a result or a PpsoloError within `SLOWEST` is a finding."""
        data = data[:LONGEST_INPUT]
        self._current[: 8 + len(data)] = len(data).to_bytes(8, "little") + data
        signal.setitimer(signal.ITIMER_PROF, LONGEST_WORK)
        signal.alarm(LONGEST_WAIT)
        started = time.process_time()
        try:
            self._target.run(data, self._folder)
        except PpsoloError as error:
            if not str(error).isprintable():
                self._find("an error of several lines", data)
            if any(word in str(error) for word in NO_MEMORY):
                self._find(f"asked for more memory than {MOST_MEMORY >> 30} GiB: {error}", data)
        except Exception:
            self._find("".join(traceback.format_exc().splitlines(keepends=True)[-3:]), data)
        seconds = time.process_time() - started
        self._slowest = max(self._slowest, seconds)
        if seconds > SLOWEST:
            self._find(f"took more than {SLOWEST} s", data)
        self._executions += 1
        if self._executions % 200 == 0:
            self.write()

    def with_random_changes(self, options: argparse.Namespace) -> None:
        """Change the seeds, and inputs that were changed before, until the time is over."""
        chance = random.Random(options.seed)
        pool = [*self._target.seeds(), *stored_seeds(options.targets[0])]
        for seed in pool:
            self.execute(seed)
        while self._executions < options.executions and time.monotonic() - self._started < options.seconds:
            data = changed(chance.choice(pool), chance, pool)
            self.execute(data)
            if chance.random() < 0.01:
                pool.append(data)
                del pool[200:-50]
        self.write()

    def with_atheris(self, options: argparse.Namespace) -> None:
        """Make changes that reach code not yet run."""
        import atheris

        corpus = self._folder / "corpus"
        corpus.mkdir()
        # Targets import what they need when they run.
        with atheris.instrument_imports(include=["ppsolo"]):  # type: ignore[attr-defined]  # its stubs lack it
            for number, seed in enumerate([*self._target.seeds(), *stored_seeds(options.targets[0])]):
                (corpus / str(number)).write_bytes(seed)
                self.execute(seed)
        arguments = [sys.argv[0], str(corpus), f"-max_total_time={int(options.seconds)}", f"-runs={options.executions}"]
        arguments += ["-rss_limit_mb=0", f"-max_len={LONGEST_INPUT}", f"-seed={options.seed + 1}"]
        arguments += ["-verbosity=0", "-handle_alrm=0"]
        atheris.Setup(arguments, self.execute)
        atheris.Fuzz()

    def write(self) -> None:
        """Write the current figures, for the parent."""
        result = {
            "executions": self._executions,
            "seconds": round(time.monotonic() - self._started, 1),
            "slowest": round(self._slowest, 3),
            "findings": list(self._findings.values())[:20],
        }
        self._place.with_suffix(".json").write_text(json.dumps(result))

    def _find(self, error: str, data: bytes) -> None:
        if error not in self._findings:
            self._findings[error] = {"error": error, "input": base64.b64encode(data[:5000]).decode()}
            self.write()


def stop_clocks() -> None:
    """Let the process live on after its last input."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)


def stored_seeds(name: str) -> list[bytes]:
    """Return inputs that failed before, in tests/fuzz/NAME."""
    return [file.read_bytes() for file in sorted((SEEDS / name).glob("*"))]


if __name__ == "__main__":
    sys.exit(main())
