"""More than average precision: curves, confusion, calibration, recall by size, and the quality of each picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools.cocoeval import Params

from ppsolo.evaluation.accumulation import accumulate
from ppsolo.evaluation.evaluate import Evaluation, EvaluationSet
from ppsolo.evaluation.ground_truth import GroundTruth
from ppsolo.evaluation.matching import overlaps, unpack
from ppsolo.evaluation.thresholds import ClassThreshold, find_thresholds
from ppsolo.evaluation.tide import tide
from ppsolo.results.rle import Rle, read_segmentation

IOU = 0.5  # a detection counts as found from this IoU on; AP has its own thresholds
BINS = 10  # of scores, for calibration
SIZE_EDGES = (0, 16, 32, 64, 96, 192, 384)  # square roots of areas in pixels
_IOU_THRESHOLDS = 10  # packed in a match: 0.50 to 0.95


class PictureQuality(NamedTuple):
    """Quality of the results for one picture, at the best threshold of each class.

    quality: panoptic quality (Kirillov et al., CVPR 2019, arXiv 1801.00868), in [0, 1]: the sum of the IoUs of all
    found objects, divided by found + (false + missed) / 2. found, false, missed: numbers of objects.
    """

    image_id: Any
    quality: float
    found: int
    false: int
    missed: int


@dataclass(frozen=True)
class Analysis:
    """numbers: ready for JSON. pictures: every image with an object or an instance, the worst first."""

    numbers: dict[str, Any]
    pictures: list[PictureQuality]
    thresholds: list[ClassThreshold]


def analyze(evaluation: Evaluation, dataset: EvaluationSet) -> Analysis:
    """Analyze an evaluation that kept its results: `evaluate(..., keep_results=True)`.

    The numbers are in [0, 1]:
    "precision_recall": mean over classes at 101 recalls, at IoU 0.50, at 0.75 and over 0.50:0.95.
    "f1_curve": over all instances, by score threshold.
    "thresholds": the best score threshold of each class.
    "calibration", "recall_by_size": see the functions of these names.
    "confusion": the confusion matrix; rows are the truth.
    "tide": where AP50 is lost; None if hotcoco is not installed.
    """
    truth, matches = dataset.truth, evaluation.matches["segm"]
    thresholds = find_thresholds(matches, evaluation.report["segm"]["per_class"])
    images = _MatchedImages(truth, evaluation.results, [one.threshold for one in thresholds])
    numbers = {
        "iou": IOU,
        "precision_recall": precision_recall(matches, truth),
        "f1_curve": f1_curve(matches, int((~truth.crowd & truth.outlined).sum())),
        "thresholds": [one._asdict() for one in thresholds],
        "calibration": calibration(matches),
        "confusion": {"classes": list(truth.category_names), "matrix": images.confusion.tolist()},
        "recall_by_size": images.recall_by_size(),
        "tide": tide(truth, evaluation.results),
    }
    pictures = sorted(images.pictures, key=lambda picture: picture.quality)
    numbers["pictures"] = [picture._asdict() for picture in pictures]
    return Analysis(numbers, pictures, thresholds)


def precision_recall(matches: np.ndarray, truth: GroundTruth) -> dict[str, list[float]]:
    """Precision at 101 recalls, the mean over classes with ground truths. The mean of a curve is its AP."""
    areas = np.array(Params(iouType="segm").areaRng, np.float64)
    ignored = truth.crowd | (truth.area < areas[:, :1]) | (truth.area > areas[:, 1:]) | ~truth.outlined
    precision = accumulate(matches, truth, ignored).precision[..., 0, -1]  # [T, R, K]
    present = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if present.shape[2] == 0:
        return {}
    curves = present.mean(axis=2)
    return {"0.50": curves[0].tolist(), "0.75": curves[5].tolist(), "0.50:0.95": curves.mean(axis=0).tolist()}


def f1_curve(matches: np.ndarray, ground_truths: int) -> dict[str, list[Any]]:
    """Precision, recall and F1 of all instances, for each score threshold 0, 0.01, ..., 1; None if it is undefined."""
    scores, true = _counted(matches)
    least = np.linspace(0, 1, 101)
    order = np.argsort(scores)
    scores, hits = scores[order], np.concatenate([[0], np.cumsum(true[order])])
    below = np.searchsorted(scores, least, "left")
    taken, found = len(scores) - below, hits[-1] - hits[below]
    return {
        "score": least.tolist(),
        "precision": [float(hit / all_) if all_ else None for hit, all_ in zip(found, taken, strict=True)],
        "recall": (found / max(ground_truths, 1)).tolist(),
        "f1": (2 * found / np.maximum(taken + ground_truths, 1)).tolist(),
    }


def calibration(matches: np.ndarray) -> dict[str, Any]:
    """Sort scores into ten bins: "count", mean "score" and "precision" of each; "error": expected calibration error."""
    scores, true = _counted(matches)
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        means = (float(scores[inside].mean()), float(true[inside].mean())) if count else (None, None)
        bins.append({"from": number / BINS, "count": count, "score": means[0], "precision": means[1]})
    gaps = [one["count"] * abs(one["score"] - one["precision"]) for one in bins if one["count"]]
    return {"bins": bins, "error": sum(gaps) / len(scores) if len(scores) else None}


def _counted(matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores, float64 [n], of the detections that count, and whether each is true at `IOU`, bool [n]."""
    true = unpack(matches["matched"], _IOU_THRESHOLDS)[0, 0]
    counted = ~unpack(matches["ignored"], _IOU_THRESHOLDS)[0, 0]
    return matches["score"][counted], true[counted]


