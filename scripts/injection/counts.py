"""Options, counts and the record of the scripts that inject faults."""

import argparse
import datetime
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from injection.disks import READ_ONLY, can_mount


@dataclass(frozen=True)
class Outcome:
    """How often each fault was injected into one thing, and a line for each time that it did harm."""

    counts: Mapping[str, int]
    harm: Sequence[str]


def before_the_start(said: str) -> bool:
    """Whether a command was ended before its own code began: a signal then has its default effect, or Python's."""
    return "ppsolo: " not in said and "ppsolo/__main__" not in said


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
    """Write rows to the table of a script in tests/RELIABILITY.md, in the section of this version of Paddle.

    Other rows stay if they have the same columns.
    """
    from paddle.version import full_version
    from reliability import record, recorded, recorded_rows

    section = f"{script}, Paddle {full_version}"
    faults = list(dict.fromkeys(fault for outcome in results.values() for fault in outcome.counts))
    head = f"| | {' | '.join(faults)} | did harm | date |"
    rows: dict[str, str] = {}
    lines = recorded(section)
    harm: list[str] = []
    if head in lines:
        rows = {what: row for (what,), row in recorded_rows(section, 1).items()}
        harm = [line for line in lines if line.startswith("- ") and line[2:].split(",")[0] not in results]
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    for what, outcome in results.items():
        counts = " | ".join(str(outcome.counts.get(fault, "")) for fault in faults)
        rows[what] = f"| {what} | {counts} | {len(outcome.harm)} | {today} |"
        harm += [f"- {line.splitlines()[0]}" for line in outcome.harm]
    disk = "a file system of its own in memory" if can_mount() else "a limit on the size of files"
    said = f"How often each fault was injected, and how many did harm. The full disk is {disk}."
    record(section, [said, "", head, "|---" * (len(faults) + 3) + "|", *rows.values(), *harm])
