"""What scaling leaves of outlines: box, area, centre and stride 4, reckoned from their runs without drawing them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ppsolo.data.targets import MASK_STRIDE, quarter
from ppsolo.results import rle

_KEPT_SIZES = 1024  # of images; one takes some 100 KB


@dataclass(frozen=True)
class ScaledOutlines:
    """n masks of one image, before and after scaling.

    Attributes:
        size: (height, width) after scaling.
        drawn_boxes: int64 [n, 4], xyxy of the mask's pixels before scaling, x2 and y2 excluded; zeros if empty.
        areas: int64 [n], pixels of the scaled mask.
        centres: float64 [n, 2], (y, x) of its centre of mass in pixel indices; zeros if the area is 0.
        vanished: bool [n], no pixel is left of the scaled mask at stride 4.
    """

    size: tuple[int, int]
    drawn_boxes: np.ndarray
    areas: np.ndarray
    centres: np.ndarray
    vanished: np.ndarray


@dataclass(frozen=True)
class _Axis:
    """The scaling of one axis from k to m pixels. A scaled pixel is a copy of its source pixel.

    source: int64 [m], the source of each scaled pixel.
    copies, places: int64 [k + 1], sums over all earlier pixels: number of their copies, and positions of the copies.
    end_of_pair: int64 [k + 1]. A pair is the sources of the two middle pixels in a block of 4. For the next pair whose
        upper source is here or later: the end of its lower source; beyond k if there is none.
    sampled: bool [k], whether a middle pixel of a block is a copy of it.
    """

    source: np.ndarray
    copies: np.ndarray
    places: np.ndarray
    end_of_pair: np.ndarray
    sampled: np.ndarray


def scale_outlines(masks: Sequence[rle.Rle], size: tuple[int, int], scales: tuple[float, float]) -> ScaledOutlines:
    """Measure masks that are scaled as `Resize` does, by the nearest pixel.

    masks: n run lengths of an image of `size` (height, width). scales: (vertical, horizontal).
    """
    rows, columns = _axes(size, scales)
    n, height = len(masks), size[0]
    owner, start, stop = _runs(masks)
    area = _sum_to(stop, height, rows.copies, columns.copies) - _sum_to(start, height, rows.copies, columns.copies)
    across = _sum_to(stop, height, rows.copies, columns.places) - _sum_to(start, height, rows.copies, columns.places)
    down = _sum_to(stop, height, rows.places, columns.copies) - _sum_to(start, height, rows.places, columns.copies)
    areas, sums = np.zeros(n, np.int64), np.zeros((n, 2), np.int64)
    np.add.at(areas, owner, area)
    np.add.at(sums, owner, np.stack([down, across], axis=1))
    seen = np.zeros(n, bool)
    seen[owner[_surely_seen(start, stop, height, rows, columns)]] = True
    for index in np.flatnonzero(~seen & (areas > 0)).tolist():
        mask = rle.decode_masks([masks[index]], size)[0]
        seen[index] = quarter(mask[rows.source][:, columns.source]).any()
    return ScaledOutlines(
        size=(len(rows.source), len(columns.source)),
        drawn_boxes=_boxes(n, owner, start, stop, height),
        areas=areas,
        centres=sums / np.maximum(areas, 1)[:, None],
        vanished=~seen,
    )


@lru_cache(maxsize=_KEPT_SIZES)
def _axes(size: tuple[int, int], scales: tuple[float, float]) -> tuple[_Axis, _Axis]:
    """Rows and columns."""
    scaled = [int(np.rint(side * scale)) for side, scale in zip(size, scales, strict=True)]  # half to even, as OpenCV
    if tuple(scaled) == size:
        return _axis(np.arange(size[0]), size[0]), _axis(np.arange(size[1]), size[1])
    rows, columns = (
        # Two columns of one pixel, so that OpenCV never takes the sizes for equal and copies.
        cv2.resize(np.arange(side, dtype=np.float32)[:, None], None, fx=2, fy=scale, interpolation=cv2.INTER_NEAREST)
        for side, scale in zip(size, scales, strict=True)
    )
    return _axis(rows[:, 0].astype(np.int64), size[0]), _axis(columns[:, 0].astype(np.int64), size[1])


def _axis(source: np.ndarray, side: int) -> _Axis:
    copies, places = np.bincount(source, minlength=side), np.bincount(source, np.arange(len(source)), minlength=side)
    upper, lower = source[1::MASK_STRIDE], source[2::MASK_STRIDE]
    pairs = min(len(upper), len(lower))
    next_pair = np.searchsorted(upper[:pairs], np.arange(side + 1))
    sampled = np.zeros(side, bool)
    sampled[upper], sampled[lower] = True, True
    return _Axis(
        source=source,
        copies=_sums_before(copies),
        places=_sums_before(places.astype(np.int64)),
        end_of_pair=np.append(lower[:pairs] + 1, side + 1)[next_pair],
        sampled=sampled,
    )


def _sums_before(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values)]).astype(np.int64)


def _runs(masks: Sequence[rle.Rle]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each run of pixels: the index of its mask, its first pixel, its end. Pixels count down columns."""
    edges = [np.cumsum(rle.run_lengths(mask)) for mask in masks]
    start = np.concatenate([np.zeros(0, np.int64), *(found[: len(found) // 2 * 2 : 2] for found in edges)])
    stop = np.concatenate([np.zeros(0, np.int64), *(found[1::2] for found in edges)])
    owner = np.repeat(np.arange(len(masks)), [len(found) // 2 for found in edges])
    filled = stop > start
    return owner[filled], start[filled], stop[filled]


def _sum_to(position: np.ndarray, height: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The sum of row weight times column weight over all pixels before each position, from the sums of the weights."""
    column, row = np.divmod(position, height)
    whole = columns[column]
    last = np.minimum(column + 1, len(columns) - 1)
    return whole * rows[-1] + (columns[last] - whole) * rows[row]


def _surely_seen(start: np.ndarray, stop: np.ndarray, height: int, rows: _Axis, columns: _Axis) -> np.ndarray:
    """bool [runs]: the run alone holds both middle pixels of a block in one column, which stride 4 keeps."""
    column, first = np.divmod(start, height)
    return columns.sampled[column] & (rows.end_of_pair[first] <= np.minimum(stop - column * height, height))


def _boxes(n: int, owner: np.ndarray, start: np.ndarray, stop: np.ndarray, height: int) -> np.ndarray:
    left, top = np.divmod(start, height)
    right, bottom = np.divmod(stop - 1, height)
    goes_on = right > left
    top, bottom = np.where(goes_on, 0, top), np.where(goes_on, height - 1, bottom)
    boxes = np.full((n, 4), -1, np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    for side, values, keep in (
        (0, left, np.minimum),
        (1, top, np.minimum),
        (2, right, np.maximum),
        (3, bottom, np.maximum),
    ):
        keep.at(boxes[:, side], owner, values)
    boxes[:, 2:] += 1
    boxes[boxes[:, 2] == 0] = 0
    return boxes
