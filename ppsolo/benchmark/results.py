"""Time to evaluate a result file, reading included, by ppsolo, hotcoco and pycocotools."""

import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ppsolo.benchmark.machine import machine
from ppsolo.errors import PpsoloError
from ppsolo.evaluation.coco_evaluator import evaluate_results
from ppsolo.results.rle import Rle, encode_mask, mask_areas, mask_boxes_xywh

SIZE = (480, 640)
CATEGORIES = 80
IOU_TYPES = ("segm", "bbox")
Ellipse = tuple[float, float, float, float, float]  # x, y, two radii, angle


def draw_results(folder: Path, *, images: int, detections: int) -> tuple[Path, Path]:
    """Write annotations and results of ellipses with errors of several sizes; return the two files.

    Half of the annotations are polygons, half are run lengths; one in fifty is a crowd.
    """
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        objects = [(_ellipse(rng), int(rng.integers(1, CATEGORIES + 1))) for _ in range(int(rng.integers(3, 12)))]
        for number, (shape, category) in enumerate(objects):
            mask = _mask(shape)
            segmentation = _polygon(shape) if number % 2 else _plain(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "segmentation": segmentation,
                    "area": int(mask_areas([mask])[0]),
                    "bbox": mask_boxes_xywh([mask])[0].tolist(),
                    "iscrowd": int(number % 2 == 0 and rng.random() < 0.04),
                }
            )
        for _ in range(detections * image_id // images - len(results)):
            (x, y, first, second, angle), category = objects[int(rng.integers(len(objects)))]
            scale = rng.uniform(0.8, 1.2, 2)
            near = (x + rng.normal(0, 4), y + rng.normal(0, 4), first * scale[0], second * scale[1], angle)
            wrong = rng.random() < 0.2
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, CATEGORIES + 1)) if wrong else category,
                    "segmentation": _plain(_mask(near)),
                    "score": float(rng.random()),
                }
            )
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CATEGORIES + 1)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "annotations.json", folder / "results.json"


def benchmark_results(annotations: Path, results: Path, *, repeats: int = 15) -> dict[str, Any]:
    """Return the median seconds and CPU seconds of runs in turn, for masks and boxes, and the largest difference.

    Every run reads both files. Raises PpsoloError if hotcoco is not installed.
    """
    try:
        import hotcoco
    except ImportError:
        raise PpsoloError("hotcoco is not installed: pip install 'ppsolo[evaluate]'") from None
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ways: dict[str, Callable[[], dict[str, list[float]]]] = {
        "ppsolo": lambda: _ours(annotations, results),
        "hotcoco": lambda: _theirs(hotcoco.COCO, hotcoco.COCOeval, annotations, results),
        "pycocotools": lambda: _theirs(COCO, COCOeval, annotations, results),
    }
    numbers: dict[str, dict[str, list[float]]] = {}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats):
        for name, way in ways.items():
            if name == "pycocotools" and number:
                continue  # it is slow: one run is enough
            start, spent = time.perf_counter(), time.process_time()
            numbers[name] = way()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - spent)
    seconds, busy = ({name: median(values) for name, values in taken.items()} for taken in (wall, cpu))
    differences = [
        float(np.abs(np.array(numbers["ppsolo"][kind]) - np.array(numbers[other][kind])).max())
        for kind in IOU_TYPES
        for other in ("hotcoco", "pycocotools")
    ]
    return {
        "machine": machine(),
        "seconds": seconds,
        "cpu_seconds": busy,
        "of_hotcoco": seconds["ppsolo"] / seconds["hotcoco"],
        "cpu_of_hotcoco": busy["ppsolo"] / busy["hotcoco"],
        "largest_difference": max(differences),
        "AP": {kind: numbers["ppsolo"][kind][0] for kind in IOU_TYPES},
    }


def _ours(annotations: Path, results: Path) -> dict[str, list[float]]:
    report = evaluate_results(annotations, results, iou_types=IOU_TYPES)
    return {kind: report[kind]["stats"] for kind in IOU_TYPES}


def _theirs(coco: Any, evaluation: Any, annotations: Path, results: Path) -> dict[str, list[float]]:
    """Evaluate by the API of pycocotools: both files are read once, for masks and boxes."""
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(str(annotations))
        detections = truth.loadRes(str(results))
        for kind in IOU_TYPES:
            one = evaluation(truth, detections, kind)
            one.evaluate()
            one.accumulate()
            one.summarize()
            found[kind] = [float(value) for value in one.stats]
    return found


def _ellipse(rng: np.random.Generator) -> Ellipse:
    x, y = rng.uniform(40, SIZE[1] - 40), rng.uniform(40, SIZE[0] - 40)
    return x, y, rng.uniform(8, 120), rng.uniform(8, 120), rng.uniform(0, 3)


def _mask(shape: Ellipse) -> Rle:
    x, y, first, second, angle = shape
    reach = max(first, second)
    top, left = max(0, int(y - reach)), max(0, int(x - reach))
    rows, columns = np.ogrid[top : min(SIZE[0], int(y + reach) + 1), left : min(SIZE[1], int(x + reach) + 1)]
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    mask = np.zeros(SIZE, bool)
    mask[rows, columns] = (along / first) ** 2 + (across / second) ** 2 < 1
    return encode_mask(mask)


def _plain(mask: Rle) -> dict[str, Any]:
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}


def _polygon(shape: Ellipse) -> list[list[float]]:
    x, y, first, second, angle = shape
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    along, across = first * np.cos(turn), second * np.sin(turn)
    points = [x + along * np.cos(angle) - across * np.sin(angle), y + along * np.sin(angle) + across * np.cos(angle)]
    return [np.round(np.stack(points, 1), 2).ravel().tolist()]
