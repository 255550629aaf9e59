"""The training targets: the grid cells of each instance, and its mask at stride 4."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ppsolo.data.masks import CroppedMasks

MASK_STRIDE = 4
SAMPLING_RADIUS = 0.2


@dataclass(frozen=True)
class SampleTargets:
    """The targets of one image on L levels; level l has a grid of S_l x S_l cells, numbered row by row.

    The p positives are sorted by level, then instance, then cell: cell `cell_index[i]` must predict
    `masks[mask_index[i]]`. A cell shared by k instances occurs k times among the positives.

    Attributes:
        category_labels: L arrays int64 [S_l * S_l]; 0 is background, class c is c + 1.
        masks: uint8 [m, H / 4, W / 4], 0 or 1; every instance on at least one level, once. The mask of a tiny instance
            may be all 0 at stride 4.
        mask_index: int64 [p], row in `masks`.
        cell_index: int64 [p], 0 .. S_l^2 - 1, within the level of the positive.
        level_offsets: int64 [L + 1]; the positives of level l are `level_offsets[l]:level_offsets[l + 1]`.
        num_positive_cells: number of distinct positive cells, over all levels.
    """

    category_labels: tuple[np.ndarray, ...]
    masks: np.ndarray
    mask_index: np.ndarray
    cell_index: np.ndarray
    level_offsets: np.ndarray
    num_positive_cells: int


@dataclass(frozen=True)
class BatchTargets:
    """The targets of B images; positives are sorted by level, then image, then as in `SampleTargets`.

    Attributes:
        category_labels: L arrays int64 [B, S_l * S_l]; 0 is background, class c is c + 1.
        masks: uint8 [M, H / 4, W / 4], the masks of all images one after the other.
        mask_index: int64 [P], row in `masks`.
        image_index: int64 [P], 0 .. B - 1.
        cell_index: int64 [P], within the level of the positive.
        level_offsets: int64 [L + 1]; the positives of level l are `level_offsets[l]:level_offsets[l + 1]`.
        num_positive_cells: int64 [B].
    """

    category_labels: tuple[np.ndarray, ...]
    masks: np.ndarray
    mask_index: np.ndarray
    image_index: np.ndarray
    cell_index: np.ndarray
    level_offsets: np.ndarray
    num_positive_cells: np.ndarray


def make_targets(
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: CroppedMasks,
    padded_size: tuple[int, int],
    *,
    num_grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    sampling_radius: float = SAMPLING_RADIUS,
) -> SampleTargets:
    """Assign the instances of one image to grid cells (SOLO, arXiv 1912.04488, section 3.3.1; as in SOLOv2).

    An instance belongs to every level whose range contains sqrt(width * height) of its box, limits included. On such a
    level, the box is shrunk to `sampling_radius` of its sides and moved to the mask's centre of mass. The instance
    takes the cell of that centre, and the neighbouring cells (3 x 3 at most) that the shrunk box touches. In a cell
    with several instances, the last one gives the category; all masks stay. Instances with an empty mask, or outside
    of all ranges, are left out.

    Args:
        boxes: float [n, 4], xyxy in pixels of the resized image. The width is x2 - x1 in every box convention.
        labels: int [n], classes from 0.
        masks: n masks at the resized size, which may be smaller than the padded size.
        padded_size: (height, width) of the padded batch, multiples of 4.
        num_grids: S_l of each level.
        scale_ranges: (lowest, highest) object size of each level, in pixels.
        sampling_radius: share of the box's sides that is positive; 0.2 in the paper.

    Raises:
        ValueError: the arrays do not fit each other or the padded size.
    """
    _check_shapes(boxes, labels, masks, padded_size, num_grids, scale_ranges)
    hit = levels_of(boxes, scale_ranges)
    used, centres, small_masks = _measure(masks, np.flatnonzero(hit.any(axis=0)), padded_size)
    grids = np.array(num_grids, np.int64)
    level, row, cell = claim_cells(boxes[used], centres, hit[:, used], padded_size, grids, sampling_radius)

    first_cell = _offsets(grids**2)
    category_labels = np.zeros(first_cell[-1], np.int64)
    # In reverse order, the last instance in a cell comes first.
    distinct, last = np.unique((first_cell[level] + cell)[::-1], return_index=True)
    category_labels[distinct] = labels[used][row[::-1][last]] + 1
    return SampleTargets(
        category_labels=tuple(np.split(category_labels, first_cell[1:-1])),
        masks=small_masks,
        mask_index=row,
        cell_index=cell,
        level_offsets=_offsets(np.bincount(level, minlength=len(grids))),
        num_positive_cells=len(distinct),
    )


def levels_of(boxes: np.ndarray, scale_ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """bool [L, n]: the levels whose range holds sqrt(width * height) of a box, both ends included.

    boxes: float [n, 4], xyxy in pixels.
    """
    # In the dtype of the boxes, as recorded: it decides at the very edge of a range.
    sides = _sides(boxes)
    sizes = np.sqrt(sides[:, 0] * sides[:, 1])
    lowest, highest = np.array(scale_ranges, np.float64).T
    return (sizes >= lowest[:, None]) & (sizes <= highest[:, None])


def claim_cells(
    boxes: np.ndarray,
    centres: np.ndarray,
    levels: np.ndarray,
    padded_size: tuple[int, int],
    num_grids: np.ndarray,
    sampling_radius: float = SAMPLING_RADIUS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells that instances take on their levels, as `make_targets` says: level, instance and cell, int64 [p] each.

    Sorted by level, then instance, then cell; cells are numbered row by row within the level.

    boxes: float [n, 4], xyxy in pixels. centres: float64 [n, 2], (y, x) in pixels. levels: bool [L, n].
    padded_size, sampling_radius: as for `make_targets`. num_grids: int64 [L].
    """
    level, row = np.nonzero(levels)
    half_extents = 0.5 * _sides(boxes)[:, ::-1] * sampling_radius  # (y, x)
    pair, cell = _cells(centres[row], half_extents[row], padded_size, num_grids[level])
    return level[pair], row[pair], cell


