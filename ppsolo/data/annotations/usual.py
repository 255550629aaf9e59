"""Reads many annotations of the usual form at a time, with the same result as one by one."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from ppsolo.data.annotations.keys import Categories, Images
from ppsolo.data.annotations.rules import Identity
from ppsolo.results.rle import MAX_COORDINATE, MAX_OUTLINE

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # see `short_identity`


class Size(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """[height, width] in a file."""

    height: int
    width: int


class CompressedRle(msgspec.Struct, gc=False):
    """A mask as COCO's compressed run lengths."""

    size: Size
    counts: str


class _Entry(msgspec.Struct, gc=False):
    id: Int64
    image_id: Int64
    category_id: Int64
    area: float
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] | CompressedRle
    iscrowd: int = 0
    ignore: msgspec.UnsetType = msgspec.UNSET  # an entry with this key is not usual


class UsualRows(NamedTuple):
    """Annotations as columns, in the order of the file.

    ids, image, label, crowd: one each. areas: float64 [n]. boxes: float64 [n, 4]. points: of all rings.
    ring_ends: where each ring ends in `points`. ring_counts, run_lengths: rings and bytes of each annotation.
    """

    ids: list[int]
    image: list[int]
    label: list[int]
    crowd: list[int]
    areas: np.ndarray
    boxes: np.ndarray
    points: array
    ring_ends: array
    ring_counts: list[int]
    run_bytes: bytes
    run_lengths: list[int]


_DECODER = msgspec.json.Decoder(list[_Entry])


def read_usual(entries: Sequence[msgspec.Raw], images: Images, categories: Categories) -> UsualRows | None:
    """Read the columns of some annotations; None if one of them has another form, so that all are read one by one."""
    try:
        read = _DECODER.decode(b"[" + b",".join(map(bytes, entries)) + b"]")
    except (msgspec.MsgspecError, RecursionError):
        return None
    image, label = (
        _found(images.index, [x.image_id for x in read]),
        _found(categories.index, [x.category_id for x in read]),
    )
    crowd = [x.iscrowd for x in read]
    areas, boxes = np.array([x.area for x in read], np.float64), np.array([x.bbox for x in read], np.float64)
    if image is None or label is None or not set(crowd) <= {0, 1} or not _are_usual(areas, boxes):
        return None
    points, ring_ends, runs = array("d"), array("q"), []
    ring_counts, run_lengths = [], []
    for entry, place in zip(read, image, strict=True):
        outline, text, rings = entry.segmentation, b"", 0
        if isinstance(outline, CompressedRle):
            if (outline.size.height, outline.size.width) != images.sizes[place]:
                return None
            text = outline.counts.encode()
            runs.append(text)
        else:
            rings = len(outline)
            for ring in outline:
                points.fromlist(ring)
                ring_ends.append(len(points))
        if not rings and not text:
            return None
        ring_counts.append(rings)
        run_lengths.append(len(text))
    if not _are_rings(np.frombuffer(points, np.float64), np.frombuffer(ring_ends, np.int64)):
        return None
    ids = [x.id for x in read]
    return UsualRows(
        ids, image, label, crowd, areas, boxes, points, ring_ends, ring_counts, b"".join(runs), run_lengths
    )


def _found(index: Mapping[Identity, int], identities: list[int]) -> list[int] | None:
    """Return the index of each, None if one is missing."""
    try:
        return [index[identity] for identity in identities]
    except KeyError:
        return None


def _are_usual(areas: np.ndarray, boxes: np.ndarray) -> bool:
    """Return whether all have an area, and a box near the image."""
    near = (np.abs(boxes) < MAX_COORDINATE / 2).all()
    return bool(near and (areas > 0).all() and (areas < 1e300).all() and (boxes[:, 2:] > 0).all())


def _are_rings(points: np.ndarray, ends: np.ndarray) -> bool:
    """Return whether all rings have at least three points, none of them far outside, and no outline is too long."""
    if len(ends) == 0:
        return True
    lengths = np.diff(ends, prepend=0)
    if lengths.min() < 6 or (lengths % 2).any():
        return False
    starts = ends - lengths
    highest, lowest = np.maximum.reduceat(points, starts), np.minimum.reduceat(points, starts)
    # The last bound is above every length of the outline.
    return bool((np.abs(points) <= MAX_COORDINATE).all() and (lengths * (highest - lowest) <= MAX_OUTLINE).all())
