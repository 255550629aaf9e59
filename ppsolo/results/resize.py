"""The resize of masks: probabilities at stride 4 -> run lengths at the size of the picture."""

from typing import NamedTuple

import cv2
import numpy as np

from ppsolo.cpu import single_threaded_products
from ppsolo.results.rle import Rle, encode_edges

_CHUNK = 2**19  # resized values per chunk, or half as many with flags, so that they stay in the cache
_BLOCK = 16  # neighbouring places that share their cells; in a larger block, most weights are 0


def resize_masks(
    probabilities: np.ndarray,
    *,
    resized: tuple[int, int],
    original: tuple[int, int],
    threshold: float = 0.5,
    stride: int = 4,
) -> list[Rle]:
    """Resize mask probabilities of a padded network input to the original image and apply the threshold there.

    The result equals two bilinear resizes (half-pixel centres, edges repeated) and a threshold: enlarge by `stride` to
    the padded input, crop to `resized`, resize to `original`, then `> threshold`. The enlarged images are never made:
    each mask is computed in chunks of columns with at most about 2**19 values.

    Args:
        probabilities: float32 [n, h, w] in [0, 1], one map per instance; the padded input is
            (stride * h, stride * w).
        resized: (height, width) of the image inside of the padded input, in pixels from the top left corner.
        original: (height, width) of the original image.
        threshold: a pixel with a greater probability belongs to the mask.
        stride: input pixels per cell of `probabilities`.

    Returns:
        n compressed COCO RLEs {"size": [height, width], "counts": bytes} of the original image.

    Raises:
        ValueError: a shape or size is not as described.
    """
    if probabilities.ndim != 3:
        raise ValueError(f"probabilities must be [n, h, w], got shape {probabilities.shape}")
    if stride < 1 or min(original) < 1:
        raise ValueError(f"stride and original size must be positive, got {stride} and {original}")
    height, width = probabilities.shape[1:]
    padded = (stride * height, stride * width)
    if not (1 <= resized[0] <= padded[0] and 1 <= resized[1] <= padded[1]):
        raise ValueError(f"resized size {resized} must lie within the padded size {padded}")
    if len(probabilities) == 0:
        return []
    samples, knots = _sample_positions(resized[0], original[0]), _knots(height, resized[0], stride)
    at_knots = len(samples) > 3 * len(knots)  # above this ratio, finding crossings costs less than every row
    plan = _Plan(
        rows=_axis(knots if at_knots else samples, height, stride),
        columns=_axis(_sample_positions(resized[1], original[1]), width, stride),
        samples=samples,
        spacing=resized[0] / original[0],
        at_knots=at_knots,
    )
    limit = np.float32(threshold)
    with single_threaded_products():  # small products: threads would wait for each other
        edges = (_edges_above(np.asarray(mask, np.float32), limit, plan) for mask in probabilities)
        return [encode_edges(found, original) for found in edges]


class _Axis(NamedTuple):
    """Places along one side of the network input, as weighted means of cells, in blocks of _BLOCK neighbours."""

    positions: np.ndarray  # float64 [blocks * _BLOCK], ascending, in pixels; after the last place: one pixel more
    cells: np.ndarray  # int64 [blocks, cells of a block], ascending
    weights: np.ndarray  # float32 [blocks, _BLOCK, cells of a block]; zero after the last place


class _Plan(NamedTuple):
    """How every mask of one image is resized."""

    rows: _Axis  # rows of the original; or knots, if fewer: columns are linear between knots
    columns: _Axis  # columns of the original
    samples: np.ndarray  # float32 [original height], ascending: positions of the original rows in the input
    spacing: float  # of the samples, up to rounding; several may lie at each end
    at_knots: bool  # whether `rows` holds knots


def _sample_positions(n_in: int, n_out: int) -> np.ndarray:
    """Return where a bilinear resize from n_in to n_out pixels reads its input: float32 [n_out], from 0 to n_in - 1.

    The published systems compute them in float32; exact positions would change a value by up to 1e-4. A single output
    reads the first input, not the middle one, as there.
    """
    scale = np.float32(n_in) / np.float32(n_out) if n_out > 1 else np.float32(0)
    centres = np.arange(n_out, dtype=np.float32) + np.float32(0.5)
    return (scale * centres - np.float32(0.5)).clip(0, n_in - 1)


