"""Result files of the usual form, evaluated by hotcoco: the same numbers in a fraction of the time.

hotcoco is a COCO evaluation in Rust; the extra "evaluate" installs it. It gets only files that `read_plain` checked.
It accepts broken run lengths in silence. `evaluate_plain` checks them meanwhile, and gives no numbers for broken ones.
ppsolo's own reader takes all other files.
"""

import importlib.util
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ppsolo.data.annotations.table import Annotations, Identity
from ppsolo.data.annotations.usual import CompressedRle
from ppsolo.evaluation.accumulation import Accumulation, column_means
from ppsolo.results.rle import MAX_COORDINATE, fill_their_images

IOU_TYPES = ("segm", "bbox")  # hotcoco has no boundary AP
AR1, AR100 = 6, 8  # places in COCO's summary


class _Entry(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float
    segmentation: CompressedRle
    bbox: tuple[float, float, float, float] | None = None
    file_name: str | None = None


class PlainResults(NamedTuple):
    """Results, checked except for their run lengths. path: the file.

    images, labels: int64 [D], positions in the annotations' lists. counts: D compressed run lengths.
    truth, found: the annotations and the results as objects of hotcoco.
    """

    path: Path
    images: np.ndarray
    labels: np.ndarray
    counts: list[str]
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
    counts = [entry.segmentation.counts for entry in entries]
    del entries  # hotcoco may need the memory
    import hotcoco

    try:
        truth: Any = hotcoco.COCO(table.source)
        return PlainResults(path, images, labels, counts, truth, truth.load_res(str(path)))
    except ValueError:  # our own reader may take this form
        return None


def evaluate_plain(
    results: PlainResults, table: Annotations, iou_types: Sequence[str], *, annotated: np.ndarray
) -> list[tuple[Accumulation, Accumulation]] | None:
    """Return COCO's numbers of all images and of the annotated ones, for each type; None if a mask is broken.

    annotated: bool [N], images. Without results elsewhere, the two are the same object.
    The arrays have only the first area range and the last limit of detections; categories are sorted by id.
    """

    def both(iou_type: str) -> tuple[Accumulation, Accumulation]:
        everywhere = _accumulate(results, iou_type)
        if annotated[results.images].all():
            return everywhere, everywhere
        return everywhere, _accumulate(results, iou_type, list(table.image_ids.some(np.flatnonzero(annotated))))

    with ThreadPoolExecutor() as pool:  # hotcoco leaves a core idle half of the time, and Python's lock free
        found = pool.map(both, iou_types)
        whole = fill_their_images(results.counts, table.sizes[results.images].astype(np.int64)).all()
        return list(found) if whole else None


def _accumulate(results: PlainResults, iou_type: str, image_ids: list[Identity] | None = None) -> Accumulation:
    """Return COCO's numbers of some images; default: all."""
    import hotcoco

    evaluation: Any = hotcoco.COCOeval(results.truth, results.found, iou_type)
    if image_ids is not None:
        evaluation.params.img_ids = image_ids
    evaluation.evaluate()
    limits = evaluation.params
    fewer, limits.max_dets = limits.max_dets[:-1], limits.max_dets[-1:]
    evaluation.accumulate()
    evaluation.summary_lines()
    stats = [float(value) for value in evaluation.stats]  # right, except for AR of fewer detections
    arrays = evaluation.eval
    limits.max_dets, limits.area_rng = fewer, limits.area_rng[:1]
    evaluation.accumulate()  # again: all limits for all areas would take twice as long
    means = column_means(evaluation.eval["recall"].reshape(-1, len(fewer)))
    stats[AR1:AR100] = [-1.0 if mean is None else mean for mean in means]
    return Accumulation(arrays["precision"][:, :, :, :1], arrays["recall"][:, :, :1], stats)


def _fit(entries: list[_Entry], images: np.ndarray, table: Annotations, *, box_from_mask: bool) -> bool:
    """Whether file names, sizes and boxes of results fit their images, and no box is missing if another one is used."""
    named = {(image, x.file_name) for image, x in zip(images.tolist(), entries, strict=True) if x.file_name is not None}
    if any(name != table.file_names[image] for image, name in named):
        return False
    boxes = [entry.bbox for entry in entries if entry.bbox is not None]
    if len(boxes) not in (0, len(entries)) or (boxes and (box_from_mask or not _are_boxes(np.array(boxes)))):
        return False
    sizes = [entry.segmentation.size for entry in entries]
    return [[size.height for size in sizes], [size.width for size in sizes]] == table.sizes[images].T.tolist()


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
