"""Matches the detections of one image to its ground truths at every IoU threshold, by COCO's rules."""

from typing import Any

import numpy as np
from pycocotools import mask as pycocotools_mask

from ppsolo.results.rle import Rle

# One matched detection in 32 bytes. `image` and `category` are indices. `matched` and `ignored` hold one bit per IoU
# threshold (ten bits, packed into two bytes) for each of the four area ranges.
MATCH = np.dtype(
    [
        ("image", np.int32),
        ("category", np.int32),
        ("score", np.float64),
        ("matched", np.uint8, (4, 2)),
        ("ignored", np.uint8, (4, 2)),
    ]
)

_ALMOST_ONE = 1 - 1e-10  # pycocotools' limit for thresholds: rounding cannot undo a perfect match
_API: Any = pycocotools_mask  # the published type stubs lack some argument types


def overlaps(detections: list[Rle] | np.ndarray, truths: list[Rle] | np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the IoU, float64 [D, G], of masks of one size, or of boxes [n, 4] (left, top, width, height).

    crowd: bool [G]. For a crowd region it is the share of the detection that lies inside of the region.
    """
    if len(detections) == 0 or len(truths) == 0:
        return np.zeros((len(detections), len(truths)))
    ious = _API.iou(detections, truths, crowd.astype(np.uint8).tolist())
    return np.asarray(ious, np.float64).reshape(len(detections), len(truths))


def match_detections(
    ious: np.ndarray,
    *,
    crowd: np.ndarray,
    truth_ignored: np.ndarray,
    detection_outside: np.ndarray,
    thresholds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Match each detection, best score first, to the free ground truth with the highest IoU.

    ious: float64 [D, G], rows by falling score. crowd: bool [G], such a ground truth is never used up.
    truth_ignored: bool [A, G], per area range: a crowd, or of another size; matched only if nothing else fits.
    detection_outside: bool [A, D], detections of another size. thresholds: float64 [T], ascending.

    Returns (matched, ignored), bool [A, T, D]. An ignored detection counts neither as true nor as false. The result
    equals `COCOeval.evaluateImg`. Pairs below the lowest threshold are skipped, which is much faster in a crowded
    image.
    """
    matched = np.zeros((len(truth_ignored), len(thresholds), len(ious)), bool)
    ignored = np.zeros_like(matched)
    lowest = np.minimum(thresholds, _ALMOST_ONE)
    candidates = [(d, np.flatnonzero(row >= lowest[0])) for d, row in enumerate(ious)]
    candidates = [(d, near) for d, near in candidates if near.size]
    for area, unwanted in enumerate(truth_ignored):
        taken = np.zeros((len(thresholds), len(crowd)), bool)
        for d, near in candidates:
            near = near[np.argsort(unwanted[near], kind="stable")]
            pairs = list(zip(near.tolist(), ious[d, near].tolist(), unwanted[near].tolist(), strict=True))
            within_reach = np.searchsorted(lowest, ious[d, near].max(), "right")
            for t, threshold in enumerate(lowest[:within_reach].tolist()):
                free = [pair for pair in pairs if crowd[pair[0]] or not taken[t, pair[0]]]
                best = _best(free, threshold)
                if best is not None:
                    matched[area, t, d] = taken[t, best] = True
                    ignored[area, t, d] = unwanted[best]
    ignored |= ~matched & detection_outside[:, None, :]
    return matched, ignored


def _best(pairs: list[tuple[int, float, bool]], lowest: float) -> int | None:
    """Return the ground truth with the highest IoU >= `lowest`, the last of equals; an ignored one only if no other."""
    best, best_unwanted = None, False
    for truth, iou, unwanted in pairs:
        if best is not None and unwanted and not best_unwanted:
            break
        if iou >= lowest:
            best, lowest, best_unwanted = truth, iou, unwanted
    return best


def pack(matched: np.ndarray, ignored: np.ndarray, *, image: int, category: int, score: np.ndarray) -> np.ndarray:
    """Pack (matched, ignored), [A, T, D], of one image and category with the scores [D] into MATCH [D]."""
    rows = np.zeros(len(score), MATCH)
    rows["image"], rows["category"], rows["score"] = image, category, score
    rows["matched"] = np.packbits(matched, axis=1).transpose(2, 0, 1)  # [A, T, D] -> [A, 2, D] -> [D, A, 2]
    rows["ignored"] = np.packbits(ignored, axis=1).transpose(2, 0, 1)
    return rows


def unpack(bits: np.ndarray, thresholds: int) -> np.ndarray:
    """Unpack one field: uint8 [D, A, 2] -> bool [A, T, D]."""
    return np.unpackbits(bits, axis=2, count=thresholds).astype(bool).transpose(1, 2, 0)