def collate_targets(samples: Sequence[SampleTargets]) -> BatchTargets:
    """Join the targets of the images of one batch; all must have the same grids and padded size.

    An image without positives adds its background labels and nothing else.

    Raises:
        ValueError: there is no sample, or the sizes differ.
    """
    if not samples or len({sample.masks.shape[1:] for sample in samples}) > 1:
        raise ValueError("a batch needs at least one sample, and all samples the same padded size")
    num_levels = len(samples[0].category_labels)
    pieces = [
        (image, sample, slice(sample.level_offsets[level], sample.level_offsets[level + 1]))
        for level in range(num_levels)
        for image, sample in enumerate(samples)
    ]
    first_mask = _offsets([len(sample.masks) for sample in samples])
    return BatchTargets(
        category_labels=tuple(
            np.stack([sample.category_labels[level] for sample in samples]) for level in range(num_levels)
        ),
        masks=np.concatenate([sample.masks for sample in samples]),
        mask_index=np.concatenate([sample.mask_index[part] + first_mask[image] for image, sample, part in pieces]),
        image_index=np.repeat(
            np.array([image for image, _, _ in pieces]), [part.stop - part.start for _, _, part in pieces]
        ),
        cell_index=np.concatenate([sample.cell_index[part] for _, sample, part in pieces]),
        level_offsets=np.sum([sample.level_offsets for sample in samples], axis=0),
        num_positive_cells=np.array([sample.num_positive_cells for sample in samples], np.int64),
    )


def positive_counts(targets: BatchTargets) -> tuple[int, int]:
    """Return the divisors of a batch's losses: positives with a non-empty mask, and distinct cells."""
    drawn = np.asarray(targets.masks.any(axis=(1, 2)))
    return int(drawn[targets.mask_index].sum()), int(targets.num_positive_cells.sum())


def _check_shapes(
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: CroppedMasks,
    padded_size: tuple[int, int],
    num_grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
) -> None:
    if boxes.shape != (len(masks), 4) or labels.shape != (len(masks),):
        raise ValueError(f"boxes {boxes.shape} and labels {labels.shape} of {len(masks)} masks are not [n, 4] and [n]")
    if any(side % MASK_STRIDE for side in padded_size):
        raise ValueError(f"padded size {tuple(padded_size)} is not a multiple of {MASK_STRIDE}")
    if masks.size[0] > padded_size[0] or masks.size[1] > padded_size[1]:
        raise ValueError(f"masks of {masks.size} are larger than the padded size {tuple(padded_size)}")
    if not num_grids or len(num_grids) != len(scale_ranges):
        raise ValueError(f"{len(num_grids)} grids but {len(scale_ranges)} scale ranges; give one of each per level")


