"""Masks as runs of pixels: moved, cropped, joined and compared without an array of the picture's size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppsolo.results.rle import Rle, encode_edges, run_lengths

Box = tuple[int, int, int, int]  # y1, x1, y2, x2 in pixels, y2 and x2 exclusive


class Runs(NamedTuple):
    """The pixels of one mask in column-major order of its picture: int64 [r] each, ascending, no empty runs.

    starts: the first pixel of each run. ends: the pixel after its last; a run may continue in the next column.
    """

    starts: np.ndarray
    ends: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int((self.ends - self.starts).sum())


def from_rle(rle: Rle) -> Runs:
    """Return the runs of a compressed COCO RLE, in its own picture."""
    edges = np.cumsum(run_lengths(rle))
    starts, ends = edges[0::2], edges[1::2]
    starts = starts[: len(ends)]
    some = ends > starts
    return Runs(starts[some], ends[some])


def to_rle(runs: Runs, size: tuple[int, int]) -> Rle:
    """Return the compressed COCO RLE of runs in a picture of `size` (height, width)."""
    return encode_edges(np.stack([runs.starts, runs.ends], axis=1).ravel(), size)


def move(runs: Runs, *, height: int, to_height: int, top: int, left: int) -> Runs:
    """Turn the runs of a part of a picture into runs of the picture.

    height: of the part. to_height: of the picture. top, left: the part's first row and column in the picture.
    """
    columns, first, last = _by_columns(runs, height)
    origin = (left + columns) * to_height + top
    return _merged(origin + first, origin + last)


def cut(runs: Runs, box: Box, *, height: int) -> Runs:
    """Return the part of a mask inside a box, at its place. height: of the picture."""
    y1, x1, y2, x2 = box
    inside = slice(
        int(np.searchsorted(runs.ends, x1 * height, side="right")), int(np.searchsorted(runs.starts, x2 * height))
    )
    columns, first, last = _by_columns(Runs(runs.starts[inside], runs.ends[inside]), height)
    first, last = np.maximum(first, y1), np.minimum(last, y2)
    some = (last > first) & (columns >= x1) & (columns < x2)
    origin = columns[some] * height
    return _merged(origin + first[some], origin + last[some])


def cut_out(runs: Runs, box: Box, *, height: int) -> Runs:
    """The part of a mask outside a box. height: of the picture."""
    inside = cut(runs, box, height=height)
    starts = np.sort(np.concatenate([runs.starts, inside.ends]))
    ends = np.sort(np.concatenate([inside.starts, runs.ends]))
    some = ends > starts
    return Runs(starts[some], ends[some])


def union(parts: Sequence[Runs]) -> Runs:
    """Return the pixels in any of the masks."""
    starts = np.concatenate([part.starts for part in parts])
    ends = np.concatenate([part.ends for part in parts])
    order = np.argsort(starts, kind="stable")
    return _merged(starts[order], ends[order])


def shared_area(one: Runs, other: Runs) -> int:
    """Return the number of pixels in both masks."""
    return one.area + other.area - union([one, other]).area


def bounding_box(runs: Runs, *, height: int) -> Box:
    """Return the tight box of a mask; zeros if it is empty. height: of the picture."""
    if len(runs.starts) == 0:
        return (0, 0, 0, 0)
    columns, first, last = _by_columns(runs, height)
    return (int(first.min()), int(columns.min()), int(last.max()), int(columns.max()) + 1)


def _by_columns(runs: Runs, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the runs where a column ends: column, first row and row after the last, int64 each."""
    first_column, last_column = runs.starts // height, (runs.ends - 1) // height
    pieces = last_column - first_column + 1
    run = np.repeat(np.arange(len(pieces)), pieces)
    step = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    columns = first_column[run] + step
    origin = columns * height
    return columns, np.maximum(runs.starts[run] - origin, 0), np.minimum(runs.ends[run] - origin, height)


def _merged(starts: np.ndarray, ends: np.ndarray) -> Runs:
    """Merge runs, sorted by start, that touch or overlap."""
    if len(starts) == 0:
        return Runs(starts.astype(np.int64), ends.astype(np.int64))
    reach = np.maximum.accumulate(ends)
    new = np.append(True, starts[1:] > reach[:-1])
    return Runs(starts[new], reach[np.append(new[1:], True)])
