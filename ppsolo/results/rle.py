"""Masks as COCO run lengths: read, checked, decoded and measured."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as pycocotools_mask

# {"size": [height, width], "counts": bytes}: the compressed form, which every function of pycocotools takes.
Rle = dict[str, Any]

MAX_PIXELS = 2**28  # of an image
MAX_OUTLINE = 1e6  # pixels around a polygon
MAX_COORDINATE = 1e5  # of a polygon, in pixels: pycocotools walks every edge, and one wild point could exhaust memory

_LONGEST_GROUP = 7  # characters of five bits each: enough for any 32-bit run
_CHARACTERS_AT_ONCE = 2**15  # few enough for the cache of a core
_AT_ONCE = 255  # masks: of more, pycocotools 2.0.11 cannot say the areas with numpy 2
_API: Any = pycocotools_mask  # published type stubs know only some of the forms that it takes


def read_segmentation(segmentation: object, size: tuple[int, int]) -> Rle:
    """Read one mask of an image of `size` (height, width) in any of COCO's three forms.

    A list of polygons [[x, y, x, y, ...], ...] in pixels; {"size", "counts"} with a list of run lengths; or the same
    with compressed run lengths (str or bytes). Runs go down the columns and begin with background.

    Raises:
        ValueError: says what is wrong if it is none of these, has another size than the image, or its runs do not
            fill the image: pycocotools itself would compute on, with stray memory.
    """
    if isinstance(segmentation, list):
        return draw_polygons(read_polygons(segmentation), size)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("the segmentation is neither a list of polygons nor a mapping with 'size' and 'counts'")
    _check_canvas(size)
    height, width = size
    stated, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(stated, (list, tuple)) or list(stated) != [height, width]:
        raise ValueError(f"the mask's size (height, width) is {stated}, the image's [{height}, {width}]")
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
        ValueError: there is none, or one has fewer than three points, a value that is no number, or a coordinate
            beyond MAX_COORDINATE.
    """
    if not polygons:
        raise ValueError("the segmentation is an empty list of polygons")
    return tuple(_read_polygon(polygon) for polygon in polygons)


