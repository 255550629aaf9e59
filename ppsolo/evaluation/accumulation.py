"""Average precision and recall over the matches of all images, computed by pycocotools."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from ppsolo.evaluation.ground_truth import GroundTruth
from ppsolo.evaluation.matching import unpack


@dataclass(frozen=True)
class Accumulation:
    """The arrays and the summary of pycocotools; -1 where there is nothing to find.

    precision: float64 [T, R, K, A, M]: IoU threshold, recall, category, area range, detections per image.
    recall: float64 [T, K, A, M]. stats: the twelve numbers of COCO.
    """

    precision: np.ndarray
    recall: np.ndarray
    stats: list[float]


def accumulate(matches: np.ndarray, truth: GroundTruth, truth_ignored: np.ndarray) -> Accumulation:
    """Accumulate the matches of all images, in any order, against all ground truths.

    matches: MATCH [m], at most `max_detections` per image and category; all of them count, as the last one of COCO's
        limits (1, 10, 100). truth_ignored: bool [A, M].

    COCOeval runs once per category, on the images that contain this category. The numbers are the same as in one
    run over everything, and it takes little memory.
    """
    matches = matches[np.lexsort((matches["image"], matches["category"]))]  # stable: best scores stay first
    order = np.lexsort((truth.image, truth.category))
    truth_image, truth_category = truth.image[order], truth.category[order]
    truth_ignored = truth_ignored[:, order]
    evaluation: Any = COCOeval(iouType="segm")
    shape = (
        len(evaluation.params.iouThrs),
        len(evaluation.params.recThrs),
        len(truth.category_ids),
        len(evaluation.params.areaRng),
        len(evaluation.params.maxDets),
    )
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    with contextlib.redirect_stdout(io.StringIO()):  # COCOeval prints
        for category in np.unique(truth_category):
            rows = _span(matches["category"], category)
            truths = _span(truth_category, category)
            result = _accumulate_category(matches[rows], truth_image[truths], truth_ignored[:, truths])
            precision[:, :, category] = result["precision"][:, :, 0]
            recall[:, category] = result["recall"][:, 0]
        evaluation.eval = {"precision": precision, "recall": recall}
        evaluation.summarize()
    return Accumulation(precision, recall, [float(value) for value in evaluation.stats])


def per_class(accumulation: Accumulation, truth: GroundTruth) -> list[dict[str, Any]]:
    """Return {"id", "name", "ground_truths", "AP", "AP50", "AP75", "AR100"} for each category.

    "ground_truths" excludes crowds. Numbers are in [0, 1], and None for a category without ground truths.
    """
    counts = np.bincount(truth.category[~truth.crowd], minlength=len(truth.category_ids))
    precision = accumulation.precision[..., 0, -1]  # all sizes, all detections -> [T, R, K]
    recall = accumulation.recall[..., 0, -1]  # [T, K]
    means = {
        "AP": column_means(precision.reshape(-1, len(counts))),
        "AP50": column_means(precision[0]),
        "AP75": column_means(precision[5]),
        "AR100": column_means(recall),
    }
    return [
        {
            "id": category_id,
            "name": truth.category_names[k],
            "ground_truths": int(counts[k]),
            **{name: column[k] for name, column in means.items()},
        }
        for k, category_id in enumerate(truth.category_ids)
    ]


def column_means(values: np.ndarray) -> list[float | None]:
    """Return the mean of the values other than -1 of each column, as COCO's summary does; None if there are none."""
    rows = np.ascontiguousarray(values.T)  # so that sums are rounded as in numpy's mean of one column
    there = rows > -1
    count = there.sum(axis=1)
    sums = np.where(there, rows, 0).sum(axis=1)
    return [float(total / number) if number else None for total, number in zip(sums, count, strict=True)]


def _accumulate_category(matches: np.ndarray, truth_image: np.ndarray, truth_ignored: np.ndarray) -> dict[str, Any]:
    """Return COCOeval's arrays (K = 1) for one category, from its matches and ground truths, both sorted by image."""
    evaluation: Any = COCOeval(iouType="segm")
    params = evaluation.params
    params.maxDets = [*params.maxDets[:-1], max(len(matches), *params.maxDets)]
    images = np.unique(np.concatenate((matches["image"], truth_image)))
    rows = list(_spans(matches["image"], images))
    truths = list(_spans(truth_image, images))
    matched = unpack(matches["matched"], len(params.iouThrs))
    ignored = unpack(matches["ignored"], len(params.iouThrs))
    params.imgIds, params.catIds = images.tolist(), [0]
    evaluation._paramsEval = params
    evaluation.evalImgs = [
        {
            "dtScores": matches["score"][rows[i]],
            "dtMatches": matched[area][:, rows[i]],
            "dtIgnore": ignored[area][:, rows[i]],
            "gtIgnore": truth_ignored[area, truths[i]],
        }
        for area in range(len(params.areaRng))
        for i in range(len(images))
    ]
    evaluation.accumulate()
    return evaluation.eval


def _span(column: np.ndarray, value: int) -> slice:
    """Return where `value` stands in a sorted column."""
    return slice(np.searchsorted(column, value, "left"), np.searchsorted(column, value, "right"))


def _spans(column: np.ndarray, values: np.ndarray) -> Iterator[slice]:
    """Return where each of `values` stands in a sorted column."""
    return map(slice, np.searchsorted(column, values, "left"), np.searchsorted(column, values, "right"))
