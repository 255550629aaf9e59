"""Time and memory of training on this machine: reading, targets and whole steps, compared with a baseline."""

import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.benchmark.machine import in_new_process, machine, matrix_product
from ppsolo.benchmark.paddledetection import (
    has_paddledetection,
    paddledetection_batches,
    paddledetection_sample,
    paddledetection_step,
    paddledetection_targets,
    without_output,
)
from ppsolo.build.training import build_dataset, build_loader
from ppsolo.config import load_config
from ppsolo.data.augment import augment
from ppsolo.data.coco import load_sample
from ppsolo.data.loader import TrainingBatch, TrainingLoader, padded_size
from ppsolo.errors import DatasetError
from ppsolo.schema import Config

READER = "PaddleDetection training reader with targets, 0 workers, batch of 2, "
STEP = "PaddleDetection training step, paddle 3.3.1, batch of 2 at about 256x320, 0 workers, "
PUBLISHED_SIZES, SMALL_SIZES = "photographs about 640 px, published sizes", "small sizes (about 256x320)"
SMALL = {"train.augment.short_sides": [256], "train.augment.long_side": 320}
NETS = {"solov2_r50_enhance_coco": "Light-R50-VD-DCN enhanced", "solov2_r50_fpn_1x_coco": "R50-FPN"}

BATCH_WARM_UP, STEP_WARM_UP = 2, 1  # runs that do not count, of ppsolo and PaddleDetection

Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One thing to measure, in its own process.

    figure: "reader", "targets" or "step". sizes: overrides of the configuration. path: the name of this measurement in
    the baseline; None if the baseline lacks it. most: the goal, as a share of the baseline's time.
    """

    figure: str
    system: str
    size: str
    sizes: Mapping[str, Any]
    threads: int
    path: str | None
    most: float | None


def cases(figures: tuple[str, ...]) -> list[Case]:
    """All cases for both networks: reading and targets at published and small sizes, steps at small sizes."""
    found = []
    for system in NETS:
        for size, sizes in ((PUBLISHED_SIZES, {}), (SMALL_SIZES, SMALL)):
            found.append(Case("reader", system, size, sizes, 1, READER + size, 1 / 3))
            found.append(Case("targets", system, size, sizes, 1, None, None))
        found.append(Case("step", system, SMALL_SIZES, SMALL, 1, f"{STEP}1 thread", 0.7))
    found.append(Case("step", "solov2_r50_fpn_1x_coco", SMALL_SIZES, SMALL, 2, f"{STEP}2 threads", 0.7))
    return [case for case in found if case.figure in figures]


def benchmark(
    overrides: Mapping[str, Any],
    *,
    figures: tuple[str, ...] = ("reader", "targets", "step"),
    baseline: Mapping[str, Any] | None = None,
    progress: Callable[[str], None],
) -> Figures:
    """Measure every case and compare it with the baseline, if there is one, and with PaddleDetection.

    If `ppdet` is installed, PaddleDetection trains on the same images after ppsolo, in its own process.

    overrides: of the configurations; above all, where the data are. baseline: "machine", a text with the GFLOP/s of a
        matrix product, and "measurements", each with "path", "net", "batch_s" or "step_s" and "peak_rss_mb".
    progress: gets a line for every case.

    Times are seconds per batch of 2, without the first batches. A ratio is ppsolo's time over the other's.
    "normalized_ratio" corrects for a baseline from another machine: it scales all work by the speed of the matrix
    product (here the faster one of numpy's and Paddle's). That fits the network, and is a guess for reading.
    """
    speeds = {str(threads): max(in_new_process(matrix_product, threads).values()) for threads in (1, 2)}
    result: Figures = {
        "machine": {**machine(), "matrix_product_gflops": speeds},
        "baseline_machine": None if baseline is None else baseline["machine"],
        "measurements": [],
    }
    speed_ratio = None if baseline is None else speeds["2"] / _gflops(baseline["machine"])
    beside = has_paddledetection()
    for case in cases(figures):
        config = load_config(
            case.system,
            {**overrides, **case.sizes, "train.batch_size": 2, "data.num_workers": 0, "data.val_annotations": ""},
        )
        measured = in_new_process(MEASURES[case.figure], case.threads, config)
        if beside and case.figure in ORIGINALS:
            theirs = in_new_process(ORIGINALS[case.figure], case.threads, config)
            measured = {
                **_with_paddledetection(measured, theirs),
                "paddledetection_peak_rss_mb": theirs["peak_rss_mb"],
                "memory_of_paddledetection": measured["peak_rss_mb"] / theirs["peak_rss_mb"],
            }
        entry = {
            "figure": case.figure,
            "net": NETS[case.system],
            "size": case.size,
            "threads": case.threads,
            **measured,
            **_comparison(case, measured, baseline, speed_ratio),
        }
        result["measurements"].append(entry)
        progress(format_measurement(entry))
    return result


def format_measurement(entry: Mapping[str, Any]) -> str:
    """One line."""
    seconds = entry["seconds"]
    line = (
        f"{entry['figure']:8} {entry['net']:26} {entry['size']:42} {entry['threads']} thread(s): "
        f"{seconds['median']:.4f} s ({seconds['min']:.4f} to {seconds['max']:.4f}), {entry['peak_rss_mb']:.0f} MB"
    )
    if entry.get("of_paddledetection") is not None:
        line += f"; {entry['of_paddledetection']:.3f} of the time of PaddleDetection"
    if entry.get("memory_of_paddledetection") is not None:
        line += f", {entry['memory_of_paddledetection']:.2f} of its memory"
    if entry.get("ratio") is not None:
        line += (
            f"; {entry['ratio']:.2f} of the baseline's time (aim {entry['aim']:.2f}), normalized "
            f"{entry['normalized_ratio']:.2f}; {entry['memory_ratio']:.2f} of its memory"
        )
    return line


def measure_reader(config: Config, *, batches: int = 40) -> Figures:
    """Seconds per batch of the loader, targets included, in this process."""
    ahead = _batches(_loader(config))
    return _measured(lambda: next(ahead), batches, warm_up=BATCH_WARM_UP)


def measure_targets(config: Config, *, batches: int = 40) -> Figures:
    """Seconds to make the targets of a batch from samples that are already read.

    If `ppdet` is installed, PaddleDetection's operator makes the targets of the same samples in turn. The figures then
    include "paddledetection_seconds" and "of_paddledetection", the ratio of medians; the peak memory is that of both.
    """
    maker = _loader(config).make_batch
    with without_output():
        peer = paddledetection_targets(config) if has_paddledetection() else None
    rng, times, theirs = np.random.default_rng(0), [], []
    for number in range(batches + BATCH_WARM_UP):
        records = [maker.records[(2 * number + i) % len(maker.records)] for i in range(2)]
        samples = [augment(load_sample(record, maker.read), maker.transforms, rng) for record in records]
        size = padded_size(samples)
        times.append(_seconds(lambda samples=samples, size=size: maker.targets(samples, size)))
        if peer is not None:
            prepared = [paddledetection_sample(sample, size) for sample in samples]
            theirs.append(_seconds(lambda prepared=prepared: peer(prepared)))
    figures = _figures(times[BATCH_WARM_UP:])
    return figures if peer is None else _with_paddledetection(figures, _figures(theirs[BATCH_WARM_UP:]))


def measure_step(config: Config, *, steps: int = 5) -> Figures:
    """Seconds to read a batch and to take the optimizer step on it."""
    from ppsolo.build.training import build_trainer
    from ppsolo.processes import ALONE
    from ppsolo.training.run import set_up_cpu

    set_up_cpu()
    loader = _loader(config)
    trainer = build_trainer(config, loader, ALONE)
    trainer.model.train()
    ahead = _batches(loader)

    def step() -> None:
        trainer.train_step([next(ahead)])
        trainer.settle()

    return _measured(step, steps, warm_up=STEP_WARM_UP)


def measure_paddledetection_reader(config: Config, *, batches: int = 40) -> Figures:
    """`measure_reader` with PaddleDetection's reader."""
    with without_output():
        ahead = paddledetection_batches(config)
        return _measured(lambda: next(ahead), batches, warm_up=BATCH_WARM_UP)


