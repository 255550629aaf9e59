"""Bulk runs of `ppsolo infer`: results part by part, with --resume and --shard."""

import argparse
import os
import re
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ppsolo.cli.shared import INTERRUPTED, OK, SOME_FAILED, TERMINATED, check_number, say, say_error
from ppsolo.cpu import available_cores
from ppsolo.errors import ConfigError
from ppsolo.outputs import check_output_folder
from ppsolo.processes import launched
from ppsolo.text import counted

if TYPE_CHECKING:
    from ppsolo.bulk.manifest import Shard
    from ppsolo.pipeline import Pipeline

MOST_NAMED = 10  # left-out files of a folder that are listed
LONGEST_LINE = 2**16  # letters; no path is so long


def add_bulk(command: argparse.ArgumentParser) -> None:
    """Add the flags of bulk runs."""
    group = command.add_argument_group("bulk runs, for many pictures")
    group.add_argument(
        "--results",
        choices=("jsonl", "parquet"),
        help="write results part by part, without drawings; each part appears whole; `ppsolo merge` joins them",
    )
    group.add_argument("--resume", action="store_true", help="resume the run in --output_dir")
    group.add_argument(
        "--shard", metavar="I/N", help="predict on share I of N of the list; the launcher sets it for each process"
    )
    group.add_argument(
        "--part_size", type=int, default=1000, metavar="N", help="pictures per part, default: %(default)s"
    )


def check_bulk(options: argparse.Namespace) -> None:
    """Refuse flags of bulk runs without --results, and invalid values."""
    if options.results is None and (options.resume or options.shard):
        raise ConfigError("--resume and --shard are for bulk runs: add --results jsonl")
    check_number(options, "part_size", least=1)
    if options.results is not None and (options.save or options.save_results):
        raise ConfigError("--results writes JSON lines or Parquet: omit --save and --save_results, or --results")
    if options.results is not None and options.save_threshold > 0:
        raise ConfigError("--results keeps every instance: omit --save_threshold, set -o postprocess.update_threshold")


class BulkInput(NamedTuple):
    """The pictures of a bulk run, one after another (the list is never in memory); lines on left-out files; notes."""

    paths: Iterator[str]
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()


def bulk_input(options: argparse.Namespace) -> BulkInput:
    """Return the pictures. Refuse a wrong list and a wrong --output_dir, before the model is loaded."""
    from ppsolo.bulk.manifest import check_manifests

    check_output_folder(options.output_dir, "--output_dir")
    check_manifests(Path(options.output_dir), shard_of(options), resume=options.resume)
    return _paths(options)


def shard_of(options: argparse.Namespace) -> "Shard":
    """Return this process's share: --shard, else the launcher's. Raises ConfigError."""
    from ppsolo.bulk.manifest import Shard

    if options.shard is None:
        place = launched()
        return Shard(place.rank, place.world_size)
    found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", options.shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard is {options.shard}: give I/N, such as 3/8, with I from 1 to N")
    return Shard(int(found[1]) - 1, int(found[2]))


def threads_of(options: argparse.Namespace) -> int | None:
    """Return this process's share of the cores if the launcher started several here; None: the default."""
    local = launched().local_size
    return max(1, available_cores() // local) if options.shard is None and local > 1 else None


def run_bulk_command(predictor: "Pipeline", pictures: BulkInput, options: argparse.Namespace) -> int:
    """Predict on the pictures, report the result, and return the exit code."""
    from ppsolo.bulk.run import run_bulk
    from ppsolo.progress import ProgressBar

    paths, left_out, notes = pictures
    stopper = _Stopper()
    with stopper, ProgressBar("predict") as progress:
        summary = run_bulk(
            predictor,
            paths,
            Path(options.output_dir),
            format=options.results,
            shard=shard_of(options),
            resume=options.resume,
            batch_size=options.batch_size,
            part_pictures=options.part_size,
            stop=stopper.asked,
            progress=progress.update,
        )
    for line in summary.examples:
        say_error(line)
    if summary.failures > len(summary.examples):
        say_error(f"{summary.failures - len(summary.examples)} more pictures cannot be read: see failures-*.jsonl")
    for line in notes:
        say(line)
    for line in left_out[:MOST_NAMED]:
        say_error(line)
    if left_out:
        say_error(f"{counted(len(left_out), 'file')} left out")
    before = f"; {summary.skipped} were already done" if summary.skipped else ""
    found = f"{counted(summary.instances, 'instance')} in {counted(summary.pictures, 'picture')}"
    say(f"{found}, in {options.output_dir}{before}")
    if summary.stopped:
        say_error("stopped after a batch, nothing is lost: add --resume to the same command to continue")
        return TERMINATED if stopper.number == signal.SIGTERM else INTERRUPTED
    if not (summary.failures or left_out):
        return OK
    if options.shard is None and launched().world_size > 1:
        say("the exit code is 0 all the same: at another one, the launcher would stop the other processes")
        return OK
    return SOME_FAILED


class _Stopper:
    """Notes Ctrl-C and SIGTERM inside the block; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def asked(self) -> bool:
        """Whether to stop."""
        return self.number is not None

    def __enter__(self) -> "_Stopper":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


def _paths(options: argparse.Namespace) -> BulkInput:
    from ppsolo.data.files import find_images
    from ppsolo.data.sources import LIST_SUFFIXES

    source = options.infer_list or options.source or options.infer_img or options.infer_dir
    if source == "-":
        return BulkInput(_lines(sys.stdin, options.infer_dir, "standard input"))
    if options.infer_list or (Path(source).suffix.lower() in LIST_SUFFIXES and Path(source).is_file()):
        return BulkInput(_list(Path(source), options.infer_dir))
    if Path(source).is_dir():
        found = find_images(source)
        return BulkInput(iter([str(path) for path in found.images]), found.left_out, found.notes)
    raise ConfigError(f"{source}: --results takes a folder, a list file (--infer_list), or - for standard input")


def _list(path: Path, folder: str | None) -> Iterator[str]:
    try:
        stream = path.open(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a file with one path per line") from None

    def lines() -> Iterator[str]:
        with stream:
            yield from _lines(stream, folder, str(path))

    return lines()


def _lines(stream: TextIO, folder: str | None, name: str) -> Iterator[str]:
    """Yield the paths on the lines; folder: what they are relative to, None: use them unchanged.

    name: of the stream, for errors. Raises ConfigError if it cannot be read, or has a line that is no path, as a device
    that never ends has.
    """
    while True:
        try:
            line = stream.readline(LONGEST_LINE)
        except OSError as error:
            raise ConfigError(
                f"{name}: cannot be read ({error.strerror}); give a file with one path per line"
            ) from None
        if len(line) == LONGEST_LINE:
            raise ConfigError(f"{name}: a line has {LONGEST_LINE} letters or more; give a file with one path per line")
        if not line:
            return
        if path := line.rstrip("\r\n"):
            yield path if folder is None else os.path.join(folder, path)
