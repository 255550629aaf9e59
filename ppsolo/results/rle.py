"""Masks as COCO run lengths: reading, checking, decoding and measuring."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as pycocotools_mask

# {"size": [height, width], "counts": bytes}: the compressed form; every function of pycocotools accepts it.
Rle = dict[str, Any]

MAX_PIXELS = 2**28  # of an image
MAX_OUTLINE = 1e6  # pixels around a polygon
MAX_COORDINATE = 1e5  # in pixels: pycocotools walks along every edge, so a far point could fill the memory

_LONGEST_GROUP = 7  # characters of five bits each: enough for any 32-bit run
_GROUPS_OF_INT32 = 6  # 30 bits
_CHARACTERS_AT_ONCE = 2**18  # the arrays fit into a core's cache
_AT_ONCE = 255  # masks per call: pycocotools 2.0.11 with numpy 2 fails for areas of more
_API: Any = pycocotools_mask  # the published type stubs lack some argument types


def read_segmentation(segmentation: object, size: tuple[int, int]) -> Rle:
    """Read one mask of an image of `size` (height, width) in any of COCO's three forms.

    The forms are: polygons [[x, y, x, y, ...], ...] in pixels; {"size", "counts"} with a list of run lengths; the same
    with compressed run lengths (str or bytes). Runs go down the columns and begin with background.

    Raises:
        ValueError: says what is wrong: another form, another size than the image, or runs that do not fill the
            image. pycocotools would not notice, and would compute with stray memory.
    """
    if isinstance(segmentation, list):
        return draw_polygons(read_polygons(segmentation), size)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("the segmentation is neither a list of polygons nor a mapping with 'size' and 'counts'")
    _check_canvas(size)
    height, width = size
    stated, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(stated, (list, tuple)) or list(stated) != [height, width]:
        raise ValueError(f"the mask's size (height, width) is {stated}, but the image's [{height}, {width}]")
    if isinstance(counts, list):
        return encode_runs(_checked_runs(_plain_runs(counts), size), size)
    if not isinstance(counts, (str, bytes)):
        raise ValueError("the run lengths ('counts') are neither a list nor a string")
    rle = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    _checked_runs(run_lengths(rle), size)
    return rle


def read_polygons(polygons: list[Any]) -> tuple[np.ndarray, ...]:
    """Read COCO polygons [[x, y, x, y, ...], ...] without drawing them: each float64 [2 * points], in pixels.

    Raises:
        ValueError: there are none, or one has fewer than three points, a value that is not a number, or a coordinate
            beyond MAX_COORDINATE.
    """
    if not polygons:
        raise ValueError("the segmentation is an empty list of polygons")
    return tuple(_read_polygon(polygon) for polygon in polygons)


def draw_polygons(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> Rle:
    """Draw the union of polygons of `read_polygons` in an image of `size` (height, width).

    Raises:
        ValueError: image or outline are too large for pycocotools, which walks along every pixel of an edge.
    """
    return draw_outlines([tuple(polygons)], size)[0]


def draw_outlines(outlines: Sequence[tuple[np.ndarray, ...] | Rle], size: tuple[int, int]) -> list[Rle]:
    """Masks of an image of `size` (height, width): each the union of its polygons, or as it is if it is run lengths.

    Raises:
        ValueError: as `draw_polygons`.
    """
    _check_canvas(size)
    rings = [ring for outline in outlines if isinstance(outline, tuple) for ring in outline]
    for ring in rings:
        points = np.asarray(ring).reshape(-1, 2)
        if np.abs(points[1:] - points[:-1]).sum() + np.abs(points[0] - points[-1]).sum() > MAX_OUTLINE:
            raise ValueError(f"a polygon's outline is longer than {MAX_OUTLINE:g} pixels")
    drawn = iter(_API.frPyObjects(rings, *size) if rings else ())
    found = []
    for outline in outlines:
        if isinstance(outline, tuple):
            parts = [next(drawn) for _ in outline]
            found.append(parts[0] if len(parts) == 1 else _API.merge(parts))
        else:
            found.append(outline)
    return found


def _check_canvas(size: tuple[int, int]) -> None:
    height, width = size
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise ValueError(f"the image has {height} x {width} pixels by its entry, but the limit is {MAX_PIXELS}")


def checked_rle(rle: Rle, size: tuple[int, int]) -> Rle:
    """Return a new compressed RLE for an image of `size`, with its counts as bytes.

    Raises ValueError if it has another size, or if its counts are neither bytes nor str.
    """
    if list(rle["size"]) != list(size):
        raise ValueError(f"a mask has size {list(rle['size'])}, but the image {list(size)}")
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    if not isinstance(counts, bytes):
        raise ValueError("counts must be a compressed RLE, bytes or str")
    return {"size": [int(size[0]), int(size[1])], "counts": counts}


def encode_mask(mask: np.ndarray) -> Rle:
    """Encode one mask, bool [height, width], as a compressed COCO RLE."""
    return _API.encode(np.asfortranarray(mask, dtype=np.uint8))


def encode_edges(edges: np.ndarray, size: tuple[int, int]) -> Rle:
    """Encode a mask of `size` (height, width) as a compressed COCO RLE.

    edges: int64 [2 * runs], ascending: the first pixel of each run and the pixel after its last, in column-major order.
    """
    ends = np.append(edges, size[0] * size[1])
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    if len(lengths) > 1 and lengths[-1] == 0:  # the mask contains the last pixel
        lengths = lengths[:-1]
    return encode_runs(lengths, size)


def encode_runs(runs: np.ndarray, size: tuple[int, int]) -> Rle:
    """Encode int64 [runs], a result of `run_lengths` that fills `size` (height, width), as a compressed COCO RLE."""
    height, width = int(size[0]), int(size[1])
    # pycocotools uses an array directly; it would copy a list number by number.
    return _API.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def union(rles: Sequence[Rle]) -> Rle:
    """Return the pixels of any of these masks of one image."""
    return _API.merge(list(rles))


def decode_mask(rle: Rle) -> np.ndarray:
    """Decode a compressed COCO RLE: bool [height, width]."""
    height, width = rle["size"]
    return decode_window(rle, (0, 0, width, height))


def decode_masks(rles: Sequence[Rle], size: tuple[int, int]) -> np.ndarray:
    """Decode checked compressed COCO RLEs: uint8 [n, height, width], 0 or 1."""
    masks = np.zeros((len(rles), *size), np.uint8)
    boxes = mask_boxes_xywh(rles).astype(np.int64)
    for mask, rle, (x, y, width, height) in zip(masks, rles, boxes.tolist(), strict=True):
        if width > 0:
            mask[y : y + height, x : x + width] = decode_window(rle, (x, y, x + width, y + height))
    return masks


def decode_window(rle: Rle, box: tuple[int, int, int, int]) -> np.ndarray:
    """Decode the part of a mask inside a box, without the columns beside it.

    Args:
        rle: compressed COCO RLE of a mask [height, width].
        box: (x1, y1, x2, y2) in pixels, inside the image, x2 and y2 exclusive.

    Returns:
        bool [y2 - y1, x2 - x1], row by row in memory.
    """
    x1, y1, x2, y2 = box
    height = rle["size"][0]
    edges = np.cumsum(run_lengths(rle)).clip(x1 * height, x2 * height)
    lengths = np.diff(edges, prepend=x1 * height, append=x2 * height)
    inside = np.arange(len(lengths)) % 2 == 1
    columns = np.repeat(inside, lengths).reshape(x2 - x1, height)[:, y1:y2]
    if columns.size == 0:
        return columns.T
    return cv2.transpose(columns.view(np.uint8)).view(bool)  # several times faster than a copy by numpy


def run_lengths(rle: Rle) -> np.ndarray:
    """Return the runs of a compressed COCO RLE: int64 [runs], outside, inside, outside, ... in column-major order.

    A value is a sequence of characters with five bits each, lowest first; another bit says whether more follow. From
    the fourth value on, a value is the difference to the value two before it.

    Raises:
        ValueError: `counts` (bytes or str) is not such a string.
    """
    counts = rle["counts"]
    groups = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if len(groups) == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("the run lengths ('counts') cannot be read")
    last = np.flatnonzero(groups & 32 == 0)  # bit 32: more characters follow
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _LONGEST_GROUP:
        raise ValueError("the run lengths ('counts') cannot be read")
    shift = 5 * (np.arange(len(groups)) - np.repeat(first, lengths))
    values = np.add.reduceat((groups & 31) << shift, first)
    values -= (groups[last] & 16) << (shift[last] + 1)  # bit 16 of the last group is the sign
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def fill_their_images(counts: Sequence[str], sizes: np.ndarray) -> np.ndarray:
    """Whether compressed run lengths are masks of images of `sizes`, int64 [n, 2] (height, width): bool [n].

    Gives the result of `read_segmentation` for each, in a fiftieth of the time.
    """
    lengths = np.array([len(text) if text.isascii() else 0 for text in counts], np.int64)
    found = np.zeros(len(counts), bool)
    rows = np.flatnonzero(lengths)
    ends = np.cumsum(lengths[rows])
    for some in np.split(rows, np.flatnonzero(np.diff(ends // _CHARACTERS_AT_ONCE)) + 1):
        if len(some):
            places: list[int] = some.tolist()
            text = "".join([counts[place] for place in places])
            found[some] = _fill(text.encode(), lengths[some], sizes[some])
    return found


def _fill(text: bytes, lengths: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`fill_their_images` for joined strings with these `lengths`, none of them 0."""
    groups = np.frombuffer(text, np.uint8) - np.uint8(48)  # characters below 48 wrap around to large values
    ends = np.cumsum(lengths)
    starts = ends - lengths
    pixels = sizes[:, 0] * sizes[:, 1]
    good = (np.maximum.reduceat(groups, starts) <= 63) & (groups[ends - 1] & 32 == 0)
    good &= (pixels > 0) & (pixels <= MAX_PIXELS)
    groups[ends - 1] &= 31  # a broken string must not run into the next
    more = np.flatnonzero(groups > 31)  # where the next group belongs to the same value
    values, long = _values(groups, more)
    lowest, total = _sums(values, lengths - np.diff(np.searchsorted(more, np.append(starts, len(groups)))))
    good &= (lowest >= 0) & (total == pixels)
    for row in np.unique(np.searchsorted(ends, long, "right")).tolist():
        good[row] = _is_mask(text[starts[row] : ends[row]], sizes[row])
    return good


