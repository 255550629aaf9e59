"""Instance masks made: from stride-4 probabilities to run lengths, and from these to polygons."""

from typing import NamedTuple

import cv2
import numpy as np

from ppsolo.rle import Rle, decode_window, encode_runs, mask_boxes

_CHUNK = 2**18  # resized values that are looked through at once, so that they stay in the cache
_BLOCK_PRODUCT = 2**18  # multiply-adds; OpenBLAS keeps a product of this size to one thread (more wait for each other)


def resize_masks(
    probabilities: np.ndarray,
    *,
    resized: tuple[int, int],
    original: tuple[int, int],
    threshold: float = 0.5,
    stride: int = 4,
) -> list[Rle]:
    """Bring mask probabilities of a padded network input to the original image and threshold them there.

    The result is that of two bilinear resizes (half-pixel centres, edges repeated): by `stride` to the padded
    input, cut to its `resized` region, then to `original`, followed by `> threshold`. The enlarged images are never
    made: of one mask at a time, a chunk of columns is (about 2**18 values), and which pixels of it are inside.

    Args:
        probabilities: float32 [n, h, w] in [0, 1], one map per instance; the padded input is
            (stride * h, stride * w).
        resized: (height, width) of the image inside the padded input, in pixels from its top left corner.
        original: (height, width) of the image before it was resized.
        threshold: a pixel belongs to the mask where its probability is greater.
        stride: input pixels per cell of `probabilities`.

    Returns:
        n compressed COCO RLEs {"size": [height, width], "counts": bytes} of the original image.

    Raises:
        ValueError: a shape or size is not as described.
    """
    _check_sizes(probabilities.shape, resized=resized, original=original, stride=stride)
    if len(probabilities) == 0:
        return []
    plan = _plan(probabilities.shape[1:], resized, original, stride)
    scratch = np.empty(plan.chunk_size, np.float32)
    rles = []
    for probability in probabilities:
        edges = _edges_above(probability.astype(np.float32, copy=False), np.float32(threshold), plan, scratch)
        rles.append(_encode_edges(edges, original))
    return rles