def draw_polygons(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> Rle:
    """The union of polygons as `read_polygons` has them, in an image of `size` (height, width).

    Raises:
        ValueError: image or outline are too large for pycocotools, which walks every pixel of an edge.
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
        raise ValueError(f"the image is said to have {height} x {width} pixels, at most {MAX_PIXELS} can be")


def encode_mask(mask: np.ndarray) -> Rle:
    """The compressed COCO RLE of one mask, bool [height, width]."""
    return _API.encode(np.asfortranarray(mask, dtype=np.uint8))


def encode_runs(runs: np.ndarray, size: tuple[int, int]) -> Rle:
    """The compressed COCO RLE of int64 [runs] as `run_lengths` gives them, which fill `size` (height, width)."""
    height, width = int(size[0]), int(size[1])
    # An array goes through pycocotools as it is; a list would become one there, number by number.
    return _API.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def decode_mask(rle: Rle) -> np.ndarray:
    """The mask of a compressed COCO RLE: bool [height, width]."""
    height, width = rle["size"]
    columns = decode_window(rle, (0, 0, width, height)).T
    return cv2.transpose(columns.view(np.uint8)).view(bool)  # several times faster than a copy by numpy


def decode_masks(rles: Sequence[Rle], size: tuple[int, int]) -> np.ndarray:
    """The masks of compressed COCO RLEs that were checked: uint8 [n, height, width], 0 or 1."""
    masks = np.zeros((len(rles), *size), np.uint8)
    boxes = mask_boxes_xywh(rles).astype(np.int64)
    for mask, rle, (x, y, width, height) in zip(masks, rles, boxes.tolist(), strict=True):
        if width > 0:
            box = (x, y, x + width, y + height)
            cv2.transpose(decode_window(rle, box).T.view(np.uint8), dst=mask[box[1] : box[3], box[0] : box[2]])
    return masks


def decode_window(rle: Rle, box: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a mask inside a box, without decoding the columns beside it.

    Args:
        rle: compressed COCO RLE of a mask [height, width].
        box: (x1, y1, x2, y2) in pixels, inside the image, x2 and y2 exclusive.

    Returns:
        bool [y2 - y1, x2 - x1].
    """
    x1, y1, x2, y2 = box
    height = rle["size"][0]
    edges = np.cumsum(run_lengths(rle)).clip(x1 * height, x2 * height)
    lengths = np.diff(edges, prepend=x1 * height, append=x2 * height)
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(x2 - x1, height)[:, y1:y2].T


def run_lengths(rle: Rle) -> np.ndarray:
    """The run lengths of a compressed COCO RLE: int64 [runs], outside, inside, outside, ... in column-major order.

    A value is characters of five bits, lowest first, each saying whether another follows; from the fourth value on,
    it is the difference to the one two before.

    Raises:
        ValueError: `counts` (bytes or str) cannot be such a string.
    """
    counts = rle["counts"]
    groups = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if len(groups) == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("the run lengths ('counts') cannot be read")
    last = np.flatnonzero(groups & 32 == 0)  # bit 32 says: more follow
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


def fill_their_images(counts: Sequence[bytes], sizes: np.ndarray) -> np.ndarray:
    """Whether compressed run lengths are masks of images of `sizes`, int64 [n, 2] (height, width): bool [n].

    The same as reading them one by one with `read_segmentation`, in a twentieth of the time.
    """
    found = np.zeros(len(counts), bool)
    start = 0
    while start < len(counts):
        stop, characters = start, 0
        while stop < len(counts) and characters < _CHARACTERS_AT_ONCE:
            characters += len(counts[stop])
            stop += 1
        rows = np.array([row for row in range(start, stop) if counts[row]], np.int64)
        if rows.size:
            found[rows] = _fill(b"".join(counts[start:stop]), [len(counts[row]) for row in rows.tolist()], sizes[rows])
        start = stop
    return found


def _fill(text: bytes, lengths: Sequence[int], sizes: np.ndarray) -> np.ndarray:
    """As `fill_their_images`, of strings of some `lengths`, none of them 0, one after the other."""
    groups = np.frombuffer(text, np.uint8) - np.uint8(48)  # characters below 48 become large
    ends = np.cumsum(np.array(lengths, np.int64))
    starts = ends - lengths
    pixels = sizes[:, 0] * sizes[:, 1]
    good = (np.maximum.reduceat(groups, starts) <= 63) & (groups[ends - 1] & 32 == 0)
    good &= (pixels > 0) & (pixels <= MAX_PIXELS)
    groups[ends - 1] &= 31  # a broken string ends where it ends
    closing = groups & 32 == 0
    last = np.flatnonzero(closing)
    first = np.empty_like(last)
    first[0], first[1:] = 0, last[:-1] + 1
    spans = np.minimum(last - first, _LONGEST_GROUP)
    count = np.add.reduceat(closing, starts, dtype=np.int64)  # values of each mask
    begin = np.cumsum(count) - count
    good &= np.maximum.reduceat(spans, begin) < _LONGEST_GROUP
    bits = groups & 31
    values = bits[first].astype(np.int64)
    for place in range(1, min(int(spans.max()) + 1, _LONGEST_GROUP)):
        longer = np.flatnonzero(spans >= place)
        values[longer] += bits[first[longer] + place].astype(np.int64) << 5 * place
    values -= (groups[last] & 16).astype(np.int64) << (5 * spans + 1)
    # From the second value on, each adds to the one two before: running sums in pairs, of one mask after the other.
    pairs = count // 2
    heads = np.cumsum(pairs) - pairs
    place = np.arange(len(values)) + np.repeat(2 * heads - begin - 1, count)
    later = np.ones(len(values), bool)
    later[begin] = False
    table = np.zeros((int(pairs.sum()) + 1, 2), np.int64)  # with a row for masks of one value
    table.ravel()[place[later]] = values[later]
    sums = np.cumsum(table, axis=0)
    before = np.where(heads[:, None] > 0, sums[np.maximum(heads - 1, 0)], 0)
    sums[:-1] -= np.repeat(before, pairs, axis=0)
    sums[-1] = 0
    several = np.flatnonzero(pairs)
    lowest, total = np.zeros(len(count), np.int64), values[begin]
    flat = sums.ravel()
    lowest[several] = np.minimum.reduceat(flat, 2 * heads[several])
    total[several] += np.add.reduceat(flat, 2 * heads[several])
    odd = np.flatnonzero((count % 2 == 0) & (pairs > 0))  # the last pair has one value only
    total[odd] -= sums[heads[odd] + pairs[odd] - 1, 1]
    return good & (values[begin] >= 0) & (lowest >= 0) & (total == pixels)


def mask_areas(rles: Sequence[Rle]) -> np.ndarray:
    """Numbers of pixels in masks: int64 [n]."""
    parts = [_API.area(list(rles[start : start + _AT_ONCE])) for start in range(0, len(rles), _AT_ONCE)]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def mask_boxes(rles: Sequence[Rle]) -> np.ndarray:
    """Tight boxes of masks: float32 [n, 4], x1, y1, x2, y2 in pixels, x2 and y2 exclusive; zeros for an empty mask."""
    boxes = mask_boxes_xywh(rles)
    boxes[:, 2:] += boxes[:, :2]
    return boxes.astype(np.float32)


def mask_boxes_xywh(rles: Sequence[Rle]) -> np.ndarray:
    """Tight boxes as COCO files have them: float64 [n, 4], left, top, width, height in pixels; zeros if empty."""
    if len(rles) == 0:
        return np.zeros((0, 4))
    boxes = _API.toBbox(list(rles))
    boxes[mask_areas(rles) == 0] = 0  # of an empty mask with runs of length 0, pycocotools tells anything
    return boxes


def _read_polygon(polygon: object) -> np.ndarray:
    try:
        numbers = np.array(polygon if isinstance(polygon, list) else None)
    except ValueError:  # lists of several lengths in it
        numbers = np.array(None)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ValueError("a polygon is not a list of numbers")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"a polygon has {len(numbers)} numbers; it takes x, y for each of 3 points or more")
    points = numbers.astype(np.float64)
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise ValueError("a polygon has a coordinate that is not finite or far outside")
    return points


def _plain_runs(counts: list[Any]) -> np.ndarray:
    if not all(isinstance(run, int) and 0 <= run < 2**32 for run in counts):
        raise ValueError("the run lengths ('counts') are not all whole numbers from 0")
    return np.array(counts, np.int64)


def _checked_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"the run lengths add up to {runs.sum()}, not to {size[0]} x {size[1]} pixels")
    return runs
