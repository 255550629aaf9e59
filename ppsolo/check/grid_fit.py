"""Fit of grids to a data set: instances gained and lost per level, and scale ranges and grids that fit better."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ppsolo.check.scaled_outlines import scale_outlines
from ppsolo.data.augment import Resize
from ppsolo.data.coco import ImageRecord
from ppsolo.data.preprocess import padded_shape
from ppsolo.data.targets import claim_cells, levels_of
from ppsolo.results import rle

GRID_CHOICES = tuple(range(12, 65, 4))
TOLERATED_LOSS = 0.01  # share of a level's instances
LOWEST_SIZE, HIGHEST_SIZE = 1.0, 2048.0  # lower and upper end of the published scale ranges, in pixels


@dataclass(frozen=True)
class GridFit:
    """What happens to n instances on K levels at the training scale.

    An instance is assigned to a level if its size is in the level's range and its mask is not empty. It is lost
    there if other instances take all its cells.

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


def training_sizes(boxes: np.ndarray, sizes: np.ndarray, resize: Resize) -> np.ndarray:
    """sqrt(width * height) of the boxes at the training scale `resize.short_sides[0]`: float32 [n], in pixels.

    boxes: float32 [n, 4], xyxy in pixels. sizes: int [n, 2], (height, width) of each box's image.
    """
    found, which = np.unique(sizes.reshape(-1, 2), axis=0, return_inverse=True)
    scales = [resize.scales((height, width), resize.short_sides[0]) for height, width in found.tolist()]
    scaled = resize.scale_boxes(boxes, sizes, np.array(scales).reshape(-1, 2)[which.reshape(-1)])
    sides = np.maximum(scaled[:, 2:] - scaled[:, :2], 0)
    return np.sqrt(sides[:, 0] * sides[:, 1])


def fit_image(
    record: ImageRecord, resize: Resize, *, num_grids: Sequence[int], scale_ranges: Sequence[tuple[float, float]]
) -> GridFit:
    """Put the instances of one image on K grids as `make_targets` does, in a batch of this image alone.

    In a batch with a larger image there is more padding: cells are larger, and collisions more frequent.
    """
    grids = np.array(num_grids, np.int64)
    scales = resize.scales(record.size, resize.short_sides[0])
    masks = rle.draw_outlines(record.outlines, record.size)
    scaled = scale_outlines(masks, record.size, scales)
    boxes = resize.scale_boxes(record.boxes, record.size, scales)
    assigned = levels_of(boxes, scale_ranges) & (scaled.areas > 0)
    padded = padded_shape([scaled.size])
    level, row, cell = claim_cells(boxes, scaled.centres, assigned, padded, grids)
    # The last instance that claims a cell keeps it; in reverse order it comes first.
    place = np.cumsum(grids**2)[level] - cell
    _, last = np.unique(place[::-1], return_index=True)
    kept = len(place) - 1 - last
    lost = assigned.copy()
    lost[level[kept], row[kept]] = False
    return GridFit(scaled.drawn_boxes, scaled.areas, scaled.vanished, assigned.T, lost.T)


def join_fits(fits: Sequence[GridFit]) -> GridFit:
    """Join the instances of at least one fit, all on the same levels."""
    return GridFit(*(np.concatenate([getattr(fit, field.name) for fit in fits]) for field in fields(GridFit)))


def suggest_scale_ranges(sizes: np.ndarray, levels: int, *, long_side: int) -> tuple[tuple[float, float], ...]:
    """Return scale ranges that give every level the same share of the instances and overlap like the published ones.

    The published ranges of 5 levels, (1, 96), (48, 192), .. (384, 2048), cut the sizes at 48, 96, 192, 384, 768 into
    6 bins. Each level holds two neighbouring bins and shares one with each neighbour. Here L levels have L + 1 bins.
    The cuts are the quantiles k / (L + 1), rounded to whole pixels and at least 1 pixel apart, so a level holds
    2 / (L + 1) of the instances. The ends are 1 and 2048, or the long side if that is larger.

    sizes: [n], n > 0: sqrt(width * height) of the boxes at the training scale.
    """
    cuts = [LOWEST_SIZE]
    for quantile in np.quantile(sizes, np.arange(1, levels + 1) / (levels + 1)):
        cuts.append(max(float(np.round(quantile)), cuts[-1] + 1))
    cuts.append(max(HIGHEST_SIZE, float(long_side), cuts[-1] + 1))
    return tuple(zip(cuts[:-2], cuts[2:], strict=True))


def suggest_num_grids(assigned: np.ndarray, lost: np.ndarray) -> tuple[int, ...]:
    """Return the smallest grid of GRID_CHOICES for each level that loses at most TOLERATED_LOSS of its instances.

    All larger choices must stay below that loss too. If no choice does, the largest is taken. Grids must not grow
    from the first level to the last: a smaller one is raised to the next level's grid.

    assigned, lost: bool [n, L, choices], as in `GridFit`, for each choice on each level.
    """
    enough = lost.sum(axis=0) <= TOLERATED_LOSS * assigned.sum(axis=0)  # [L, choices]
    from_here_on = np.logical_and.accumulate(enough[:, ::-1], axis=1)[:, ::-1]
    smallest = np.where(from_here_on.any(axis=1), from_here_on.argmax(axis=1), len(GRID_CHOICES) - 1)
    raised = np.maximum.accumulate(smallest[::-1])[::-1]
    return tuple(GRID_CHOICES[choice] for choice in raised)
