"""Time of evaluation without the network: masks, run lengths, matching, accumulation; ppsolo and the usual way."""

import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppsolo.benchmark.machine import machine
from ppsolo.evaluation.coco_evaluator import CocoEvaluator
from ppsolo.progress import Progress
from ppsolo.results.instances import Instances
from ppsolo.results.resize import resize_masks
from ppsolo.results.rle import encode_mask, mask_areas, mask_boxes_xywh

ORIGINAL, RESIZED, PADDED = (480, 640), (800, 1067), (800, 1088)
STRIDE = 4
CLASSES = tuple(range(1, 81))
ANNOTATED = 7  # objects per image, as in COCO


def benchmark_evaluation(*, images: int, instances: int = 100, progress: Progress | None = None) -> dict[str, Any]:
    """Time ppsolo and the usual way on the same drawn detections, in turn for each image.

    Both get the probabilities of `instances` masks at stride 4, with scores and classes, and return COCO's 12 numbers
    for masks. The usual way resizes every mask to the padded size, then to the original size, in floating point. It
    applies the threshold, encodes with pycocotools, and runs COCOeval over all results at the end.

    Returns the content of the JSON file: machine, seconds of both, their ratio, and both APs.
    """
    content: dict[str, Any] = {
        "images": [{"id": i, "height": ORIGINAL[0], "width": ORIGINAL[1]} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in CLASSES],
        "annotations": [],
    }
    for number in range(images):
        content["annotations"] += _annotations(*_drawn(number, ANNOTATED), first=len(content["annotations"]), at=number)
    evaluator, usual_results = CocoEvaluator(content, iou_types=("segm",), box_from_mask=True), []
    ours = usual = 0.0
    for number in range(images):
        masks, labels = _drawn(number, instances)
        scores = np.linspace(0.9, 0.1, instances, dtype=np.float32)
        start = time.perf_counter()
        found = _instances(resize_masks(masks, resized=RESIZED, original=ORIGINAL), scores, labels)
        evaluator.add(number, found)
        ours += time.perf_counter() - start
        start = time.perf_counter()
        usual_results += _usual_results(masks, scores, labels, number)
        usual += time.perf_counter() - start
        if progress is not None:
            progress(number + 1, images)
    start = time.perf_counter()
    report = evaluator.summarize()
    ours += time.perf_counter() - start
    start = time.perf_counter()
    average = _usual_average(content, usual_results)
    usual += time.perf_counter() - start
    return {
        "machine": machine(),
        "images": images,
        "instances": instances,
        "seconds": ours,
        "usual_seconds": usual,
        "of_usual": ours / usual,
        "AP": report["segm"]["stats"][0],
        "usual_AP": average,
    }


def _drawn(number: int, instances: int) -> tuple[np.ndarray, np.ndarray]:
    """Mask probabilities of the image's first ellipses, float32 [n, H / 4, W / 4], and their classes, int64 [n]."""
    rng = np.random.default_rng(number)
    height, width = (side // STRIDE for side in PADDED)
    rows, columns = np.ogrid[:height, :width]
    masks, labels = np.empty((instances, height, width), np.float32), np.empty(instances, np.int64)
    for index in range(instances):
        x, y, size, shape = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(4, 60), rng.uniform(0.5, 2)
        labels[index] = rng.integers(len(CLASSES))
        radius = np.sqrt(((rows - y) * shape / size) ** 2 + ((columns - x) / size) ** 2)
        masks[index] = 1 / (1 + np.exp(np.minimum(size * (radius - 1), 50.0)))
    return masks, labels


def _instances(rles: Sequence[dict[str, Any]], scores: np.ndarray, labels: np.ndarray) -> Instances:
    names = [str(i) for i in CLASSES]
    return Instances(rles=rles, scores=scores, labels=labels, size=ORIGINAL, class_names=names, category_ids=CLASSES)


def _annotations(masks: np.ndarray, labels: np.ndarray, *, first: int, at: int) -> Iterator[dict[str, Any]]:
    """COCO annotations of an image: the ellipses to be detected, each moved a little."""
    moved = np.roll(masks, 1, axis=2)
    rles = resize_masks(moved, resized=RESIZED, original=ORIGINAL)
    areas, boxes = mask_areas(rles), mask_boxes_xywh(rles)
    for index, (rle, label) in enumerate(zip(rles, labels, strict=True)):
        if areas[index] > 0:
            yield {
                "id": first + index + 1,
                "image_id": at,
                "category_id": CLASSES[label],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "area": int(areas[index]),
                "bbox": boxes[index].tolist(),
                "iscrowd": 0,
            }


def _usual_results(masks: np.ndarray, scores: np.ndarray, labels: np.ndarray, number: int) -> list[dict[str, Any]]:
    results = []
    for mask, score, label in zip(masks, scores, labels, strict=True):
        enlarged = cv2.resize(mask, (PADDED[1], PADDED[0]))[: RESIZED[0], : RESIZED[1]]
        rle = encode_mask(cv2.resize(enlarged, (ORIGINAL[1], ORIGINAL[0])) > 0.5)
        results.append({"image_id": number, "category_id": CLASSES[label], "segmentation": rle, "score": float(score)})
    return results


def _usual_average(content: dict[str, Any], results: list[dict[str, Any]]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()  # the published type stubs allow only files
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])