def _values(groups: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of groups of five bits, int32, and the places of values that do not fit into 30 bits.

    groups: uint8. more: where the next group belongs to the same value. Nearly all values have one group.
    """
    bits = ((groups ^ 16) - 16).view(np.int8)  # bit 16 of the last group is the sign
    bits[more] = groups[more] & 31
    values = bits.astype(np.int32)
    first = np.ones(len(groups), bool)  # whether a value begins here
    first[more + 1] = False
    for number in range(1, _GROUPS_OF_INT32):
        values[more] += bits[more + number].astype(np.int32) << (5 * number)
        more = more[groups[more + number] > 31]
    return values[first], more


def _sums(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest run and the sum of the runs of each mask, int64 [n].

    values: of all masks, int32, changed here. counts: values of each mask, at least 1.
    From the fourth value on, each is added to the run two before: running sums of the values at even places and of
    those at odd places, mask by mask.
    """
    starts = np.cumsum(counts) - counts
    lowest = values[starts].astype(np.int64)
    total = lowest.copy()
    values[starts] = 0  # the first run is in no running sum
    for odd in (0, 1):
        sums = np.cumsum(values[odd::2], dtype=np.int64)
        begins = (starts - odd + 1) // 2
        number = np.diff(begins, append=len(sums))
        rows = np.flatnonzero(number)
        begins = begins[rows]
        before = np.where(begins > 0, sums[begins - 1], 0)  # the sum of the masks before
        lowest[rows] = np.minimum(lowest[rows], np.minimum.reduceat(sums, begins) - before)
        total[rows] += np.add.reduceat(sums, begins) - number[rows] * before
    return lowest, total


def _is_mask(counts: bytes, size: np.ndarray) -> bool:
    try:
        read_segmentation({"size": size.tolist(), "counts": counts}, (int(size[0]), int(size[1])))
    except ValueError:
        return False
    return True


def mask_areas(rles: Sequence[Rle]) -> np.ndarray:
    """Return the number of pixels of each mask: int64 [n]."""
    parts = [_API.area(list(rles[start : start + _AT_ONCE])) for start in range(0, len(rles), _AT_ONCE)]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def mask_boxes(rles: Sequence[Rle]) -> np.ndarray:
    """Tight boxes of masks: float32 [n, 4], x1, y1, x2, y2 in pixels, x2 and y2 exclusive; zeros for an empty mask."""
    boxes = mask_boxes_xywh(rles)
    boxes[:, 2:] += boxes[:, :2]
    return boxes.astype(np.float32)


def mask_boxes_xywh(rles: Sequence[Rle]) -> np.ndarray:
    """Tight boxes as in COCO files: float64 [n, 4], left, top, width, height in pixels; zeros if empty."""
    if len(rles) == 0:
        return np.zeros((0, 4))
    boxes = _API.toBbox(list(rles))
    boxes[mask_areas(rles) == 0] = 0  # for an empty mask with runs of length 0, pycocotools returns arbitrary values
    return boxes


def _read_polygon(polygon: object) -> np.ndarray:
    try:
        numbers = np.array(polygon if isinstance(polygon, list) else None)
    except ValueError:  # it contains lists of different lengths
        numbers = np.array(None)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ValueError("a polygon is not a list of numbers")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"a polygon has {len(numbers)} numbers; it needs x, y for at least 3 points")
    points = numbers.astype(np.float64)
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise ValueError("a polygon has a coordinate that is not finite or far outside")
    return points


def _plain_runs(counts: list[Any]) -> np.ndarray:
    if not all(isinstance(run, int) and 0 <= run < 2**32 for run in counts):
        raise ValueError("the run lengths ('counts') are not all integers from 0 on")
    return np.array(counts, np.int64)


def _checked_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"the run lengths add up to {runs.sum()}, not to {size[0]} x {size[1]} pixels")
    return runs