def mask_polygons(rle: Rle, tolerance: float = 0.75) -> list[list[float]]:
    """Outlines of a mask, one closed ring per part, in the COCO convention.

    Rings run along the edges of pixels: pixel (row i, column j) is the square from (j, i) to (j + 1, i + 1), which is
    how pycocotools reads polygons, so that with tolerance 0 it makes exactly this mask of them. Pixels that touch at
    a corner are one part. A polygon cannot hold a hole: the ring walks to each hole, around it and back the same
    way, and this cut has no width.

    Args:
        rle: compressed COCO RLE.
        tolerance: how far, in pixels, a simplified ring may leave the exact one (Douglas-Peucker); 0 for exact. A ring
            that would vanish stays exact.

    Returns:
        [x0, y0, x1, y1, ...] per part, at least three points each; [] for an empty mask.
    """
    x1, y1, x2, y2 = (int(v) for v in mask_boxes([rle])[0])
    if x1 == x2:
        return []
    doubled = decode_window(rle, (x1, y1, x2, y2)).view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # cv2 names boundary pixels; of two per pixel of ours, 2j and 2j - 1 lie on either side of the edge at j.
    rings = [_simplify((contour[:, 0] + 1) // 2, tolerance) + np.array([x1, y1]) for contour in contours]
    parents = hierarchy[0][:, 3]  # -1, or for a hole the ring that it is in
    outlines = {i: ring for i, ring in enumerate(rings) if parents[i] < 0}
    for i in np.flatnonzero(parents >= 0):
        outlines[parents[i]] = _join_hole(outlines[parents[i]], rings[i])
    return [ring.astype(float).ravel().tolist() for ring in outlines.values()]


class _Axis(NamedTuple):
    """Places along one side of the network input as weighted means of cells, in blocks of neighbours."""

    positions: np.ndarray  # float64 [blocks * block], ascending, in pixels; past the last place: one pixel further
    first: np.ndarray  # int64 [blocks], ascending, first cell of each block
    weights: np.ndarray  # float32 [blocks, block, cells of a block]; zero past the last place


class _Plan(NamedTuple):
    """How every mask of one image is resized."""

    rows: _Axis  # the rows of the original or, if fewer, the knots between which a column is a straight line
    columns: _Axis  # the columns of the original
    samples: np.ndarray  # float32 [original height], ascending, positions of the rows of the original in the input
    spacing: float  # of the samples, but for rounding and at both ends, where several may lie
    at_knots: bool  # what `rows` holds

    @property
    def chunk_size(self) -> int:
        """The most values of a chunk: _CHUNK, or one block of columns where they are long."""
        _, block, _ = self.columns.weights.shape
        return max(_CHUNK, block * (self.rows.weights.shape[0] * self.rows.weights.shape[1] + 2))


def _check_sizes(shape: tuple[int, ...], *, resized: tuple[int, int], original: tuple[int, int], stride: int) -> None:
    if len(shape) != 3:
        raise ValueError(f"probabilities must be [n, h, w], got shape {shape}")
    if stride < 1 or min(original) < 1:
        raise ValueError(f"stride and original size must be positive, got {stride} and {original}")
    padded = (stride * shape[1], stride * shape[2])
    if not (1 <= resized[0] <= padded[0] and 1 <= resized[1] <= padded[1]):
        raise ValueError(f"resized size {resized} must lie within the padded size {padded}")


def _plan(cells: tuple[int, ...], resized: tuple[int, int], original: tuple[int, int], stride: int) -> _Plan:
    samples = _sample_positions(resized[0], original[0])
    knots = _knots(cells[0], resized[0], stride)
    at_knots = len(samples) > 2 * len(knots)  # from about here finding the crossings costs less than every row
    places = knots if at_knots else samples
    rows = _axis(places, cells[0], stride, operands=cells[1])
    columns = _axis(_sample_positions(resized[1], original[1]), cells[1], stride, operands=len(places))
    return _Plan(rows, columns, samples, resized[0] / original[0], at_knots)


def _sample_positions(n_in: int, n_out: int) -> np.ndarray:
    """Where a bilinear resize from n_in to n_out pixels reads its input: float32 [n_out] in [0, n_in - 1].

    In float32, as the published systems compute it (exact positions move a value by up to 1e-4); and, as there,
    a single output is the first input and not the middle one.
    """
    scale = np.float32(n_in) / np.float32(n_out) if n_out > 1 else np.float32(0)
    centres = np.arange(n_out, dtype=np.float32) + np.float32(0.5)
    return (scale * centres - np.float32(0.5)).clip(0, n_in - 1)


def _knots(cells: int, resized: int, stride: int) -> np.ndarray:
    """Rows of the network input between which a resized column is a straight line: int64, ascending.

    The first resize is linear between cell centres, the second between pixels: together they bend only at the
    pixels beside (or at) a cell centre, and end at the first and last pixel.
    """
    centres = stride * np.arange(cells)
    knots = np.concatenate([[0], centres + (stride - 1) // 2, centres + stride // 2, [resized - 1]])
    return np.unique(knots[knots < resized])


def _neighbours(positions: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two of n inputs around each position and the way between them: int64, int64, float32 in [0, 1)."""
    lower = np.floor(positions).astype(np.int64)
    return lower, np.minimum(lower + 1, n - 1), (positions - lower).astype(np.float32)


def _axis(places: np.ndarray, cells: int, stride: int, *, operands: int) -> _Axis:
    """Both resizes in one: the pixels around each place, and the cells around each of these pixels.

    Args:
        places: [k], ascending, in pixels of the network input.
        cells: how many cells the axis has.
        stride: pixels per cell.
        operands: length of what is to be mixed; with it a block is as large as _BLOCK_PRODUCT allows.
    """
    pixels = int(places[-1]) + 2  # the last one only ever with weight 0
    left, right, way = _neighbours(places, pixels)
    centres = ((np.arange(pixels) + 0.5) / stride - 0.5).clip(0, cells - 1)
    lower, upper, fraction = _neighbours(centres, cells)

    block = 64
    first, width = _cells_of_blocks(lower[left], upper[right], block)
    while block > 8 and block * width * operands > _BLOCK_PRODUCT:
        block //= 2
        first, width = _cells_of_blocks(lower[left], upper[right], block)
    first = np.minimum(first, cells - width)

    weights = np.zeros((len(first), block, width), np.float32)
    index, place = np.divmod(np.arange(len(places)), block)
    for pixel, share in ((left, 1 - way), (right, way)):
        weights[index, place, lower[pixel] - first[index]] += share * (1 - fraction[pixel])
        weights[index, place, upper[pixel] - first[index]] += share * fraction[pixel]
    positions = np.full(len(first) * block, places[-1] + 1, np.float64)
    positions[: len(places)] = places
    return _Axis(positions, first, weights)


def _cells_of_blocks(lowest: np.ndarray, highest: np.ndarray, block: int) -> tuple[np.ndarray, int]:
    """First cell of each block of places, and how many cells the widest block spans."""
    starts = np.arange(0, len(lowest), block)
    first = lowest[starts]
    last = highest[np.minimum(starts + block, len(highest)) - 1]
    return first, int((last - first).max()) + 1


def _reached_blocks(axis: _Axis, lowest: int, highest: int) -> tuple[int, int]:
    """The blocks, begin and end, that touch one of the cells lowest .. highest or a neighbour of one."""
    begin = np.searchsorted(axis.first, lowest - 1 - axis.weights.shape[2], side="right")
    end = np.searchsorted(axis.first, highest + 1, side="right")
    return int(begin), int(end)


def _cells_of(axis: _Axis, begin: int, end: int) -> slice:
    """The cells that blocks begin .. end - 1 are made of."""
    return slice(axis.first[begin], axis.first[end - 1] + axis.weights.shape[2])


def _mix(axis: _Axis, begin: int, end: int, cells: np.ndarray, out: np.ndarray) -> None:
    """Fill out [(end - begin) * block, m] with the places of blocks begin .. end - 1.

    cells: [k, m], from the first cell of block `begin` of the axis on.
    """
    _, block, width = axis.weights.shape
    for i in range(begin, end):
        first, place = axis.first[i] - axis.first[begin], (i - begin) * block
        np.matmul(axis.weights[i], cells[first : first + width], out=out[place : place + block])


def _edges_above(probability: np.ndarray, threshold: np.float32, plan: _Plan, scratch: np.ndarray) -> np.ndarray:
    """Where the resized probability, float32 [h, w], changes between above the threshold and not, down the columns.

    A resized value is a weighted mean of cells, so that only those within reach of a cell above the threshold can be
    above it: the others are not computed. scratch: float32 [plan.chunk_size], to be overwritten.

    Returns:
        int64 [2 * runs], ascending: first pixel of each run and the one after its last, in column-major order of the
        original.
    """
    x, y, cells_across, cells_down = cv2.boundingRect((probability > threshold).view(np.uint8))
    if cells_across == 0:
        return np.zeros(0, np.int64)
    rows, columns = plan.rows, plan.columns
    top, bottom = _reached_blocks(rows, y, y + cells_down - 1)
    left, right = _reached_blocks(columns, x, x + cells_across - 1)
    if top >= bottom or left >= right:  # all of it lies in the padding
        return np.zeros(0, np.int64)

    row_block, column_block = rows.weights.shape[1], columns.weights.shape[1]
    window = probability[_cells_of(rows, top, bottom), _cells_of(columns, left, right)]
    # A cell at or below the threshold becomes <= 0, and so stays, in floating point too, any weighted mean of such.
    excess = window - threshold
    mixed = np.empty(((bottom - top) * row_block, excess.shape[1]), np.float32)  # [places, cells]
    _mix(rows, top, bottom, excess, mixed)
    cells = cv2.transpose(mixed)  # [cells, places]: products take twice as long of a transposed view

    places, height = len(mixed), len(plan.samples)
    chunk = max(1, min(right - left, _CHUNK // (column_block * (places + 2))))  # blocks of columns
    values = scratch[: chunk * column_block * (places + 2)].reshape(chunk * column_block, places + 2)
    values[:, 0] = values[:, -1] = -1  # each column is closed at both ends
    knots = rows.positions[top * row_block : bottom * row_block]
    parts = []
    for begin in range(left, right, chunk):
        end = min(begin + chunk, right)
        part = values[: (end - begin) * column_block]
        _mix(columns, begin, end, cells[columns.first[begin] - columns.first[left] :], part[:, 1:-1])
        edges = (
            _edges_between_knots(part, knots, plan)
            if plan.at_knots
            else _edges_between_rows(part, first_row=top * row_block, height=height)
        )
        parts.append(edges + begin * column_block * height)
    return _without_pairs(np.concatenate(parts))


def _changes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where values [columns, places] change between positive and not, down the columns: int64, the place before each
    change, counted on through all columns, and its column.

    The first and last of each column are negative, so that changes alternate between up and down.
    """
    positive = (values > 0).ravel()
    change = np.flatnonzero(positive[1:] != positive[:-1])
    return change, change // values.shape[1]


def _edges_between_rows(values: np.ndarray, *, first_row: int, height: int) -> np.ndarray:
    """Edges, in pixels from the first column on, of values [columns, 1 + rows + 1], the original's from first_row on.

    values: float32, the first and last of each column negative, zero past the last row of the original.
    """
    change, column = _changes(values)
    return change + column * (height - values.shape[1]) + first_row


def _edges_between_knots(values: np.ndarray, knots: np.ndarray, plan: _Plan) -> np.ndarray:
    """Edges, in pixels from the first column on, of values [columns, 1 + knots + 1] with straight lines between knots.

    values: float32, the first and last of each column negative. knots: float64 [knots], positions of those between.
    """
    change, column = _changes(values)
    before = change - column * values.shape[1]
    knots = np.concatenate([knots[:1] - 1, knots, knots[-1:] + 1])
    here, there = values.ravel()[change].astype(np.float64), values.ravel()[change + 1]
    zero = knots[before] + here / (here - there) * np.diff(knots)[before]
    # A row exactly at zero is outside.
    row = np.empty(len(zero), np.int64)
    row[0::2] = _count_samples(plan, zero[0::2], np.less_equal)
    row[1::2] = _count_samples(plan, zero[1::2], np.less)
    return column * len(plan.samples) + row


def _count_samples(plan: _Plan, limits: np.ndarray, compare: np.ufunc) -> np.ndarray:
    """How many of the samples are `compare` (< or <=) each limit: int64, from their even spacing, put right by one."""
    number = len(plan.samples)
    padded = np.concatenate([[-np.inf], plan.samples, [np.inf]]).astype(np.float32)
    count = np.ceil((limits + 0.5) / plan.spacing - 0.5).clip(0, number).astype(np.int64)
    count += compare(padded[1:][count], limits)
    count -= ~compare(padded[count], limits)
    # Several samples may lie at either end.
    count[~compare(plan.samples[0], limits)] = 0
    count[compare(plan.samples[-1], limits)] = number
    return count


def _without_pairs(edges: np.ndarray) -> np.ndarray:
    """Ascending edges without those that cancel: a run between two rows, or one that goes on in the next column."""
    steps = edges[1:] - edges[:-1]
    if steps.all():
        return edges
    first = np.flatnonzero(np.append(True, steps))
    return edges[first[np.diff(first, append=len(edges)) % 2 == 1]]


def _encode_edges(edges: np.ndarray, size: tuple[int, int]) -> Rle:
    """The compressed COCO RLE of a mask of (height, width) whose runs start and stop at `edges`."""
    ends = np.append(edges, size[0] * size[1])
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    if len(lengths) > 1 and lengths[-1] == 0:  # the mask holds the last pixel
        lengths = lengths[:-1]
    return encode_runs(lengths, size)


def _simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed ring int32 [k, 2] with fewer points, none farther than `tolerance` from it, or without repeats only."""
    exact = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    simple = cv2.approxPolyDP(exact, tolerance, True)[:, 0]
    return simple if len(simple) >= 3 else exact


def _join_hole(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One ring that goes from its point nearest to the hole's first around the hole and back."""
    nearest = int(np.square(ring - hole[0]).sum(axis=1).argmin())
    return np.concatenate([ring[: nearest + 1], hole, hole[:1], ring[nearest:]])
