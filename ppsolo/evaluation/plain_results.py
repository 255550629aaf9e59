"""Result files of the usual form, evaluated by hotcoco: the same numbers in a fraction of the time.

hotcoco is a COCO evaluation in Rust; the extra "evaluate" installs it. It accepts broken run lengths in silence, so it
gets only files that `read_plain` has checked. ppsolo's own reader takes all other files.
"""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ppsolo.data.annotations.table import Annotations, Identity
from ppsolo.data.annotations.usual import CompressedRle
from ppsolo.evaluation.accumulation import Accumulation
from ppsolo.results.rle import MAX_COORDINATE, fill_their_images

IOU_TYPES = ("segm", "bbox")  # hotcoco has no boundary AP


class _Entry(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float
    segmentation: CompressedRle
    bbox: tuple[float, float, float, float] | None = None
    file_name: str | None = None


class PlainResults(NamedTuple):
    """Checked results. path: the file. images, labels: int64 [D], positions in the annotations' lists.

    truth, found: the annotations and the results as objects of hotcoco.
    """

    path: Path
    images: np.ndarray
    labels: np.ndarray
    truth: Any
    found: Any


def read_plain(path: Path, table: Annotations, *, box_from_mask: bool = False) -> PlainResults | None:
    """Check results against annotations; return None if hotcoco is missing or the files do not have the usual form.

    The usual form: all entries have compressed run lengths; ids are numbers; all entries have boxes, or none has; file
    names and ids agree. All annotations have area, bbox and outline, and no special rule was needed to read them.

    box_from_mask: ignore the boxes of the entries.
    """
    if importlib.util.find_spec("hotcoco") is None or not _is_plain(table):
        return None
    try:
        if not all(map(_is_utf8, (path, table.source))):
            return None
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    images = _places([entry.image_id for entry in entries], table.image_ids)
    labels = _places([entry.category_id for entry in entries], table.category_ids)
    if not entries or images.min() < 0 or labels.min() < 0:
        return None
    if not _fit(entries, images, table, box_from_mask=box_from_mask):
        return None
    del entries  # hotcoco may need the memory
    import hotcoco

    try:
        truth: Any = hotcoco.COCO(table.source)
        return PlainResults(path, images, labels, truth, truth.load_res(str(path)))
    except ValueError:  # our own reader may take this form
        return None


def accumulate_plain(
    results: PlainResults, table: Annotations, iou_type: str, *, images: np.ndarray | None = None
) -> Accumulation:
    """Return COCO's numbers; the arrays have only the first area range and the last limit of detections.

    images: indices of the images that count; default: all.
    The categories in the arrays are sorted by id, as in `accumulate`.
    """
    import hotcoco

    evaluation: Any = hotcoco.COCOeval(results.truth, results.found, iou_type)
    if images is not None:
        evaluation.params.img_ids = list(table.image_ids.some(images))
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()
    stats = [float(value) for value in evaluation.stats]
    limits = evaluation.params
    limits.area_rng, limits.max_dets = limits.area_rng[:1], limits.max_dets[-1:]
    evaluation.accumulate()  # again: to copy the arrays of all ranges and limits takes longer
    arrays = evaluation.eval
    return Accumulation(np.asarray(arrays["precision"]), np.asarray(arrays["recall"]), stats)


def _fit(entries: list[_Entry], images: np.ndarray, table: Annotations, *, box_from_mask: bool) -> bool:
    """Whether file names, masks and boxes of results fit their images, and no box is missing if another one is used."""
    named = {(image, x.file_name) for image, x in zip(images.tolist(), entries, strict=True) if x.file_name is not None}
    if any(name != table.file_names[image] for image, name in named):
        return False
    boxes = [entry.bbox for entry in entries if entry.bbox is not None]
    if len(boxes) not in (0, len(entries)) or (boxes and (box_from_mask or not _are_boxes(np.array(boxes)))):
        return False
    sizes = table.sizes[images].astype(np.int64)
    if list(map(tuple, sizes.tolist())) != [entry.segmentation.size for entry in entries]:
        return False
    return bool(fill_their_images([entry.segmentation.counts for entry in entries], sizes).all())


def _is_plain(table: Annotations) -> bool:
    usual = not (set(table.findings.to_json()) - {"crowd"})
    return (
        usual
        and len(table) > 0
        and table.image_ids.numbers is not None
        and table.ids.numbers is not None
        and bool((table.ids.numbers > 0).all())  # hotcoco takes 0 for "no match"
        and all(isinstance(identity, int) for identity in table.category_ids)
        and not table.ignored.any()
        and bool(table.outlined.all())
        and not np.isnan(table.boxes).any()
        and not np.isnan(table.areas).any()
    )


def _is_utf8(path: str | Path) -> bool:
    """Whether a JSON file is UTF-8 without a byte order mark; hotcoco reads nothing else."""
    with open(path, "rb") as stream:
        return json.detect_encoding(stream.read(4)) == "utf-8"


def _places(found: list[int], known: Iterable[Identity]) -> np.ndarray:
    """Return the position of each id among the known ones, -1 if it is not there: int64 [n]."""
    place_of = {identity: place for place, identity in enumerate(known)}
    return np.array([place_of.get(identity, -1) for identity in found], np.int64)


def _are_boxes(boxes: np.ndarray) -> bool:
    return bool((np.abs(boxes) <= MAX_COORDINATE).all() and (boxes[:, 2:] >= 0).all())
