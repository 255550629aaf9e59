"""Result files of the usual form, evaluated by hotcoco: the same numbers as ours in a fraction of the time.

hotcoco is a COCO evaluation in Rust, there with the extra "evaluate". It only gets files that `read_plain` has checked,
since it takes broken run lengths without a word. All other files go to our own reader.
"""

import contextlib
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ppsolo.data.annotations.table import Annotations
from ppsolo.evaluation.accumulation import Accumulation
from ppsolo.results.rle import MAX_COORDINATE, fill_their_images

IOU_TYPES = ("segm", "bbox")  # hotcoco knows no boundaries


class _Runs(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str


class _Entry(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float
    segmentation: _Runs
    bbox: tuple[float, float, float, float] | None = None
    file_name: str | None = None


class PlainResults(NamedTuple):
    """Results that were checked. path: the file. images, categories: int64 [D], index and id of each result's.

    truth, found: the annotations and the results as hotcoco has them.
    """

    path: Path
    images: np.ndarray
    categories: np.ndarray
    truth: Any
    found: Any


def read_plain(path: Path, table: Annotations, *, box_from_mask: bool = False) -> PlainResults | None:
    """Check results against the annotations of a file; None where hotcoco cannot be used, or they are not usual.

    Usual are compressed run lengths in all entries, ids that are numbers, boxes in all entries or in none, names that
    agree; and annotations with area, bbox and outline, of which nothing was read by a special rule.

    box_from_mask: the boxes of the entries are not to count.
    """
    if importlib.util.find_spec("hotcoco") is None or not _is_plain(table):
        return None
    try:
        if not all(map(_is_utf8, (path, table.source))):
            return None
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    index = {image_id: place for place, image_id in enumerate(table.image_ids)}
    images = np.array([index.get(entry.image_id, -1) for entry in entries], np.int64)
    categories = np.array([entry.category_id for entry in entries], np.int64)
    if not entries or images.min() < 0 or not set(categories.tolist()) <= set(table.category_ids):
        return None
    named = {(int(image), entry.file_name) for image, entry in zip(images, entries, strict=True)}
    if any(name is not None and name != table.file_names[image] for image, name in named):
        return None
    sizes = table.sizes[images].astype(np.int64)
    if not np.array_equal(sizes, np.array([entry.segmentation.size for entry in entries])):
        return None
    boxes = [entry.bbox for entry in entries if entry.bbox is not None]
    if len(boxes) not in (0, len(entries)) or (boxes and (box_from_mask or not _are_boxes(np.array(boxes)))):
        return None
    counts = [entry.segmentation.counts.encode() for entry in entries]
    if not fill_their_images(counts, sizes).all():
        return None
    import hotcoco

    try:
        truth: Any = hotcoco.COCO(table.source)
        return PlainResults(path, images, categories, truth, truth.load_res(str(path)))
    except ValueError:  # of some forms that our reader takes
        return None


def accumulate_plain(
    results: PlainResults, table: Annotations, iou_types: Sequence[str], *, images: np.ndarray | None = None
) -> dict[str, Accumulation]:
    """COCO's numbers per IoU type; `images`: indices of the images that count, default: all.

    The categories of the arrays are sorted by id, as in `accumulate`.
    """
    import hotcoco

    accumulated = {}
    for iou_type in iou_types:
        evaluation: Any = hotcoco.COCOeval(results.truth, results.found, iou_type)
        if images is not None:
            evaluation.params.img_ids = list(table.image_ids.some(images))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the summary
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        arrays = evaluation.eval
        accumulated[iou_type] = Accumulation(
            np.asarray(arrays["precision"]), np.asarray(arrays["recall"]), [float(value) for value in evaluation.stats]
        )
    return accumulated


def _is_plain(table: Annotations) -> bool:
    usual = not (set(table.findings.to_json()) - {"crowd"})
    return (
        usual
        and len(table) > 0
        and table.image_ids.numbers is not None
        and table.ids.numbers is not None
        and bool((table.ids.numbers > 0).all())  # 0 means "no match" to others
        and all(isinstance(identity, int) for identity in table.category_ids)
        and not table.ignored.any()
        and bool(table.outlined.all())
        and not np.isnan(table.boxes).any()
        and not np.isnan(table.areas).any()
    )


def _is_utf8(path: str | Path) -> bool:
    """Whether a JSON file is UTF-8 without a byte order mark, the only form that hotcoco reads."""
    with open(path, "rb") as stream:
        return json.detect_encoding(stream.read(4)) == "utf-8"


def _are_boxes(boxes: np.ndarray) -> bool:
    return bool((np.abs(boxes) <= MAX_COORDINATE).all() and (boxes[:, 2:] >= 0).all())