class _MatchedImages:
    """Match the instances of every image to its objects at `IOU`, the best score first.

    confusion: int64 [K + 1, K + 1]; rows are true classes, columns predicted ones; the last one is the background.
        Its matches ignore classes.
    pictures: see `PictureQuality`. Only instances at or above the threshold of their class count in both.
    """

    def __init__(self, truth: GroundTruth, results: Sequence[Mapping[str, Any]], thresholds: Sequence[float]):
        self._thresholds = np.array(thresholds)
        number = len(truth.category_ids)
        self.confusion = np.zeros((number + 1, number + 1), np.int64)
        self.pictures: list[PictureQuality] = []
        self._sizes: list[np.ndarray] = []
        self._found: list[np.ndarray] = []
        by_image: dict[int, list[Mapping[str, Any]]] = {}
        for entry in results:
            image = truth.image_index(entry["image_id"])
            if image is not None:
                by_image.setdefault(image, []).append(entry)
        for image in range(len(truth.image_ids)):
            self._add(truth, image, sorted(by_image.get(image, []), key=lambda entry: -entry["score"]))

    def recall_by_size(self) -> list[dict[str, Any]]:
        """Return "ground_truths" and "recall" for each range of sizes ("from", "to", in pixels), over all scores."""
        sizes = np.concatenate([*self._sizes, np.zeros(0)])
        found = np.concatenate([*self._found, np.zeros(0, bool)])
        ranges: list[dict[str, Any]] = []
        for low, high in zip(SIZE_EDGES, (*SIZE_EDGES[1:], np.inf), strict=True):
            inside = (sizes >= low) & (sizes < high)
            count = int(inside.sum())
            recall = float(found[inside].mean()) if count else None
            upper = high if high < np.inf else None
            ranges.append({"from": low, "to": upper, "ground_truths": count, "recall": recall})
        return ranges

    def _add(self, truth: GroundTruth, image: int, entries: Sequence[Mapping[str, Any]]) -> None:
        rows = truth.rows(image)
        rows = rows[truth.outlined[rows]]
        if not len(rows) and not entries:
            return
        masks: list[Rle] = [read_segmentation(entry["segmentation"], truth.size(image)) for entry in entries]
        predicted = np.array([truth.category_index(entry["category_id"]) for entry in entries], np.int64)
        scores = np.array([entry["score"] for entry in entries], np.float64)
        ious = overlaps(masks, truth.masks(rows), truth.crowd[rows])
        crowd = truth.crowd[rows]
        in_crowd: np.ndarray = np.any(ious[:, crowd] >= IOU, axis=1)
        ious, expected = ious[:, ~crowd], truth.category[rows[~crowd]].astype(np.int64)
        same = np.where(predicted[:, None] == expected[None], ious, 0.0)
        found = _match(same)
        self._sizes.append(np.sqrt(truth.area[rows[~crowd]]))
        self._found.append(np.isin(np.arange(len(expected)), found))
        kept: np.ndarray = np.greater_equal(scores, self._thresholds[predicted])
        self._confuse(_match(ious[kept]), predicted[kept], expected, in_crowd[kept])
        found = _match(same[kept])
        hits = np.flatnonzero(found >= 0)
        false = int((found < 0).sum() - (in_crowd[kept] & (found < 0)).sum())
        missed = len(expected) - len(hits)
        total = len(hits) + (false + missed) / 2
        if total:
            quality = float(same[kept][hits, found[hits]].sum() / total)
            self.pictures.append(PictureQuality(truth.image_ids[image], quality, len(hits), false, missed))

    def _confuse(self, found: np.ndarray, predicted: np.ndarray, expected: np.ndarray, in_crowd: np.ndarray) -> None:
        hit = found >= 0
        background = len(self.confusion) - 1
        false, missed = predicted[~hit & ~in_crowd], np.delete(expected, found[hit])
        rows = np.concatenate([expected[found[hit]], np.full(len(false), background), missed])
        columns = np.concatenate([predicted[hit], false, np.full(len(missed), background)])
        np.add.at(self.confusion.reshape(-1), rows * (background + 1) + columns, 1)


def _match(ious: np.ndarray) -> np.ndarray:
    """Give each detection, in order, the free ground truth with the highest IoU >= `IOU`; -1 for none: int64 [D]."""
    free = ious.copy()
    found = np.full(len(ious), -1)
    for row in np.flatnonzero((ious >= IOU).any(axis=1)).tolist():
        best = int(free[row].argmax())
        if free[row, best] >= IOU:
            found[row] = best
            free[:, best] = 0.0
    return found
