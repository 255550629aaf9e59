"""Measures bulk runs: memory over a long list, several processes, shards, and kills at random moments.

- memory: a list of small pictures that repeat, and a stand-in for the predictor, which answers at once without a
  network. It decodes each picture once; with --decode, at every line. Parts and the manifest are written as always.
- processes: one shard alone and all shards at once, in turn. Each process has a core of its own.
- shards: the lines of all shards against those of one run, sorted.
- kills: runs that signals hit at random moments, resumed until they end, against a run that nothing hits.

All but the first predict with the ONNX export of a very small system with random weights.

examples:
  nice -n 19 python scripts/benchmark_bulk.py
  python scripts/benchmark_bulk.py --figures kills --kills 20 --seed 1
"""

import argparse
import functools
import itertools
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from small_system import CONFIG, SYSTEM, write_weights

import ppsolo
from ppsolo.bulk.manifest import Shard, manifest_path, read_manifest
from ppsolo.bulk.merge import merge
from ppsolo.bulk.run import run_bulk
from ppsolo.cpu import available_cores
from ppsolo.data.images import write_image
from ppsolo.pipeline import Key, Pipeline
from ppsolo.results.instances import Instances
from ppsolo.results.postprocess import DetectionArrays

ROOT = Path(__file__).resolve().parents[1]
PICTURES = 8  # different ones; lists repeat them
SAMPLES = 10  # of the memory
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMEOUT = 600.0


