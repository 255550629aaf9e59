"""A check of a data set in COCO's format before training: all faults at once, and grids that fit."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.check.grid_fit import (
    GRID_CHOICES,
    GridFit,
    fit_image,
    join_fits,
    suggest_num_grids,
    suggest_scale_ranges,
    training_sizes,
)
from ppsolo.check.report import (
    SIZE_QUANTILES,
    DataReport,
    Findings,
    LevelReport,
    SettingsReport,
)
from ppsolo.data.augment import BoxConvention, Resize
from ppsolo.data.coco import ImageRecord, Outline, annotation_area, annotation_box, annotation_outline, read_lists
from ppsolo.data.images import MAX_PIXELS, ImageReader, read_ahead
from ppsolo.data.targets import MASK_STRIDE
from ppsolo.errors import DatasetError, ImageError

Progress = Callable[[int, int | None], None]
Ranges = tuple[tuple[float, float], ...]

BOX_SLACK, BOX_IOU = 4, 0.5  # bbox and outline differ if a side is further off, in pixels, and the IoU is less


def check_dataset(
    annotations: str | os.PathLike,
    image_dir: str | os.PathLike,
    *,
    short_side: int,
    long_side: int,
    num_grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    num_classes: int | None = None,
    round_sides: bool = True,
    box_convention: BoxConvention = "exclusive",
    images: bool = True,
    read: ImageReader | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """Read a data set as training would, go on at every fault, and say what was found and what would fit.

    Of several faults of one annotation the first is listed; of entries with the same id the first is used. Memory
    holds the annotations, and one image with some of its masks at a time.

    Args:
        annotations, image_dir: COCO's JSON file, and the folder that its file names are relative to.
        short_side, long_side, round_sides, box_convention: the training scale, as for `Resize`.
        num_grids, scale_ranges: of each level, as for `make_targets`.
        num_classes: the configuration's, if it is to be compared.
        read: what reads the images; `read_image` if None.
        images: decode every image; else only see whether the files are there.
        progress: called with the number of images done, and of all.

    Raises:
        DatasetError: the file is not JSON or lacks a list of images, annotations or categories; no such folder.
        ValueError: grids and scale ranges are not those of the same levels, or a grid is less than 1.
    """
    if not num_grids or min(num_grids) < 1 or len(num_grids) != len(scale_ranges):
        raise ValueError(f"grids {num_grids} and scale ranges {scale_ranges}: every level needs one of both")
    findings = Findings()
    names, records = _read_records(Path(annotations), Path(image_dir), box_convention, findings)
    resize = Resize((short_side,), long_side, round_sides=round_sides, box_convention=box_convention)
    sizes = np.concatenate([np.zeros(0, np.float32), *(training_sizes(record, resize) for record in records)])
    ranges = suggest_scale_ranges(sizes, len(num_grids), long_side=long_side) if len(sizes) else ()
    grids_to_try, ranges_to_try = _levels_to_try(num_grids, scale_ranges, ranges)
    fits = []
    for done, (record, found) in enumerate(_read_images(records, read, decode=images), start=1):
        _check_image(record, found, findings)
        if len(record.boxes):
            fits.append(fit_image(record, resize, num_grids=grids_to_try, scale_ranges=ranges_to_try))
        if progress is not None:
            progress(done, len(records))
    counts = _check_categories(records, names, num_classes, findings)
    given = suggested = None
    if fits:
        fit = join_fits(fits)
        given = _settings_report(fit.assigned, fit.lost, num_grids, scale_ranges)
        suggested = _suggest(fit, ranges)
        _check_fit(records, sizes, fit, len(num_grids), findings)
    else:
        findings.add("nothing-to-train")
    return DataReport(
        annotations=str(annotations),
        image_dir=str(image_dir),
        training_scale=(short_side, long_side),
        images=len(records),
        instances=len(sizes),
        crowds=sum(len(record.crowds) for record in records),
        categories=tuple((identity, name, counts[identity]) for identity, name in names.items()),
        sizes=tuple(np.quantile(sizes, SIZE_QUANTILES).tolist()) if len(sizes) else (),
        given=given,
        suggested=suggested,
        problems=findings.problems(instances=len(sizes)),
    )


def _read_records(
    annotations: Path, image_dir: Path, box_convention: BoxConvention, findings: Findings
) -> tuple[dict[int, str], list[ImageRecord]]:
    """The names of the categories by id, and the usable images by ascending id with their usable annotations."""
    lists = read_lists(annotations)
    if not image_dir.is_dir():
        raise DatasetError(f"{image_dir}: no such image folder; give the one that 'file_name' is relative to")
    categories = _by_id("categories", lists["categories"], findings)
    images = _by_id("images", lists["images"], findings)
    of_image = defaultdict(list)
    for identity, annotation in _by_id("annotations", lists["annotations"], findings).items():
        image_id = annotation.get("image_id")
        if isinstance(image_id, int) and image_id in images:
            of_image[image_id].append(annotation)
        else:
            findings.add("unknown-image", identity, f"annotation {identity} is for image {image_id}")
    labels = {category_id: label for label, category_id in enumerate(categories)}
    records = [
        _record(images[image_id], size, of_image[image_id], image_dir, labels, box_convention, findings)
        for image_id in sorted(images)
        if (size := _listed_size(images[image_id], findings)) is not None
    ]
    return {identity: str(entry.get("name", identity)) for identity, entry in categories.items()}, records


def _by_id(name: str, entries: list[Any], findings: Findings) -> dict[int, dict[str, Any]]:
    """The entries of a list by their ids, in its order."""
    found = {}
    for position, entry in enumerate(entries):
        identity = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(identity, int):
            findings.add("bad-id", position, f"entry {position} of '{name}' has no whole number as 'id'")
        elif identity in found:
            findings.add("bad-id", position, f"entry {position} of '{name}' has the id {identity} again")
        else:
            found[identity] = entry
    return found


def _listed_size(image: dict[str, Any], findings: Findings) -> tuple[int, int] | None:
    """(height, width) of an image by its entry, None where that is of no use."""
    name, height, width = image.get("file_name"), image.get("height"), image.get("width")
    if not isinstance(name, str):
        findings.add("image-entry", image["id"], f"image {image['id']}: 'file_name' is {name!r}")
    elif type(height) is not int or type(width) is not int or min(height, width) <= 0:
        findings.add("image-entry", image["id"], f"image {image['id']}: {height!r} x {width!r} is no size")
    elif height * width > MAX_PIXELS:
        findings.add("image-entry", image["id"], f"image {image['id']}: more than {MAX_PIXELS} pixels")
    else:
        return height, width
    return None


def _record(
    image: dict[str, Any],
    size: tuple[int, int],
    annotations: Sequence[dict[str, Any]],
    image_dir: Path,
    labels: Mapping[int, int],
    box_convention: BoxConvention,
    findings: Findings,
) -> ImageRecord:
    """What `CocoDataset` would make of an image, without the annotations that it would refuse or leave out."""
    instances, crowds = [], []
    for annotation in annotations:
        outline = _checked_outline(annotation, size, labels, findings)
        if outline is None:
            continue
        if annotation.get("iscrowd") or annotation.get("ignore"):
            findings.add("crowd", annotation["id"])
            crowds.append(outline)
            continue
        box = _checked_box(annotation, outline, size, box_convention, findings)
        if box is not None:
            instances.append((annotation["id"], labels[annotation["category_id"]], box, outline))
    if not instances:
        findings.add("empty-image", image["id"])
    return ImageRecord(
        image_id=image["id"],
        path=image_dir / image["file_name"],
        size=size,
        boxes=np.array([box for _, _, box, _ in instances], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _, _ in instances], np.int64),
        outlines=tuple(outline for _, _, _, outline in instances),
        annotation_ids=tuple(identity for identity, _, _, _ in instances),
        crowds=tuple(crowds),
    )


def _checked_outline(
    annotation: dict[str, Any], size: tuple[int, int], labels: Mapping[int, int], findings: Findings
) -> Outline | None:
    where = f"annotation {annotation['id']} of image {annotation['image_id']}"
    category_id, segmentation = annotation.get("category_id"), annotation.get("segmentation")
    kind = "bad-number"
    try:
        if not isinstance(category_id, int) or category_id not in labels:
            findings.add("unknown-category", annotation["id"], f"{where}: category {category_id!r}")
        elif not annotation_area(annotation, where) > 0:
            findings.add("zero-area", annotation["id"])
        else:
            broken = {list: "broken-polygon", dict: "broken-run-lengths"}
            kind = broken.get(type(segmentation), "no-outline") if segmentation else "no-outline"
            return annotation_outline(segmentation, size, where)
    except DatasetError as error:
        findings.add(kind, annotation["id"], str(error))
    return None


def _checked_box(
    annotation: dict[str, Any],
    outline: Outline,
    size: tuple[int, int],
    box_convention: BoxConvention,
    findings: Findings,
) -> list[float] | None:
    where = f"annotation {annotation['id']} of image {annotation['image_id']}"
    try:
        box = annotation_box(annotation.get("bbox"), outline, size, box_convention, where)
    except DatasetError as error:
        findings.add("bad-number", annotation["id"], str(error))
        return None
    if box is None:
        findings.add("zero-area", annotation["id"])
    return box


def _read_images(
    records: Sequence[ImageRecord], read: ImageReader | None, *, decode: bool
) -> Iterator[tuple[ImageRecord, tuple[int, int] | ImageError | None]]:
    """Each record with the (height, width) of its image file or the reason why it has none; None if not decoded."""
    if not decode:
        yield from ((record, None) for record in records)
        return
    pictures = read_ahead([record.path for record in records], read=read)
    for record, (_, picture) in zip(records, pictures, strict=True):
        yield record, picture if isinstance(picture, ImageError) else (picture.shape[0], picture.shape[1])


def _check_image(record: ImageRecord, found: tuple[int, int] | ImageError | None, findings: Findings) -> None:
    if not os.path.isfile(record.path):
        findings.add("missing-image", record.image_id, f"image {record.image_id}: {record.path}")
    elif isinstance(found, ImageError):
        findings.add("unreadable-image", record.image_id, f"image {record.image_id}: {found}")
    elif found is not None and found != record.size:
        sizes = f"{found[0]} x {found[1]} (height x width), listed as {record.size[0]} x {record.size[1]}"
        findings.add("image-size", record.image_id, f"image {record.image_id}: {record.path} is {sizes}")


def _check_categories(
    records: Sequence[ImageRecord], names: Mapping[int, str], num_classes: int | None, findings: Findings
) -> dict[int, int]:
    """-> the number of instances of each category."""
    labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)])
    counts = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    for identity, count in counts.items():
        if count == 0:
            findings.add("unused-category", identity)
    if num_classes not in (None, len(names)):
        findings.add("num-classes", detail=f"num_classes is {num_classes}, the file has {len(names)} categories")
    return counts


def _levels_to_try(
    num_grids: Sequence[int], scale_ranges: Sequence[tuple[float, float]], suggested_ranges: Ranges
) -> tuple[tuple[int, ...], Ranges]:
    """Grids and scale ranges of the given levels, then of each suggested range with every choice of a grid."""
    grids = (*num_grids, *(grid for _ in suggested_ranges for grid in GRID_CHOICES))
    ranges = (*scale_ranges, *(bounds for bounds in suggested_ranges for _ in GRID_CHOICES))
    return grids, ranges


def _suggest(fit: GridFit, ranges: Ranges) -> SettingsReport:
    """fit: its last levels are those of the suggested ranges."""
    shape = (len(fit.areas), len(ranges), len(GRID_CHOICES))
    first = -len(ranges) * len(GRID_CHOICES)
    assigned, lost = fit.assigned[:, first:].reshape(shape), fit.lost[:, first:].reshape(shape)
    num_grids = suggest_num_grids(assigned, lost)
    level, choice = np.arange(len(ranges)), [GRID_CHOICES.index(grid) for grid in num_grids]
    return _settings_report(assigned[:, level, choice], lost[:, level, choice], num_grids, ranges)


def _settings_report(
    assigned: np.ndarray, lost: np.ndarray, num_grids: Sequence[int], scale_ranges: Sequence[tuple[float, float]]
) -> SettingsReport:
    """assigned, lost: bool [n, at least L]; the first L levels are those of the settings."""
    levels = tuple(
        LevelReport(num_grid, (float(low), float(high)), int(assigned[:, level].sum()), int(lost[:, level].sum()))
        for level, (num_grid, (low, high)) in enumerate(zip(num_grids, scale_ranges, strict=True))
    )
    return SettingsReport(levels, int(_lost_everywhere(assigned, lost, len(levels)).sum()))


def _lost_everywhere(assigned: np.ndarray, lost: np.ndarray, levels: int) -> np.ndarray:
    """bool [n]: on some of the first levels, and lost on all of these."""
    assigned, lost = assigned[:, :levels], lost[:, :levels]
    return assigned.any(axis=1) & (assigned == lost).all(axis=1)


def _check_fit(
    records: Sequence[ImageRecord], sizes: np.ndarray, fit: GridFit, levels: int, findings: Findings
) -> None:
    ids = [identity for record in records for identity in record.annotation_ids]
    boxes = np.concatenate([record.boxes for record in records])
    empty = fit.drawn_boxes[:, 2] == 0
    for row in np.flatnonzero(~empty & _differ(boxes, fit.drawn_boxes)):
        drawn = fit.drawn_boxes[row].tolist()
        findings.add(
            "box-mismatch",
            ids[row],
            f"annotation {ids[row]}: bbox from {boxes[row, :2].tolist()} to {boxes[row, 2:].tolist()}, "
            f"outline from {drawn[:2]} to {drawn[2:]} (x, y)",
        )
    outside = (fit.areas > 0) & ~fit.assigned[:, :levels].any(axis=1)
    for row in np.flatnonzero(outside):
        findings.add("out-of-range", ids[row], f"annotation {ids[row]}: {sizes[row]:.1f} pixels at the training scale")
    tiny = ~empty & (fit.vanished | (fit.areas < MASK_STRIDE**2))
    lost = _lost_everywhere(fit.assigned, fit.lost, levels)
    for kind, rows in (("empty-mask", empty), ("tiny", tiny), ("collision", lost)):
        for row in np.flatnonzero(rows):
            findings.add(kind, ids[row])


def _differ(boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """bool [n]: boxes, [n, 4] xyxy in pixels, that are not those of the masks."""
    overlap = np.minimum(boxes[:, 2:], drawn[:, 2:]) - np.maximum(boxes[:, :2], drawn[:, :2])
    shared = overlap.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (drawn[:, 2:] - drawn[:, :2]).prod(axis=1) - shared
    return (np.abs(boxes - drawn).max(axis=1) > BOX_SLACK) & (shared < BOX_IOU * union)