def _measure(
    masks: CroppedMasks, chosen: np.ndarray, padded_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure the chosen masks that are not empty: indices, centres of mass, and masks at stride 4.

    Returns int64 [m]; float64 [m, 2], (y, x) in pixel indices; uint8 [m, H / 4, W / 4].
    """
    height, width = padded_size
    small = np.zeros((len(chosen), height // MASK_STRIDE, width // MASK_STRIDE), np.uint8)
    used, centres = [], []
    for index in chosen.tolist():
        part = np.ascontiguousarray(masks.parts[index])
        left, top, columns, rows = cv2.boundingRect(part) if part.size else (0, 0, 0, 0)
        if columns == 0:
            continue
        inside = part[top : top + rows, left : left + columns]
        left, top = left + masks.boxes[index][0], top + masks.boxes[index][1]
        # Sums of 0, 1 and coordinates are integers: exact in float64 in any order.
        moments = cv2.moments(inside)
        area = moments["m00"]
        centres.append(((moments["m01"] + top * area) / area, (moments["m10"] + left * area) / area))
        block = quarter(np.pad(inside, ((top % MASK_STRIDE, 0), (left % MASK_STRIDE, 0))))
        top, left = top // MASK_STRIDE, left // MASK_STRIDE
        small[len(used), top : top + len(block), left : left + block.shape[1]] = block
        used.append(index)
    return np.array(used, np.int64), np.array(centres, np.float64).reshape(-1, 2), small[: len(used)]


def quarter(mask: np.ndarray) -> np.ndarray:
    """Return the mask at stride 4: 1 where at least 2 of the 4 middle pixels of a 4 x 4 block are 1.

    Bilinear interpolation of a uint8 mask by exactly 1/4 gives the same. Pixels beyond the mask are 0.

    mask: uint8 [h, w], 0 or 1. Returns uint8 [ceil(h / 4), ceil(w / 4)].
    """
    small = np.zeros((-(-mask.shape[0] // MASK_STRIDE), -(-mask.shape[1] // MASK_STRIDE)), np.uint8)
    for row, column in ((1, 1), (1, 2), (2, 1), (2, 2)):
        pixels = mask[row::MASK_STRIDE, column::MASK_STRIDE]
        small[: pixels.shape[0], : pixels.shape[1]] += pixels
    return np.greater_equal(small, 2, out=small, casting="unsafe")


def _cells(
    centres: np.ndarray, half_extents: np.ndarray, padded_size: tuple[int, int], num_grids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of k (instance, level) pairs: pair int64 [p], ascending, and cell int64 [p], row by row.

    centres, half_extents: float [k, 2], (y, x) in pixels; num_grids: int64 [k].
    """
    # Floor division by 1 / S, not multiplication by S: they differ if a quotient is exactly on an edge.
    cell_side = 1.0 / num_grids[:, None]
    middle, low, high = (
        np.floor_divide(position / np.array(padded_size), cell_side)
        for position in (centres, centres - half_extents, centres + half_extents)
    )
    low = np.maximum(np.maximum(low, 0), middle - 1).astype(np.int64)
    high = np.minimum(np.minimum(high, num_grids[:, None] - 1), middle + 1).astype(np.int64)
    steps = low[:, :, None] + np.arange(3)  # [k, (y, x), 3]
    inside = steps <= high[:, :, None]
    taken = inside[:, 0, :, None] & inside[:, 1, None, :]  # [k, 3 rows, 3 columns]
    cells = steps[:, 0, :, None] * num_grids[:, None, None] + steps[:, 1, None, :]
    return np.nonzero(taken)[0], cells[taken]


def _sides(boxes: np.ndarray) -> np.ndarray:
    """[n, 2], (width, height), at least 0."""
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0)


def _offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