class AnswersAtOnce(Pipeline):
    """Gives every picture the same instance, without a network. decode: at every reading, not only at the first."""

    def __init__(self, *, decode: bool) -> None:
        super().__init__(ppsolo.load_config(CONFIG, SYSTEM), description="no network", origin="no weights")
        size = self.prepare(np.zeros((32, 32, 3), np.uint8)).size
        one, mask = np.ones(1, np.int64), np.ones((1, size.padded[0] // 4, size.padded[1] // 4), np.float32)
        self.read = self.read if decode else functools.cache(self.read)
        self._instances = self.finish(DetectionArrays(np.full(1, 0.5, np.float32), one, mask, one), size)

    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """Is not called."""
        raise NotImplementedError

    def stream(
        self, batches: Iterable[Sequence[tuple[Key, np.ndarray]]]
    ) -> Iterator[list[tuple[Key, np.ndarray, Instances]]]:
        """See `Pipeline.stream`."""
        for batch in batches:
            yield [(key, image, self._instances) for key, image in batch]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def draw_pictures(folder: Path) -> list[str]:
    """Write small pictures; return their paths."""
    paths = [str(folder / f"{number}.png") for number in range(PICTURES)]
    for number, path in enumerate(paths):
        write_image(path, np.random.default_rng(number).integers(0, 256, (32, 32 + number, 3), np.uint8))
    return paths


def write_list(file: Path, paths: Sequence[str], count: int) -> Path:
    with file.open("w") as stream:
        stream.writelines(f"{path}\n" for path in itertools.islice(itertools.cycle(paths), count))
    return file


def memory_used() -> float:
    """Return the memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory(paths: Sequence[str], folder: Path, count: int, *, decode: bool) -> float:
    """Print the memory during a run over `count` paths; return its growth after the first tenth, in MB."""
    step, samples = max(1, count // SAMPLES), []

    def sample(done: int, total: int | None) -> None:
        if done % step == 0:
            samples.append(memory_used())

    listed = write_list(folder / "long.txt", paths, count)
    start, cpu = time.perf_counter(), time.process_time()
    with listed.open() as stream:
        lines = (line.rstrip("\n") for line in stream)
        summary = run_bulk(AnswersAtOnce(decode=decode), lines, folder / "long", progress=sample)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert (summary.pictures, summary.failures) == (count, 0), summary
    say(f"memory: {count} paths in {seconds:.0f} s, {cpu:.0f} s of CPU")
    say(f"memory: MB after each {step} pictures: {', '.join(f'{one:.1f}' for one in samples)}")
    growth = max(samples) - samples[0]
    say(f"memory: {growth:.1f} MB more than after the first {step}")
    return growth


def export(folder: Path) -> Path:
    """Export a very small system with random weights as ONNX; return the directory."""
    command = ["export", *write_weights(folder / "small.pdparams"), "--output_dir", str(folder / "export")]
    command = [sys.executable, "-m", "ppsolo", *command, "--format", "onnx", "--graph", "network"]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=TIMEOUT)
    return folder / "export"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class BulkCommand:
    """`ppsolo infer --results jsonl` on a list, with an output directory."""

    def __init__(self, model: Path, listed: Path, output: Path, *options: str):
        command = ["infer", "--model_dir", str(model), "--infer_list", str(listed), "--results", "jsonl"]
        command += ["--output_dir", str(output), *options]
        self._command = [sys.executable, "-m", "ppsolo", *command]

    def start(self, *options: str, core: int | None = None) -> "subprocess.Popen[bytes]":
        """Start it. core: the only one that it may use."""
        keep_to = None if core is None else lambda: os.sched_setaffinity(0, {core})
        return subprocess.Popen(
            [*self._command, *options],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=keep_to,
        )


def times_of(commands: Sequence[BulkCommand], cores: Sequence[int]) -> tuple[float, float]:
    """Run commands at once, each on a core -> (seconds until the last has ended, most CPU seconds of one)."""
    start = time.perf_counter()
    started = [command.start(core=core) for command, core in zip(commands, cores, strict=True)]
    used = []
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        used.append(usage.ru_utime + usage.ru_stime)
    codes = [process.returncode for process in started]
    assert not any(codes), f"exit codes {codes}"
    return time.perf_counter() - start, max(used)


def processes(model: Path, paths: Sequence[str], folder: Path, pictures: int, rounds: int) -> None:
    """Print the throughput of a process on each core, as a multiple of that of one process."""
    cores = sorted(os.sched_getaffinity(0))
    count = len(cores)
    listed = write_list(folder / "shared.txt", paths, pictures * count)
    ratios: list[tuple[float, float]] = []
    for number in range(rounds):
        shards = [
            BulkCommand(model, listed, folder / f"{word}-{number}", "--shard", f"{index + 1}/{count}")
            for word, shown in (("alone", 1), ("together", count))
            for index in range(shown)
        ]
        load = os.getloadavg()[0]
        alone, together = times_of(shards[:1], cores[:1]), times_of(shards[1:], cores)
        ratios.append((count * alone[0] / together[0], count * alone[1] / together[1]))
        say(
            f"processes: round {number + 1}, {pictures} pictures each: one {alone[0]:.2f} s ({alone[1]:.2f} s of CPU), "
            f"{count} at once {together[0]:.2f} s ({together[1]:.2f} s of CPU), load before {load:.1f}"
        )
    wall, cpu = (statistics.median(values) for values in zip(*ratios, strict=True))
    say(f"processes: {count} at once do {wall:.2f} times the work of one, by CPU time {cpu:.2f} times (medians)")


def sorted_lines(folder: Path) -> list[bytes]:
    """Return the lines of all parts in a directory, sorted."""
    return sorted(line for part in folder.glob("part-*") for line in part.read_bytes().splitlines())


def shards(model: Path, paths: Sequence[str], folder: Path, pictures: int, count: int) -> None:
    """Compare the lines of `count` shards with those of one run. Raises AssertionError if they differ."""
    predictor = ppsolo.load(model, threads=1)
    listed = list(itertools.islice(itertools.cycle(paths), pictures))
    run_bulk(predictor, listed, folder / "one", part_pictures=100)
    for index in range(count):
        run_bulk(predictor, listed, folder / "shards", shard=Shard(index, count), part_pictures=100)
    whole, joined = sorted_lines(folder / "one"), sorted_lines(folder / "shards")
    assert whole and whole == joined, "the lines differ"
    say(f"shards: {len(whole)} lines of {pictures} pictures; {count} shards give the same bytes after sorting")


def strike(process: "subprocess.Popen[bytes]", number: int, seconds: float) -> bool:
    """Send a signal after some seconds; return whether it ended the process."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    code = process.wait(timeout=TIMEOUT)
    assert code in (0, -number, 128 + number), f"exit code {code}"
    return code != 0


def finished_pictures(output: Path) -> int:
    """Return the number of finished pictures in a directory."""
    path = manifest_path(output, Shard())
    return read_manifest(path).pictures if path.exists() else 0


def kills(model: Path, paths: Sequence[str], folder: Path, pictures: int, wanted: int, seed: int) -> None:
    """Kill runs at random moments and resume them. Raises AssertionError if a merged result differs."""
    chance = random.Random(seed)
    listed = write_list(folder / "killed.txt", paths, pictures)
    part = ("--part_size", str(max(1, pictures // 20)))
    began = time.monotonic()
    assert BulkCommand(model, listed, folder / "whole", *part).start().wait(timeout=TIMEOUT) == 0
    seconds = time.monotonic() - began
    merge([folder / "whole"], folder / "whole.jsonl")
    whole = (folder / "whole.jsonl").read_bytes()
    counts, done, late, runs = dict.fromkeys(SIGNALS, 0), 0, 0, 0
    while done < wanted:
        runs += 1
        output = folder / f"run-{runs}"
        command = BulkCommand(model, listed, output, *part)
        ended = False
        while not ended and done < wanted:
            number = SIGNALS[done % len(SIGNALS)]
            before = finished_pictures(output)
            ended = not strike(command.start("--resume"), number, chance.uniform(0, seconds))
            if not ended:
                counts[number] += 1
                done += 1
                late += finished_pictures(output) > before
        assert command.start("--resume").wait(timeout=TIMEOUT) == 0
        merge([output], folder / f"run-{runs}.jsonl")
        assert (folder / f"run-{runs}.jsonl").read_bytes() == whole, f"run {runs} differs"
    named = ", ".join(f"{count} {number.name}" for number, count in counts.items())
    say(f"kills: {done} ({named}) in {runs} runs of {pictures} pictures, each {seconds:.1f} s if nothing hits it")
    say(f"kills: {late} came after the start had finished a part; no line is lost or doubled")


FIGURES = ("memory", "processes", "shards", "kills")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=FIGURES, help="default: all")
    parser.add_argument("--paths", type=int, default=1_000_000, metavar="N", help="for memory, default: %(default)s")
    parser.add_argument("--decode", action="store_true", help="decode the picture of every path")
    parser.add_argument(
        "--pictures", type=int, default=2000, metavar="N", help="of each process or run, default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of processes, default: %(default)s")
    parser.add_argument("--shards", type=int, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments, default: %(default)s")
    options = parser.parse_args(arguments)
    say(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = draw_pictures(folder)
        if "memory" in options.figures:
            memory(paths, folder, options.paths, decode=options.decode)
        if not {"processes", "shards", "kills"} & set(options.figures):
            return
        model = export(folder)
        if "processes" in options.figures:
            processes(model, paths, folder, options.pictures, options.rounds)
        if "shards" in options.figures:
            shards(model, paths, folder, options.pictures, options.shards)
        if "kills" in options.figures:
            kills(model, paths, folder, options.pictures, options.kills, options.seed)


if __name__ == "__main__":
    main()
