"""What the scripts that inject faults share: disks of their own, a clock that jumps, options, counts, the record."""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOM = "256m"  # size of a file system that is large enough
READ_ONLY = "read-only disk"
JUMPING_CLOCK = """
import random, time
real, chance = time.time, random.Random(0)
time.time = lambda: real() + chance.uniform(-1e7, 1e7)
"""


@dataclass(frozen=True)
class Outcome:
    """How often each fault was injected into one thing, and a line for each time that it did harm."""

    counts: Mapping[str, int]
    harm: Sequence[str]


def environment() -> dict[str, str]:
    """Return the variables of a command under test."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "no_proxy": "*"}


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def file_system(folder: Path) -> Iterator[None]:
    """Mount a file system in memory at `folder` while the block runs, if allowed."""
    if not can_mount():
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def limited_disk(folder: Path, room: int) -> Iterator[list[str]]:
    """Leave so many bytes on the disk of `folder` while the block runs; yield what goes before a command.

    Without a file system of its own, the command gets a limit on the size of files instead, a twentieth of the room.
    """
    if can_mount():
        held = sum(path.stat().st_size + 4096 for path in folder.rglob("*") if path.is_file())
        _mount(f"remount,size={held + room}", folder)
        try:
            yield []
        finally:
            _mount(f"remount,size={ROOM}", folder)
    else:
        yield ["bash", "-c", f'ulimit -f {max(1, room // 20480)}; exec "$@"', "bash"]


@contextlib.contextmanager
def read_only_disk(folder: Path) -> Iterator[None]:
    """Forbid writing to the file system of `folder` while the block runs."""
    _mount("remount,ro", folder)
    try:
        yield
    finally:
        _mount("remount,rw", folder)


def _mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-o", options, str(folder)], check=True)


def jumping_clock(site: Path) -> dict[str, str]:
    """Return variables with which each reading of the clock gives another month; `site` is made for it."""
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(JUMPING_CLOCK)
    return {"PYTHONPATH": f"{site}:{ROOT}"}


def add_options(parser: argparse.ArgumentParser, faults: Sequence[str]) -> None:
    """Add the options of every script that injects faults."""
    parser.add_argument(
        "--times", type=int, default=3, metavar="N", help="number of times for each fault, default: %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), metavar="S", help="most seconds for each row of the table"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the random moments, default: %(default)s"
    )
    parser.add_argument("--faults", nargs="+", choices=faults, default=list(faults), help="these faults")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at once, default: %(default)s")
    parser.add_argument("--record", action="store_true", help="write the counts to tests/RELIABILITY.md")


def inject_all(
    what: str, faults: Sequence[str], inject: Callable[[str, int], None], *, times: int, seconds: float
) -> Outcome:
    """Inject each fault so often, in turn, until the time is over.

    what: the row of the table. inject: called with the fault and how often it was injected before; raises
    AssertionError if the fault did harm.
    """
    counts, harm = dict.fromkeys(faults, 0), []
    end = time.monotonic() + seconds
    for number, fault in ((number, fault) for number in range(times) for fault in faults):
        if time.monotonic() > end or (fault == READ_ONLY and not can_mount()):
            continue
        counts[fault] += 1
        try:
            inject(fault, number)
        except (AssertionError, subprocess.SubprocessError) as error:
            harm.append(f"{what}, {fault}: {error}")
            sys.stderr.write(f"{harm[-1]}\n")
    sys.stdout.write(f"{what}: {counts}, {len(harm)} did harm\n")
    sys.stdout.flush()
    return Outcome(counts, harm)


def record_outcomes(script: str, results: Mapping[str, Outcome]) -> None:
    """Write the table of a script to tests/RELIABILITY.md, in the section of this version of Paddle."""
    from paddle.version import full_version
    from reliability import record

    harm = [line.splitlines()[0] for outcome in results.values() for line in outcome.harm]
    faults = list(dict.fromkeys(fault for outcome in results.values() for fault in outcome.counts))
    disk = "a file system of its own in memory" if can_mount() else "a limit on the size of files"
    lines = [f"How often each fault was injected; {len(harm)} did harm. The full disk is {disk}.", ""]
    lines += [f"| | {' | '.join(faults)} |", "|---" * (len(faults) + 1) + "|"]
    for what, outcome in results.items():
        lines.append(f"| {what} | {' | '.join(str(outcome.counts.get(fault, '')) for fault in faults)} |")
    record(f"{script}, Paddle {full_version}", [*lines, *(f"- {line}" for line in harm)])
