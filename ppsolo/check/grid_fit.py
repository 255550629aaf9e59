"""How grids fit a data set: which instances a level gets and loses, and the scale ranges and grids that would fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from ppsolo.data.augment import Resize
from ppsolo.data.coco import ImageRecord, decode_mask
from ppsolo.data.geometry import padded_shape
from ppsolo.data.sample import TrainingSample
from ppsolo.data.targets import make_targets

GRID_CHOICES = tuple(range(12, 65, 4))
TOLERATED_LOSS = 0.01  # share of a level's instances
LOWEST_SIZE, HIGHEST_SIZE = 1.0, 2048.0  # ends of the published scale ranges, in pixels
PIXELS_AT_ONCE = 2**25  # of masks, before and after scaling: so many bytes twice


@dataclass(frozen=True)
class GridFit:
    """How n instances, of one image or of many, fare at the training scale on K levels.

    An instance takes part in a level if its size is in the level's range and its mask is not empty. It is lost
    there if other instances give all its cells their category.

    Attributes:
        drawn_boxes: int64 [n, 4], xyxy of the mask's pixels before scaling, x2 and y2 excluded; zeros if empty.
        areas: int64 [n], pixels of the mask at the training scale.
        vanished: bool [n], no pixel is left of the mask at stride 4.
        assigned: bool [n, K].
        lost: bool [n, K].
    """

    drawn_boxes: np.ndarray
    areas: np.ndarray
    vanished: np.ndarray
    assigned: np.ndarray
    lost: np.ndarray


def training_sizes(record: ImageRecord, resize: Resize) -> np.ndarray:
    """sqrt(width * height) of the boxes at the training scale, `resize.short_sides[0]`: float32 [n], in pixels."""
    no_masks = np.zeros((0, *record.size), np.uint8)
    boxes = resize.apply(_sample(record, slice(None), no_masks), resize.short_sides[0]).boxes
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.sqrt(sides[:, 0] * sides[:, 1])


def fit_image(
    record: ImageRecord, resize: Resize, *, num_grids: Sequence[int], scale_ranges: Sequence[tuple[float, float]]
) -> GridFit:
    """Put the instances of one image on K grids as `make_targets` does, the image being alone in its batch.

    Beside a larger image in the batch it is padded further: its cells are larger then, its collisions more.
    """
    # The first level is one more: it takes all instances with a mask, and so tells what stride 4 leaves of each.
    grids, ranges = (1, *num_grids), ((0.0, np.inf), *scale_ranges)
    level_of_cell = np.repeat(np.arange(len(grids)), np.square(grids))
    owner = np.zeros(len(level_of_cell), np.int64)
    n = len(record.boxes)
    drawn_boxes, areas, vanished = np.zeros((n, 4), np.int64), np.zeros(n, np.int64), np.ones(n, bool)
    assigned, owning = np.zeros((n, len(grids)), bool), np.zeros((n, len(grids)), bool)
    for part, masks in _drawn_masks(record, resize):
        drawn_boxes[part] = [_drawn_box(mask) for mask in masks]
        sample = resize.apply(_sample(record, part, masks), resize.short_sides[0])
        areas[part] = [cv2.countNonZero(mask) for mask in sample.masks]
        used = part.start + np.flatnonzero(areas[part])
        # With an instance's number for its class, the category map says whose a cell is.
        numbers = np.arange(part.start, part.stop)
        padded = padded_shape([sample.size])
        targets = make_targets(sample.boxes, numbers, sample.masks, padded, num_grids=grids, scale_ranges=ranges)
        claims = np.concatenate(targets.category_labels)
        owner = np.where(claims > 0, claims, owner)
        level = np.repeat(np.arange(len(grids)), np.diff(targets.level_offsets))
        assigned[used[targets.mask_index], level] = True
        vanished[used] = ~targets.masks.any(axis=(1, 2))
    owning[owner[owner > 0] - 1, level_of_cell[owner > 0]] = True
    lost = assigned & ~owning
    return GridFit(drawn_boxes, areas, vanished, assigned[:, 1:], lost[:, 1:])


def join_fits(fits: Sequence[GridFit]) -> GridFit:
    """The instances of at least one fit, all on the same levels, one after the other."""
    return GridFit(*(np.concatenate([getattr(fit, field.name) for fit in fits]) for field in fields(GridFit)))


def suggest_scale_ranges(sizes: np.ndarray, levels: int, *, long_side: int) -> tuple[tuple[float, float], ...]:
    """Scale ranges that give every level the same share of the instances, with the overlap of the published ones.

    The published ranges of 5 levels, (1, 96), (48, 192), .. (384, 2048), cut the sizes at 48, 96, 192, 384, 768
    into 6 bins; each level holds two neighbouring bins and shares one with each neighbour. Here L levels have
    L + 1 bins too, cut at the quantiles k / (L + 1), whole pixels and at least 1 pixel apart, so that a level holds
    2 / (L + 1) of the instances. The ends are 1 and 2048, or the long side if that is larger.

    sizes: [n], n > 0: sqrt(width * height) of the boxes at the training scale.
    """
    cuts = [LOWEST_SIZE]
    for quantile in np.quantile(sizes, np.arange(1, levels + 1) / (levels + 1)):
        cuts.append(max(float(np.round(quantile)), cuts[-1] + 1))
    cuts.append(max(HIGHEST_SIZE, float(long_side), cuts[-1] + 1))
    return tuple(zip(cuts[:-2], cuts[2:], strict=True))


def suggest_num_grids(assigned: np.ndarray, lost: np.ndarray) -> tuple[int, ...]:
    """The smallest grids of GRID_CHOICES that lose at most TOLERATED_LOSS of the instances of their level.

    A level's grid is such that no larger one loses more than that either; the largest choice if there is none.
    From the first level to the last, grids do not grow: a smaller one is raised to the grid after it.

    assigned, lost: bool [n, L, choices], as in `GridFit`, for each level with each choice.
    """
    enough = lost.sum(axis=0) <= TOLERATED_LOSS * assigned.sum(axis=0)  # [L, choices]
    from_here_on = np.logical_and.accumulate(enough[:, ::-1], axis=1)[:, ::-1]
    smallest = np.where(from_here_on.any(axis=1), from_here_on.argmax(axis=1), len(GRID_CHOICES) - 1)
    raised = np.maximum.accumulate(smallest[::-1])[::-1]
    return tuple(GRID_CHOICES[choice] for choice in raised)


def _drawn_masks(record: ImageRecord, resize: Resize) -> Iterator[tuple[slice, np.ndarray]]:
    """The masks at the image's own size, as many at a time as PIXELS_AT_ONCE allows: (which, uint8 [k, h, w])."""
    longest = max(max(record.size), resize.long_side)
    at_once = max(1, PIXELS_AT_ONCE // longest**2)
    for start in range(0, len(record.outlines), at_once):
        outlines = record.outlines[start : start + at_once]
        masks = np.empty((len(outlines), *record.size), np.uint8)
        for mask, outline in zip(masks, outlines, strict=True):
            mask[:] = decode_mask(outline, record.size)
        yield slice(start, start + len(outlines)), masks


def _sample(record: ImageRecord, part: slice, masks: np.ndarray) -> TrainingSample:
    """Some instances of a record on a black grey image, to be scaled."""
    return TrainingSample(
        image=np.zeros(record.size, np.uint8),
        boxes=record.boxes[part],
        labels=record.labels[part],
        masks=masks,
        image_id=record.image_id,
        original_size=record.size,
    )


def _drawn_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect(mask)
    return left, top, left + width, top + height
