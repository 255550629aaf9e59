"""Masks as run lengths: COCO segmentations read and checked, and what pycocotools measures of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as pycocotools_mask

# {"size": [height, width], "counts": bytes}: the form that every function of pycocotools takes.
Rle = dict[str, Any]

_LARGEST_COORDINATE = 1e6  # in pixels: pycocotools walks every edge, and one wild point could exhaust memory
_LONGEST_GROUP = 7  # characters of five bits each: enough for any 32-bit run
_API: Any = pycocotools_mask  # published type stubs know only some of the forms that it takes


def read_segmentation(segmentation: object, size: tuple[int, int]) -> Rle:
    """Read one mask of an image of `size` (height, width) in any of COCO's three forms.

    A list of polygons [[x, y, x, y, ...], ...] in pixels; `{"size", "counts"}` with a list of run lengths; or
    the same with compressed run lengths (str or bytes). Runs go down the columns and begin with background.

    Raises ValueError saying what is wrong with "the mask" if it is none of these, has another size than the
    image, or its runs do not fill the image: pycocotools itself would compute on, with made-up numbers.
    """
    height, width = size
    if isinstance(segmentation, list):
        _check_polygons(segmentation)
        return _API.merge(_API.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("the mask is neither a list of polygons nor a mapping with 'size' and 'counts'")
    stated, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(stated, (list, tuple)) or list(stated) != [height, width]:
        raise ValueError(f"the mask's size (height, width) is {stated}, the image's [{height}, {width}]")
    if isinstance(counts, list):
        _check_runs(_plain_runs(counts), size)
        return _API.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if isinstance(counts, str):
        counts = counts.encode("utf-8")
    if not isinstance(counts, bytes):
        raise ValueError("the mask's 'counts' are neither a list of run lengths nor a string")
    _check_runs(run_lengths(counts), size)
    return {"size": [height, width], "counts": counts}


def run_lengths(counts: bytes) -> np.ndarray:
    """Unpack compressed run lengths into int64 [n], background first.

    Each character carries five bits, least significant first, and whether another follows; from the fourth
    run on, the difference to the run before the previous one is stored. Raises ValueError if `counts` cannot
    be such a string.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("the mask's compressed 'counts' are broken")
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_GROUP:
        raise ValueError("the mask's compressed 'counts' are broken")
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)  # the last character's fifth bit is the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def decode_transposed(rle: Rle) -> np.ndarray:
    """Draw a checked mask as uint8 {0, 1} [W, H], transposed as its runs are; faster than pycocotools."""
    height, width = rle["size"]
    runs = run_lengths(rle["counts"])
    return np.repeat((np.arange(runs.size) & 1).astype(np.uint8), runs).reshape(width, height)


def mask_areas(masks: list[Rle]) -> np.ndarray:
    """Number of pixels of each mask, [n]."""
    return np.asarray(_API.area(masks))


def mask_boxes(masks: list[Rle]) -> np.ndarray:
    """Box around each mask, float64 [n, 4]: left, top, width, height in pixels, all 0 for an empty mask."""
    return np.asarray(_API.toBbox(masks), np.float64).reshape(-1, 4)


def overlaps(detections: list[Rle] | np.ndarray, truths: list[Rle] | np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU, float64 [D, G], of masks of one size or of boxes [n, 4] (left, top, width, height).

    crowd: bool [G]; with a crowd region it is the share of the detection that lies inside.
    """
    ious = _API.iou(detections, truths, crowd.astype(np.uint8).tolist())
    return np.asarray(ious, np.float64).reshape(len(detections), len(truths))


def _check_polygons(polygons: list[Any]) -> None:
    if not polygons:
        raise ValueError("the mask is an empty list of polygons")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is not a list of at least three points x, y")
        if not all(isinstance(v, (int, float)) and abs(v) <= _LARGEST_COORDINATE for v in polygon):
            raise ValueError("a polygon has a coordinate that is not a sensible number")


def _plain_runs(counts: list[Any]) -> np.ndarray:
    if not all(isinstance(run, int) and 0 <= run < 2**32 for run in counts):
        raise ValueError("the mask's 'counts' are not all whole numbers from 0")
    return np.array(counts, np.int64)


def _check_runs(runs: np.ndarray, size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    if (runs < 0).any() or runs.sum() != pixels:
        raise ValueError(f"the mask's run lengths do not add up to the image's {pixels} pixels")