def _knots(cells: int, resized: int, stride: int) -> np.ndarray:
    """Return the rows of the network input between which a resized column is linear: int64, ascending.

    The first resize is linear between cell centres, the second between pixels. Together they bend only at the pixels
    next to (or at) a cell centre, and end at the first and the last pixel.
    """
    centres = stride * np.arange(cells)
    knots = np.concatenate([[0], centres + (stride - 1) // 2, centres + stride // 2, [resized - 1]])
    return np.unique(knots[knots < resized])


def _neighbours(positions: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the input before each position, the input after it, and the fraction: int64, int64, float32 in [0, 1).

    n: number of inputs.
    """
    lower = np.floor(positions).astype(np.int64)
    return lower, np.minimum(lower + 1, n - 1), (positions - lower).astype(np.float32)


def _axis(places: np.ndarray, cells: int, stride: int) -> _Axis:
    """Combine both resizes: each place lies between two pixels, each pixel lies between two cells.

    Args:
        places: [k], ascending, in pixels of the network input.
        cells: number of cells of the axis.
        stride: pixels per cell.
    """
    pixels = int(places[-1]) + 2  # the last one always has weight 0
    left, right, way = _neighbours(places, pixels)
    centres = ((np.arange(pixels) + 0.5) / stride - 0.5).clip(0, cells - 1)
    lower, upper, fraction = _neighbours(centres, cells)

    starts = np.arange(0, len(places), _BLOCK)
    first, last = lower[left[starts]], upper[right[np.minimum(starts + _BLOCK, len(places)) - 1]]
    width = int((last - first).max()) + 1
    first = np.minimum(first, cells - width)

    weights = np.zeros((len(first), _BLOCK, width), np.float32)
    index, place = np.divmod(np.arange(len(places)), _BLOCK)
    for pixel, share in ((left, 1 - way), (right, way)):
        weights[index, place, lower[pixel] - first[index]] += share * (1 - fraction[pixel])
        weights[index, place, upper[pixel] - first[index]] += share * fraction[pixel]
    positions = np.full(len(first) * _BLOCK, places[-1] + 1, np.float64)
    positions[: len(places)] = places
    return _Axis(positions, first[:, None] + np.arange(width), weights)


def _reached(axis: _Axis, first: int, count: int) -> tuple[slice, slice]:
    """Return the blocks that use one of `count` cells from `first` on, or a neighbour, and the cells of these blocks.

    Both are empty if there is no such block.
    """
    begin = int(np.searchsorted(axis.cells[:, -1], first - 1, side="left"))
    end = int(np.searchsorted(axis.cells[:, 0], first + count, side="right"))
    if count == 0 or begin >= end:
        return slice(0), slice(0)
    return slice(begin, end), slice(int(axis.cells[begin, 0]), int(axis.cells[end - 1, -1]) + 1)


def _mix(axis: _Axis, blocks: slice, cells: np.ndarray, first: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return the values at the places of the blocks, float32 [blocks, _BLOCK, m].

    cells: float32 [cells, m], the values of the cells from `first` on.
    """
    return np.matmul(axis.weights[blocks], cells[axis.cells[blocks] - first], out=out)


def _edges_above(probability: np.ndarray, threshold: np.float32, plan: _Plan) -> np.ndarray:
    """Return where the resized mask starts and stops, column after column of the original.

    A resized value is a weighted mean of cells. So only values near a cell above the threshold can be above it; other
    values are not computed.

    Returns:
        int64 [2 * runs], ascending: the first pixel of each run and the pixel after its last, in column-major order.
    """
    x, y, cells_across, cells_down = cv2.boundingRect((probability > threshold).view(np.uint8))
    rows, down = _reached(plan.rows, y, cells_down)
    columns, across = _reached(plan.columns, x, cells_across)
    if rows.stop == 0 or columns.stop == 0:  # the mask is empty, or only in the padding
        return np.zeros(0, np.int64)
    # Subtract the threshold first: a weighted mean of values <= 0 stays <= 0, also in floating point.
    mixed = _mix(plan.rows, rows, probability[down, across] - threshold, down.start)
    cells = cv2.transpose(mixed.reshape(-1, mixed.shape[2]))  # [cells, places]
    return (_edges_between_knots if plan.at_knots else _edges_between_rows)(cells, across.start, rows, columns, plan)


def _edges_between_rows(cells: np.ndarray, first: int, rows: slice, columns: slice, plan: _Plan) -> np.ndarray:
    """`_edges_above` if the places are rows of the original.

    cells: float32 [cells of the blocks `columns`, places of the blocks `rows`], from cell `first` on.
    """
    height, top = len(plan.samples), rows.start * _BLOCK
    cells = cells[:, : height - top]
    chunk = max(1, _CHUNK // (_BLOCK * 2 * height))
    inside = np.zeros((min(chunk, columns.stop - columns.start) * _BLOCK, height), bool)
    before, parts = False, []
    for begin in range(columns.start, columns.stop, chunk):
        blocks = slice(begin, min(begin + chunk, columns.stop))
        values = _mix(plan.columns, blocks, cells, first).reshape(-1, cells.shape[1])
        part = inside[: len(values)]
        np.greater(values, 0, out=part[:, top : top + cells.shape[1]])
        parts.append(_changes(part.ravel(), before) + begin * _BLOCK * height)
        before = part[-1, -1]
    if before:
        parts.append(np.array([columns.stop * _BLOCK * height]))
    return np.concatenate(parts)


def _edges_between_knots(cells: np.ndarray, first: int, rows: slice, columns: slice, plan: _Plan) -> np.ndarray:
    """`_edges_above` if the places are knots, with straight lines between them.

    cells: float32 [cells of the blocks `columns`, places of the blocks `rows`], from cell `first` on.
    """
    height, places = len(plan.samples), cells.shape[1]
    knots = plan.rows.positions[rows.start * _BLOCK : rows.stop * _BLOCK]
    knots = np.concatenate([knots[:1] - 1, knots, knots[-1:] + 1])
    chunk = max(1, _CHUNK // (_BLOCK * (places + 2)))
    values = np.empty((min(chunk, columns.stop - columns.start), _BLOCK, places + 2), np.float32)
    values[:, :, [0, -1]] = -1  # each column is closed at both ends
    parts = []
    for begin in range(columns.start, columns.stop, chunk):
        blocks = slice(begin, min(begin + chunk, columns.stop))
        part = values[: blocks.stop - begin]
        _mix(plan.columns, blocks, cells, first, out=part[:, :, 1:-1])
        flat = part.ravel()
        change = _changes(flat > 0, False)
        column, after = np.divmod(change, places + 2)
        here, there = flat[change - 1].astype(np.float64), flat[change]
        zero = knots[after - 1] + here / (here - there) * np.diff(knots)[after - 1]
        # A row exactly at zero is outside.
        row = np.empty(len(zero), np.int64)
        row[0::2] = _count_samples(plan, zero[0::2], np.less_equal)
        row[1::2] = _count_samples(plan, zero[1::2], np.less)
        parts.append((begin * _BLOCK + column) * height + row)
    return _without_pairs(np.concatenate(parts))


def _changes(flags: np.ndarray, before: bool) -> np.ndarray:
    """The indices of flags that differ from the flag before: int64, ascending. flags: bool, a multiple of 8."""
    change = np.empty(len(flags), bool)
    change[0] = flags[0] != before
    np.not_equal(flags[1:], flags[:-1], out=change[1:])
    # Look at eight flags at once first: otherwise numpy takes twice as long if one flag in thirty changes.
    eights = change.view(np.uint64)
    some = np.flatnonzero(eights != 0)
    place = np.flatnonzero(eights[some].view(bool))
    return 8 * some[place >> 3] + (place & 7)


def _count_samples(plan: _Plan, limits: np.ndarray, compare: np.ufunc) -> np.ndarray:
    """Return how many samples are below each limit: int64. compare: np.less or np.less_equal.

    The even spacing gives the count up to an error of one, which is then corrected.
    """
    number = len(plan.samples)
    padded = np.concatenate([[-np.inf], plan.samples, [np.inf]]).astype(np.float32)
    count = np.ceil((limits + 0.5) / plan.spacing - 0.5).clip(0, number).astype(np.int64)
    count += compare(padded[1:][count], limits)
    count -= ~compare(padded[count], limits)
    # Either end may have several samples.
    count[~compare(plan.samples[0], limits)] = 0
    count[compare(plan.samples[-1], limits)] = number
    return count


def _without_pairs(edges: np.ndarray) -> np.ndarray:
    """Remove pairs of equal edges. Such a pair is an empty run, or a run goes on in the next column."""
    steps = edges[1:] - edges[:-1]
    if steps.all():
        return edges
    first = np.flatnonzero(np.append(True, steps))
    return edges[first[np.diff(first, append=len(edges)) % 2 == 1]]
