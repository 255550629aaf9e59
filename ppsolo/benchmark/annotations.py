"""Time to open an annotation file of COCO's size, and the memory that each rank and worker needs for it."""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.benchmark.machine import machine

IMAGES, POLYGONS, CATEGORIES = 118_287, 860_001, 80  # as in COCO train2017
EVALUATED = 5_000, 36_335  # images and polygons, as in COCO val2017
SIZE = (480, 640)
DETECTIONS = 100  # results for each picture, the most that a published system gives
POOL = 1_000  # masks that results are taken from, besides the annotations of their picture
AT_ONCE = 10_000  # polygons drawn at a time
CHECKED = "solov2_r50_fpn_1x"  # the check uses its settings
POINTS = (8, 61)  # number of points of a polygon; the upper limit is excluded


def draw_annotations(folder: Path, *, images: int, polygons: int) -> Path:
    """Write instances.json with polygons of 8 to 60 points, and an empty file per image; return the JSON's path."""
    rng = np.random.default_rng(0)
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    listed = []
    for number in range(1, images + 1):
        entry = {"id": number, "file_name": f"{number:012d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        (pictures / entry["file_name"]).touch()
        listed.append(entry)
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CATEGORIES + 1)]
    path = folder / "instances.json"
    with atomic_writer(path, "wb") as stream:
        stream.write(b'{"images": ' + msgspec.json.encode(listed) + b', "annotations": [')
        for start in range(0, polygons, AT_ONCE):
            entries = _polygons(rng, images, start, min(AT_ONCE, polygons - start))
            stream.write((b", " if start else b"") + b", ".join(map(_spaced, entries)))
        stream.write(b'], "categories": ' + msgspec.json.encode(categories) + b"}")
    return path


def _spaced(entry: dict[str, Any]) -> bytes:
    """Return JSON with a space after each comma and colon, as `json.dumps` writes it."""
    return msgspec.json.format(msgspec.json.encode(entry), indent=0)


def _polygons(rng: np.random.Generator, images: int, first: int, count: int) -> list[dict[str, Any]]:
    counts = rng.integers(*POINTS, count)
    ends = np.cumsum(counts)
    starts = ends - counts
    angles = 2 * np.pi * (np.arange(ends[-1]) - np.repeat(starts, counts)) / np.repeat(counts, counts)
    radius = np.repeat(rng.uniform(10, 80, count), counts) * rng.uniform(0.8, 1.2, ends[-1])
    x = np.round(np.repeat(rng.uniform(100, SIZE[1] - 100, count), counts) + radius * np.cos(angles), 2)
    y = np.round(np.repeat(rng.uniform(100, SIZE[0] - 100, count), counts) + radius * np.sin(angles), 2)
    points = np.stack([x, y], 1).ravel().tolist()
    least = [np.minimum.reduceat(values, starts) for values in (x, y)]
    sides = [np.maximum.reduceat(values, starts) - low for values, low in zip((x, y), least, strict=True)]
    boxes = np.round(np.stack([*least, *sides], 1), 2)
    areas = np.round(boxes[:, 2] * boxes[:, 3] * 0.7, 2).tolist()
    owners, labels = rng.integers(1, images + 1, count).tolist(), rng.integers(1, CATEGORIES + 1, count).tolist()
    return [
        {
            "id": first + row + 1,
            "image_id": owners[row],
            "category_id": labels[row],
            "segmentation": [points[2 * start : 2 * end]],
            "area": areas[row],
            "bbox": boxes[row].tolist(),
            "iscrowd": 0,
        }
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
    ]