def measure_paddledetection_step(config: Config, *, steps: int = 5) -> Figures:
    """`measure_step` with PaddleDetection's step; threads, MKL and memory allocation are set as for ppsolo."""
    from ppsolo.training.run import set_up_cpu

    set_up_cpu()
    with without_output():
        ahead, step = paddledetection_batches(config), paddledetection_step(config)
        return _measured(lambda: step(next(ahead)), steps, warm_up=STEP_WARM_UP)


MEASURES = {"reader": measure_reader, "targets": measure_targets, "step": measure_step}
ORIGINALS = {"reader": measure_paddledetection_reader, "step": measure_paddledetection_step}


def _loader(config: Config) -> TrainingLoader:
    dataset = build_dataset(config)
    return build_loader(
        replace(config, num_classes=len(dataset.category_ids)), [dataset[index] for index in range(len(dataset))]
    )


def _batches(loader: TrainingLoader) -> Iterator[TrainingBatch]:
    """Without end."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _measured(call: Callable[[], Any], count: int, *, warm_up: int) -> Figures:
    """Figures of `count` calls, after `warm_up` calls that do not count."""
    return _figures([_seconds(call) for _ in range(warm_up + count)][warm_up:])


def _with_paddledetection(figures: Figures, theirs: Figures) -> Figures:
    """Add PaddleDetection's seconds and the ratio of the medians to the figures."""
    return {
        **figures,
        "paddledetection_seconds": theirs["seconds"],
        "of_paddledetection": figures["seconds"]["median"] / theirs["seconds"]["median"],
    }


def _figures(times: list[float]) -> Figures:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    seconds = {"median": float(np.median(times)), "min": min(times), "max": max(times), "n": len(times)}
    return {"seconds": seconds, "peak_rss_mb": round(peak, 1)}


def _gflops(machine_text: str) -> float:
    found = re.search(r"([\d.]+) GFLOP/s", machine_text)
    if found is None:
        raise DatasetError("the baseline's 'machine' does not state GFLOP/s: add it")
    return float(found[1])


def _comparison(
    case: Case, measured: Figures, baseline: Mapping[str, Any] | None, speed_ratio: float | None
) -> dict[str, Any]:
    if baseline is None or case.path is None or speed_ratio is None:
        return {"ratio": None}
    for entry in baseline["measurements"]:
        if entry["path"] == case.path and entry["net"] == NETS[case.system]:
            theirs = entry["step_s" if case.figure == "step" else "batch_s"]["median"]
            ratio = measured["seconds"]["median"] / theirs
            return {
                "ratio": ratio,
                "normalized_ratio": ratio * speed_ratio,
                "memory_ratio": measured["peak_rss_mb"] / entry["peak_rss_mb"],
                "aim": case.most,
                "baseline": {"path": case.path, "median": theirs, "peak_rss_mb": entry["peak_rss_mb"]},
            }
    return {"ratio": None}


def read_baseline(path: Path) -> dict[str, Any]:
    """Read a baseline file. Raises DatasetError if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not content["machine"] or not content["measurements"]:
            raise ValueError("nothing in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: is not a baseline ({error}): it must hold 'machine' and 'measurements'") from None
    return content
