"""Checks a COCO data set before training: lists all faults, and suggests grids that fit."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

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
from ppsolo.check.records import CheckedRecords
from ppsolo.check.report import (
    SIZE_QUANTILES,
    DataReport,
    LevelReport,
    SettingsReport,
)
from ppsolo.check.tiles import tiles_that_pay
from ppsolo.cpu import available_cores
from ppsolo.data.annotations.findings import Findings, Identity
from ppsolo.data.augment import Resize
from ppsolo.data.coco import ImageRecord
from ppsolo.data.images import ImageReader, read_ahead
from ppsolo.data.sample import BoxConvention
from ppsolo.data.targets import MASK_STRIDE
from ppsolo.errors import ImageError
from ppsolo.progress import Progress

Ranges = tuple[tuple[float, float], ...]

BOX_SLACK, BOX_IOU = 4, 0.5  # bbox and outline differ if a side is off by more pixels and the IoU is lower


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
    """Read a data set as training would, but continue after every fault; report faults and settings that fit.

    Of several faults of one annotation, only the first is listed. Of entries with the same id, the first is used.
    Memory holds the annotations, and one image at a time with some of its masks.

    Args:
        annotations, image_dir: COCO's JSON file, and the folder that its file names are relative to.
        short_side, long_side, round_sides, box_convention: the training scale, as for `Resize`.
        num_grids, scale_ranges: of each level, as for `make_targets`.
        num_classes: of the configuration, to compare; None: do not compare.
        read: the function that reads images; `read_image` if None.
        images: decode every image; if False, only check that the files exist.
        progress: called with (images done, all images).

    Raises:
        DatasetError: the file is not JSON or lacks a list of images, annotations or categories; no such folder.
        ValueError: the numbers of grids and scale ranges differ, or a grid is less than 1.
    """
    _check_levels(num_grids, scale_ranges)
    records = CheckedRecords(Path(annotations), Path(image_dir), box_convention)
    findings, names = records.findings, records.names
    resize = Resize((short_side,), long_side, round_sides=round_sides, box_convention=box_convention)
    boxes = records.boxes()
    sizes = training_sizes(boxes, records.sizes(), resize)
    ranges = suggest_scale_ranges(sizes, len(num_grids), long_side=long_side) if len(sizes) else ()
    checked = _checked_images(records, read, decode=images, progress=progress)
    fit, crowds = _fit_images(checked, resize, *_levels_to_try(num_grids, scale_ranges, ranges))
    counts = _check_categories(records, names, num_classes, findings)
    _check_fit(records, boxes, sizes, fit, len(num_grids))
    if (tiles := tiles_that_pay(boxes, sizes, short_side=short_side)) is not None:
        findings.add("tiles", detail=tiles)
    return DataReport(
        annotations=str(annotations),
        image_dir=str(image_dir),
        training_scale=(short_side, long_side),
        images=len(records),
        instances=len(sizes),
        crowds=crowds,
        categories=tuple((identity, name, counts[identity]) for identity, name in names.items()),
        sizes=tuple(np.quantile(sizes, SIZE_QUANTILES).tolist()) if len(sizes) else (),
        given=None if fit is None else _settings_report(fit.assigned, fit.lost, num_grids, scale_ranges),
        suggested=None if fit is None else _suggest(fit, ranges),
        problems=findings.problems(instances=len(sizes)),
        num_classes=num_classes,
    )


def _read_images(
    records: CheckedRecords, read: ImageReader | None, *, decode: bool
) -> Iterator[tuple[ImageRecord, tuple[int, int] | ImageError | None]]:
    """Yield each record with the (height, width) of its image file, or the error; None if it is not decoded."""
    if not decode:
        yield from ((record, None) for record in records)
        return
    threads = available_cores()
    pictures = read_ahead(records.paths(), depth=2 * threads, read=read, threads=threads)
    for record, (_, picture) in zip(records, pictures, strict=True):
        yield record, picture if isinstance(picture, ImageError) else (picture.shape[0], picture.shape[1])


def _check_levels(num_grids: Sequence[int], scale_ranges: Sequence[tuple[float, float]]) -> None:
    if not num_grids or min(num_grids) < 1 or len(num_grids) != len(scale_ranges):
        raise ValueError(f"grids {num_grids} and scale ranges {scale_ranges}: give one of each per level")


def _fit_images(
    records: Iterable[ImageRecord], resize: Resize, num_grids: Sequence[int], scale_ranges: Ranges
) -> tuple[GridFit | None, int]:
    """Return the fit of all instances, None without instances; and the number of crowds."""
    fits, crowds = [], 0
    for record in records:
        crowds += len(record.crowds)
        if len(record.boxes):
            fits.append(fit_image(record, resize, num_grids=num_grids, scale_ranges=scale_ranges))
    return join_fits(fits) if fits else None, crowds


def _checked_images(
    records: CheckedRecords, read: ImageReader | None, *, decode: bool, progress: Progress | None
) -> Iterator[ImageRecord]:
    """Each record, its image checked."""
    for done, (record, found) in enumerate(_read_images(records, read, decode=decode), start=1):
        _check_image(record, found, records.findings)
        yield record
        if progress is not None:
            progress(done, len(records))


def _check_image(record: ImageRecord, found: tuple[int, int] | ImageError | None, findings: Findings) -> None:
    if isinstance(found, ImageError):
        if os.path.isfile(record.path):  # a missing file was counted before
            findings.add("unreadable-image", record.image_id, f"image {record.image_id}: {found}")
    elif found is not None and found != record.size:
        sizes = f"{found[0]} x {found[1]} (height x width), but listed as {record.size[0]} x {record.size[1]}"
        findings.add("image-size", record.image_id, f"image {record.image_id}: {record.path} is {sizes}")


def _check_categories(
    records: CheckedRecords, names: Mapping[Identity, str], num_classes: int | None, findings: Findings
) -> dict[Identity, int]:
    """Return the number of instances of each category."""
    counts = dict(zip(names, np.bincount(records.labels(), minlength=len(names)).tolist(), strict=True))
    for identity, count in counts.items():
        if count == 0:
            findings.add("unused-category", identity)
    if num_classes not in (None, len(names)):
        findings.add("num-classes", detail=f"num_classes is {num_classes}, but the file has {len(names)} categories")
    return counts


def _levels_to_try(
    num_grids: Sequence[int], scale_ranges: Sequence[tuple[float, float]], suggested_ranges: Ranges
) -> tuple[tuple[int, ...], Ranges]:
    """Grids and scale ranges of the given levels, followed by each suggested range with each choice of a grid."""
    grids = (*num_grids, *(grid for _ in suggested_ranges for grid in GRID_CHOICES))
    ranges = (*scale_ranges, *(bounds for bounds in suggested_ranges for _ in GRID_CHOICES))
    return grids, ranges


def _suggest(fit: GridFit, ranges: Ranges) -> SettingsReport:
    """fit: its last levels belong to the suggested ranges."""
    shape = (len(fit.areas), len(ranges), len(GRID_CHOICES))
    first = -len(ranges) * len(GRID_CHOICES)
    assigned, lost = fit.assigned[:, first:].reshape(shape), fit.lost[:, first:].reshape(shape)
    num_grids = suggest_num_grids(assigned, lost)
    level, choice = np.arange(len(ranges)), [GRID_CHOICES.index(grid) for grid in num_grids]
    return _settings_report(assigned[:, level, choice], lost[:, level, choice], num_grids, ranges)


def _settings_report(
    assigned: np.ndarray, lost: np.ndarray, num_grids: Sequence[int], scale_ranges: Sequence[tuple[float, float]]
) -> SettingsReport:
    """assigned, lost: bool [n, at least L]; the first L levels belong to the settings."""
    levels = tuple(
        LevelReport(num_grid, (float(low), float(high)), int(assigned[:, level].sum()), int(lost[:, level].sum()))
        for level, (num_grid, (low, high)) in enumerate(zip(num_grids, scale_ranges, strict=True))
    )
    return SettingsReport(levels, int(_lost_everywhere(assigned, lost, len(levels)).sum()))


def _lost_everywhere(assigned: np.ndarray, lost: np.ndarray, levels: int) -> np.ndarray:
    """bool [n]: assigned to at least one of the first levels, and lost on all of these."""
    assigned, lost = assigned[:, :levels], lost[:, :levels]
    return assigned.any(axis=1) & (assigned == lost).all(axis=1)


def _check_fit(records: CheckedRecords, boxes: np.ndarray, sizes: np.ndarray, fit: GridFit | None, levels: int) -> None:
    """boxes, sizes: of all instances, as the records and `training_sizes` have them."""
    findings = records.findings
    if fit is None:
        findings.add("nothing-to-train", detail=records.nothing_to_train())
        return
    empty = fit.drawn_boxes[:, 2] == 0
    for row in np.flatnonzero(~empty & _differ(boxes, fit.drawn_boxes)).tolist():
        drawn, identity = fit.drawn_boxes[row].tolist(), records.annotation_id(row)
        findings.add(
            "box-mismatch",
            identity,
            f"annotation {identity}: bbox from {boxes[row, :2].tolist()} to {boxes[row, 2:].tolist()}, "
            f"outline from {drawn[:2]} to {drawn[2:]} (x, y)",
        )
    outside = (fit.areas > 0) & ~fit.assigned[:, :levels].any(axis=1)
    for row in np.flatnonzero(outside).tolist():
        identity = records.annotation_id(row)
        findings.add("out-of-range", identity, f"annotation {identity}: {sizes[row]:.1f} pixels at the training scale")
    tiny = ~empty & (fit.vanished | (fit.areas < MASK_STRIDE**2))
    lost = _lost_everywhere(fit.assigned, fit.lost, levels)
    for kind, rows in (("empty-mask", empty), ("tiny", tiny), ("collision", lost)):
        for row in np.flatnonzero(rows).tolist():
            findings.add(kind, records.annotation_id(row))


def _differ(boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """bool [n]: whether a box, [n, 4] xyxy in pixels, differs from the box of the mask."""
    overlap = np.minimum(boxes[:, 2:], drawn[:, 2:]) - np.maximum(boxes[:, :2], drawn[:, :2])
    shared = overlap.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (drawn[:, 2:] - drawn[:, :2]).prod(axis=1) - shared
    return (np.abs(boxes - drawn).max(axis=1) > BOX_SLACK) & (shared < BOX_IOU * union)