def benchmark_annotations(folder: Path, *, images: int, polygons: int, processes: int = 4) -> dict[str, Any]:
    """Time two openings of a drawn file and its check; measure the memory of ranks and workers after an epoch.

    Evaluation opens another file, of the size of val2017, twice, draws each mask once, and takes DETECTIONS results for
    each picture.

    An epoch reads every record with all outlines, and no picture. A rank opens the file itself; a worker is forked from
    a rank that has opened it. Memory is the proportional set size: a page that N processes share counts 1/N for each.
    "own" is the memory that only this process uses.

    folder: for the file, the images and the cache; files of an earlier call are used again.
    """
    path, evaluated = (
        file if file.is_file() else draw_annotations(file.parent, images=counts[0], polygons=counts[1])
        for file, counts in (
            (folder / "instances.json", (images, polygons)),
            (folder / "evaluated" / "instances.json", (min(images, EVALUATED[0]), min(polygons, EVALUATED[1]))),
        )
    )
    cache = folder / "cache"
    os.environ["PPSOLO_ANNOTATIONS"] = str(cache)
    for entry in sorted(cache.rglob("*"), reverse=True) if cache.is_dir() else ():
        entry.rmdir() if entry.is_dir() else entry.unlink()
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {
        "machine": machine(),
        "bytes": path.stat().st_size,
        "first": _alone(context, _open, path),
        "second": _alone(context, _open, path),
        "check": _alone(context, _check, path),
        "evaluation_first": _alone(context, _open_to_evaluate, evaluated),
        "evaluation_second": _alone(context, _open_to_evaluate, evaluated),
        "evaluation": _alone(context, _draw_to_evaluate, evaluated),
        "results": _alone(context, _accumulate, evaluated),
    }
    found["ranks"] = {str(count): _ranks(context, path, count) for count in (1, processes)}
    found["workers"] = _alone_with_workers(context, path, processes)
    return found


