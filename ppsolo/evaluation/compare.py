"""Several models compared on one data set: average precision, time and memory."""

import dataclasses
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.data.decoder_lines import claim_standard_error
from ppsolo.data.images import read_image, write_image
from ppsolo.errors import ConfigError, PpsoloError
from ppsolo.evaluation.coco_evaluator import MAX_DETECTIONS
from ppsolo.evaluation.evaluate import evaluate, open_evaluation_set
from ppsolo.evaluation.report import write_report
from ppsolo.model_source import ModelSource
from ppsolo.processes import end_with_starter, uninterrupted
from ppsolo.progress import Progress
from ppsolo.text import named

TIMED_IMAGES = 12
IOU_TYPES = ("segm", "bbox")
_END_SECONDS = 5  # how long a process may take to end by itself


def compare(
    sides: Sequence[ModelSource],
    *,
    batch_size: int = 1,
    max_detections: int = MAX_DETECTIONS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate and time each model on one data set, each in its own process.

    First the average precision of each model is measured. Then all models predict the first images in turn, one by one,
    so that a changing load of the machine affects all alike. They are TIMED_IMAGES, after one that does not count.

    Args:
        sides: the models, all with the same data set. The others are compared with the first one.
        batch_size: images per run of the network while average precision is measured.
        max_detections: number of detections per image and class that count, see `CocoEvaluator`.
        progress: called with (steps done, all steps).

    Returns the report, ready for JSON: "annotations", "images" and "sides". Each side has "name", "description",
    "mask_ap", "mask_ap50", "mask_ap75" and "box_ap", in [0, 1]. "mask_ap_difference" and "seconds_ratio" compare it
    with the first side. "seconds" is the median time for one image from pixels to instances. "peak_memory_mb" is the
    peak memory of its process.
    Raises PpsoloError.
    """
    if len(sides) < 2:
        raise ConfigError("a comparison takes at least two models")
    if len({dataclasses.astuple(side.config.data) for side in sides}) > 1:
        raise ConfigError("the models have different data sets: give one for all with -c, or with --annotations")
    dataset, _ = open_evaluation_set(sides[0].config)
    paths = [path for _, path in dataset.images[: TIMED_IMAGES + 1]]
    total = len(sides) + len(paths)
    results = []
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(side, batch_size, max_detections)) for side in sides]
        for number, (side, ask) in enumerate(zip(sides, processes, strict=True)):
            results.append({"name": side.name, **ask("evaluate")})
            _tell(progress, number + 1, total)
        seconds: list[list[float]] = [[] for _ in sides]
        for number, path in enumerate(paths):
            for ask, taken in zip(processes, seconds, strict=True):
                taken.append(ask(str(path))["seconds"])
            _tell(progress, len(sides) + number + 1, total)
        for result, ask, taken in zip(results, processes, seconds, strict=True):
            result["seconds"] = statistics.median(taken[1:] or taken)
            result.update(ask("memory"))
    first = results[0]
    for result in results:
        result["mask_ap_difference"] = result["mask_ap"] - first["mask_ap"]
        result["seconds_ratio"] = result["seconds"] / first["seconds"]
    return {
        "annotations": str(dataset.source),
        "images": len(dataset.images),
        "timed_images": max(len(paths) - 1, 1),
        "sides": results,
    }


def format_comparison(report: Mapping[str, Any]) -> str:
    """Return a table with one line per model; AP from 0 to 100, its difference with two decimals."""
    lines = [
        f"{report['images']} images of {report['annotations']}; times are medians over {report['timed_images']} images",
        f"{'':<44}{'mask AP':>9}{'change':>9}{'AP50':>8}{'AP75':>8}{'box AP':>8}{'s':>9}{'ratio':>7}{'MB':>7}",
    ]
    for side in report["sides"]:
        points = [100 * side[key] for key in ("mask_ap", "mask_ap_difference", "mask_ap50", "mask_ap75", "box_ap")]
        lines.append(
            f"{side['name'][-43:]:<44}{points[0]:>9.1f}{points[1]:>+9.2f}{points[2]:>8.1f}{points[3]:>8.1f}"
            f"{points[4]:>8.1f}{side['seconds']:>9.4f}{side['seconds_ratio']:>7.2f}{side['peak_memory_mb']:>7.0f}"
        )
    return "\n".join(lines)


def draw_comparison(report: Mapping[str, Any]) -> np.ndarray:
    """Bars of average precision, time and memory: uint8 RGB [H, W, 3]."""
    import matplotlib  # takes half a second to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ppsolo.results.fonts import matplotlib_families

    names = [side["name"] for side in report["sides"]]
    with matplotlib.rc_context({"font.family": matplotlib_families("".join(names))}):
        figure = Figure(figsize=(9.6, 3 * (0.64 + 0.48 * len(names))), dpi=100, layout="constrained")
        panels = (
            (f"mask AP on {report['images']} images", "mask_ap", 100, "%.1f"),
            ("seconds an image, median", "seconds", 1, "%.4f"),
            ("peak memory, MB", "peak_memory_mb", 1, "%.0f"),
        )
        for axes, (title, key, scale, form) in zip(figure.subplots(3, 1), panels, strict=True):
            bars = axes.barh(names, [scale * max(side[key], 0.0) for side in report["sides"]])
            axes.bar_label(bars, fmt=form, padding=4)
            axes.margins(x=0.15)
            axes.invert_yaxis()
            axes.set_title(title)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def write_comparison(report: Mapping[str, Any], directory: Path) -> None:
    """Write compare.json and compare.png. Raises PpsoloError if that fails."""
    write_report(report, directory / "compare.json")
    write_image(directory / "compare.png", draw_comparison(report))


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


@contextmanager
def _process(side: ModelSource, batch_size: int, max_detections: int) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Start a process for a model; yield a function that asks it "evaluate", "memory", or an image's path to time."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(side, batch_size, max_detections, there), daemon=True)
    with uninterrupted():
        process.start()
    there.close()

    def ask(question: str) -> dict[str, Any]:
        with suppress(OSError):  # where it ended with an error, the error waits to be read
            here.send(question)
        try:
            answer = here.recv()
        except (EOFError, OSError):
            raise PpsoloError(f"{side.name}: its process died, perhaps for lack of memory") from None
        if isinstance(answer, str):
            raise PpsoloError(named(side.name, answer))
        return answer

    try:
        yield ask
    except BaseException:
        process.terminate()  # it may be at work for long
        raise
    finally:
        here.close()
        process.join(timeout=_END_SECONDS)
        if process.is_alive():
            process.terminate()


def _answer(side: ModelSource, batch_size: int, max_detections: int, connection: Connection) -> None:
    """Answer questions until the pipe is closed; runs in a model's process. An answer of type str is an error."""
    claim_standard_error()
    end_with_starter()
    try:
        dataset, config = open_evaluation_set(side.config)
        predictor = dataclasses.replace(side, config=config).open()
        while True:
            question = connection.recv()
            if question == "evaluate":
                found = evaluate(
                    predictor, dataset, batch_size=batch_size, iou_types=IOU_TYPES, max_detections=max_detections
                )
                mask = found.report["segm"]["stats"]
                values = {"mask_ap": mask[0], "mask_ap50": mask[1], "mask_ap75": mask[2]}
                box = found.report["bbox"]["stats"][0]
                connection.send({"description": predictor.description, **values, "box_ap": box})
            elif question == "memory":
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                connection.send({"peak_memory_mb": peak / (2**20 if sys.platform == "darwin" else 2**10)})
            else:
                image = read_image(question)
                start = time.perf_counter()
                predictor(image)
                connection.send({"seconds": time.perf_counter() - start})
    except (EOFError, BrokenPipeError):
        return
    except (PpsoloError, OSError, RuntimeError, ImportError) as error:
        with suppress(OSError):
            connection.send(str(error))