def _alone(context: Any, work: Callable[[Path], dict[str, float]], path: Path) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory (MB) of some work in a new process, and its counts."""
    mine, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(work, path, theirs))
    process.start()
    result = mine.recv()
    process.join()
    return result


def _measure(work: Callable[[Path], dict[str, float]], path: Path, pipe: Connection) -> None:
    import ppsolo.check.dataset
    import ppsolo.evaluation.evaluate  # noqa: F401  # import before the measurement

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, spent = time.perf_counter(), time.process_time()
    counts = work(path)
    seconds, busy = time.perf_counter() - start, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send(
        {
            "seconds": seconds,
            "cpu_seconds": busy,
            "peak_mb": peak / 1024,
            "peak_before_mb": before / 1024,
            **counts,
        }
    )


def _open(path: Path) -> dict[str, float]:
    from ppsolo.data.coco import CocoDataset

    dataset = CocoDataset(path, path.parent / "images")
    return {"records": len(dataset), "instances": dataset.instances}


def _check(path: Path) -> dict[str, float]:
    """`ppsolo check-data` with the published settings, but for decoding the pictures, which are empty here."""
    from ppsolo.check.dataset import check_dataset
    from ppsolo.config import load_config

    config = load_config(CHECKED)
    report = check_dataset(
        path,
        path.parent / "images",
        short_side=max(config.train.augment.short_sides),
        long_side=config.train.augment.long_side,
        num_grids=config.model.head.num_grids,
        scale_ranges=[(low, high) for low, high in config.train.targets.scale_ranges],
        images=False,
    )
    return {"records": report.images, "instances": report.instances}


def _open_to_evaluate(path: Path) -> dict[str, float]:
    """Open a file as `ppsolo eval` does."""
    from ppsolo.evaluation.evaluate import EvaluationSet

    dataset = EvaluationSet(path, path.parent / "images")
    return {"records": len(dataset.images), "instances": len(dataset.truth.image)}


def _draw_to_evaluate(path: Path) -> dict[str, float]:
    """Open a file as evaluation does, and draw every mask of it once."""
    from ppsolo.evaluation.ground_truth import GroundTruth

    truth = GroundTruth(path)
    for image in range(len(truth.image_ids)):
        truth.masks(truth.rows(image))
    return {"records": len(truth.image_ids), "instances": len(truth.image)}


def _accumulate(path: Path) -> dict[str, float]:
    """Evaluate DETECTIONS drawn results for each picture as `ppsolo eval` does: the annotations, and others' masks.

    add_cpu_seconds, summary_cpu_seconds: of the evaluator alone; the others include opening the file and drawing.
    """
    from ppsolo.evaluation.coco_evaluator import CocoEvaluator
    from ppsolo.evaluation.evaluate import EvaluationSet
    from ppsolo.results.instances import Instances

    dataset = EvaluationSet(path, path.parent / "images")
    truth = dataset.truth
    evaluator = CocoEvaluator(dataset.annotations, box_from_mask=True)
    rng = np.random.default_rng(0)
    pool = truth.masks(np.arange(min(POOL, len(truth.image))))
    spent = 0.0
    for image, (image_id, _) in enumerate(dataset.images):
        rows = truth.rows(image)[:DETECTIONS]
        others = DETECTIONS - len(rows)
        found = Instances(
            rles=[*truth.masks(rows), *(pool[number] for number in rng.integers(len(pool), size=others))],
            scores=rng.uniform(0, 1, DETECTIONS),
            labels=np.concatenate([truth.category[rows], rng.integers(len(truth.category_ids), size=others)]),
            size=SIZE,
            class_names=truth.category_names,
            category_ids=range(1, CATEGORIES + 1),
        )
        start = time.process_time()
        evaluator.add(image_id, found)
        spent += time.process_time() - start
    start = time.process_time()
    report = evaluator.summarize()
    return {
        "records": report["images"],
        "instances": report["ground_truths"],
        "detections": report["detections"],
        "add_cpu_seconds": spent,
        "summary_cpu_seconds": time.process_time() - start,
    }


def _ranks(context: Any, path: Path, count: int) -> list[dict[str, float]]:
    """Memory of processes that each open the file and read an epoch, measured at the same moment."""
    return _weighed_together(context, _rank, path, count)


def _rank(path: Path, pipe: Connection) -> None:
    from ppsolo.data.coco import CocoDataset

    dataset = CocoDataset(path, path.parent / "images")
    before = memory()
    _go_through(dataset)
    _answer(pipe, before)


def _alone_with_workers(context: Any, path: Path, count: int) -> list[dict[str, float]]:
    """Memory of forked workers that each read an epoch, measured at the same moment."""
    mine, theirs = context.Pipe()
    process = context.Process(target=_fork_workers, args=(path, count, theirs))
    process.start()
    found = mine.recv()
    process.join()
    return found


def _fork_workers(path: Path, count: int, pipe: Connection) -> None:
    from ppsolo.data.coco import CocoDataset

    dataset = CocoDataset(path, path.parent / "images")
    pipe.send(_weighed_together(multiprocessing.get_context("fork"), _worker, dataset, count))


def _worker(dataset: Any, pipe: Connection) -> None:
    before = memory()
    _go_through(dataset)
    _answer(pipe, before)


def _go_through(dataset: Any) -> None:
    for index in range(len(dataset)):
        for outline in dataset[index].outlines:
            sum(float(ring.sum()) for ring in outline)


def _answer(pipe: Connection, before: dict[str, float]) -> None:
    """Report the end of the epoch; measure when all processes have reported; exit when all have measured."""
    pipe.send("done")
    pipe.recv()
    after = memory()
    pipe.send({**after, "own_before_mb": before["own_mb"], "pss_before_mb": before["pss_mb"]})
    pipe.recv()


def _weighed_together(context: Any, work: Callable[..., None], subject: Any, count: int) -> list[dict[str, float]]:
    """Memory of `count` processes that each run `work(subject)`, measured at the same moment."""
    pipes, processes = [], []
    for _ in range(count):
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(subject, theirs))
        process.start()
        pipes.append(mine)
        processes.append(process)
    found = _weighed(pipes)
    for process in processes:
        process.join()
    return found


def _weighed(pipes: list[Any]) -> list[dict[str, float]]:
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("weigh")
    found = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send("end")
    return found


def memory() -> dict[str, float]:
    """This process's proportional set size, its parts, and the memory that it shares with no one, in MB. Linux only."""
    values = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, number, *_ = line.split()
        values[name.rstrip(":")] = int(number) / 1024
    return {
        "pss_mb": values["Pss"],
        "pss_files_mb": values.get("Pss_File", 0.0),
        "own_mb": values["Private_Clean"] + values["Private_Dirty"],
        "own_written_mb": values["Private_Dirty"],
    }
