"""Grid targets: recorded cases, a slow reference, and the cases at the edges."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ppsolo.data.masks import CroppedMasks
from ppsolo.data.targets import BatchTargets, collate_targets, make_targets

NUM_GRIDS = (40, 36, 24, 16, 12)
SCALE_RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
SMALL_RANGES = ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))


def recorded(reference: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(reference / "golden" / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def ellipses(rng: np.random.Generator, count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and masks of filled ellipses, many of them cut by the border."""
    masks = np.zeros((count, height, width), np.uint8)
    boxes = []
    for mask in masks:
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        a, b = np.exp(rng.uniform(0, np.log(height), 2))
        cv2.ellipse(mask, (int(x), int(y)), (int(a), int(b)), 0, 0, 360, 1, -1)
        boxes.append([max(0, x - a), max(0, y - b), min(width, x + a), min(height, y + b)])
    return np.array(boxes, np.float32), masks


def rectangle(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def targets_of(boxes, labels, masks, size, num_grids=NUM_GRIDS, scale_ranges=SCALE_RANGES):
    return make_targets(
        np.array(boxes, np.float32),
        np.array(labels),
        CroppedMasks.from_array(np.array(masks)),
        size,
        num_grids=num_grids,
        scale_ranges=scale_ranges,
    )


def slow_level(boxes, labels, masks, size, num_grid, scale_range):
    """One level, one instance and one cell at a time: category labels, cells and masks at stride 4."""
    height, width = size
    categories = [0] * num_grid**2
    cells, drawn = [], []
    for (x1, y1, x2, y2), label, mask in zip(boxes, labels, masks, strict=True):
        if not scale_range[0] <= np.sqrt((x2 - x1) * (y2 - y1)) <= scale_range[1] or not mask.any():
            continue
        padded = np.zeros(size, np.uint8)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        y, x = np.argwhere(padded).mean(axis=0)
        half_y, half_x = 0.5 * (y2 - y1) * 0.2, 0.5 * (x2 - x1) * 0.2

        def cell(position, side):
            return int((float(position) / side) // (1.0 / num_grid))

        rows = range(max(0, cell(y - half_y, height)), min(num_grid - 1, cell(y + half_y, height)) + 1)
        columns = range(max(0, cell(x - half_x, width)), min(num_grid - 1, cell(x + half_x, width)) + 1)
        for row in rows:
            for column in columns:
                if abs(row - cell(y, height)) <= 1 and abs(column - cell(x, width)) <= 1:
                    categories[row * num_grid + column] = label + 1
                    cells.append(row * num_grid + column)
                    drawn.append(cv2.resize(padded, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_LINEAR))
    return categories, cells, np.array(drawn, np.uint8).reshape(-1, height // 4, width // 4)


def check_recorded(batch: BatchTargets, category_labels, grid_orders, masks, num_positive_cells) -> None:
    """Compare with the arrays recorded for each level: [B, S^2], [B, longest], [B, longest, H / 4, W / 4]; and counts.

    The recorded rows were padded to the longest image with empty masks and cell 0.
    """
    assert np.array_equal(batch.num_positive_cells, num_positive_cells)
    for level, num_grid in enumerate(NUM_GRIDS):
        assert np.array_equal(batch.category_labels[level], category_labels[level])
        part = slice(batch.level_offsets[level], batch.level_offsets[level + 1])
        for image in range(len(num_positive_cells)):
            own = batch.image_index[part] == image
            cells = batch.cell_index[part][own]
            order = grid_orders[level][image]
            assert np.array_equal(order[: len(cells)], cells + image * num_grid**2)
            assert np.array_equal(masks[level][image][: len(cells)], batch.masks[batch.mask_index[part][own]])
            assert not masks[level][image][len(cells) :].any()


@pytest.mark.parametrize("case", range(4))
def test_recorded_targets(reference, case):
    arrays = recorded(reference, "dygraph__train_targets")
    samples, number = [], 0
    while f"case{case}_s{number}_gt_bbox" in arrays:
        prefix = f"case{case}_s{number}_gt_"
        shape = tuple(arrays[prefix + "segm_shape"].tolist())
        bits = np.unpackbits(arrays[prefix + "segm_bits"], axis=1)
        masks = bits[:, : shape[1] * shape[2]].reshape(shape)
        samples.append(targets_of(arrays[prefix + "bbox"], arrays[prefix + "class"][:, 0], masks, shape[1:]))
        number += 1

    def per_level(name):
        return [[arrays[f"case{case}_s{s}_{name}{level}"] for s in range(number)] for level in range(5)]

    cells = [arrays[f"case{case}_s{s}_fg_num"] for s in range(number)]
    check_recorded(
        collate_targets(samples), per_level("cate_label"), per_level("grid_order"), per_level("ins_label"), cells
    )


@pytest.mark.parametrize(
    "name", [f"r50_fpn_1x_{batch}" for batch in range(2)] + [f"enhance_{batch}" for batch in range(3)]
)
def test_recorded_batches(reference, name):
    arrays = recorded(reference, f"dygraph__train_reader_{name}")
    size = arrays["batch_image"].shape[2:]
    samples = [
        targets_of(
            arrays[f"sample{s}_gt_bbox"], arrays[f"sample{s}_gt_class"][:, 0], arrays[f"sample{s}_gt_segm"], size
        )
        for s in range(2)
    ]
    check_recorded(
        collate_targets(samples),
        *([arrays[f"batch_{key}{level}"] for level in range(5)] for key in ("cate_label", "grid_order", "ins_label")),
        arrays["batch_fg_num"],
    )


def test_recorded_quarters(reference):
    arrays = recorded(reference, "dygraph__transforms")
    masks = arrays["quarter_in"]
    boxes = np.tile(np.array([0, 0, 20, 20], np.float32), (len(masks), 1))
    targets = targets_of(boxes, np.zeros(len(masks), int), masks, masks.shape[1:])
    drawn = masks.any(axis=(1, 2))
    assert np.array_equal(targets.masks, arrays["quarter_out"][drawn])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale_ranges", [SCALE_RANGES, SMALL_RANGES])
def test_equals_slow_reference(seed, scale_ranges):
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(40, 97)) * 4, int(rng.integers(40, 97)) * 4)
    boxes, masks = ellipses(rng, 12, size[0] - int(rng.integers(0, 32)), size[1] - int(rng.integers(0, 32)))
    masks[3] = 0
    labels = rng.integers(0, 80, len(boxes))
    targets = targets_of(boxes, labels, masks, size, scale_ranges=scale_ranges)
    assert 0 < len(targets.masks) < len(boxes)
    distinct = 0
    for level, (num_grid, scale_range) in enumerate(zip(NUM_GRIDS, scale_ranges, strict=True)):
        categories, cells, drawn = slow_level(boxes, labels, masks, size, num_grid, scale_range)
        part = slice(targets.level_offsets[level], targets.level_offsets[level + 1])
        assert targets.category_labels[level].tolist() == categories
        assert targets.cell_index[part].tolist() == cells
        assert np.array_equal(targets.masks[targets.mask_index[part]], drawn)
        distinct += len(set(cells))
    assert targets.num_positive_cells == distinct
    assert sorted(set(targets.mask_index)) == list(range(len(targets.masks)))


def test_dtypes():
    targets = targets_of([[8, 8, 40, 40]], [3], [rectangle(64, 64, (8, 8, 40, 40))], (64, 64))
    batch = collate_targets([targets, targets])
    for part in (targets, batch):
        assert part.masks.dtype == np.uint8
        arrays = (part.mask_index, part.cell_index, part.level_offsets, *part.category_labels)
        assert {array.dtype for array in arrays} == {np.dtype(np.int64)}
    assert batch.image_index.dtype == batch.num_positive_cells.dtype == np.int64


@pytest.mark.parametrize("count", [0, 1])
def test_no_positive(count):
    """Without an instance, or with one that has no pixel, every cell is background."""
    targets = targets_of(
        np.full((count, 4), 9) * [0, 0, 1, 1], [0] * count, np.zeros((count, 60, 64), np.uint8), (64, 64)
    )
    assert targets.masks.shape == (0, 16, 16)
    assert len(targets.mask_index) == len(targets.cell_index) == targets.num_positive_cells == 0
    assert targets.level_offsets.tolist() == [0] * 6
    assert [len(labels) for labels in targets.category_labels] == [grid**2 for grid in NUM_GRIDS]
    assert not any(labels.any() for labels in targets.category_labels)


def test_batch_with_an_empty_image():
    empty = targets_of(np.zeros((0, 4)), [], np.zeros((0, 64, 64), np.uint8), (64, 64))
    one = targets_of([[8, 8, 40, 40]], [3], [rectangle(64, 64, (8, 8, 40, 40))], (64, 64))
    batch = collate_targets([one, empty, one])
    positives = len(one.cell_index)
    assert batch.image_index.tolist() == [0] * positives + [2] * positives
    assert batch.mask_index.tolist() == [0] * positives + [1] * positives
    assert batch.num_positive_cells.tolist() == [one.num_positive_cells, 0, one.num_positive_cells]
    assert [labels.shape for labels in batch.category_labels] == [(3, grid**2) for grid in NUM_GRIDS]
    assert not any(labels[1].any() for labels in batch.category_labels)
    only_empty = collate_targets([empty, empty])
    assert only_empty.masks.shape == (0, 16, 16)
    assert only_empty.level_offsets.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("side", "levels"),
    [
        (0.5, []),
        (1, [0]),
        (47, [0]),
        (48, [0, 1]),
        (96, [0, 1, 2]),
        (97, [1, 2]),
        (384, [2, 3, 4]),
        (900, [4]),
        (2049, []),
    ],
)
def test_levels_include_both_ends(side, levels):
    targets = targets_of([[0, 0, side, side]], [0], [rectangle(64, 64, (20, 20, 40, 40))], (64, 64))
    assert np.flatnonzero(np.diff(targets.level_offsets)).tolist() == levels


def test_tiny_instance_vanishes_at_stride_4_but_stays_positive():
    targets = targets_of([[9, 9, 11, 11]], [0], [rectangle(64, 64, (9, 9, 10, 10))], (64, 64))
    assert len(targets.cell_index) == 1
    assert targets.masks.shape == (1, 16, 16)
    assert not targets.masks.any()


def test_shared_cells():
    """The later instance gives the category; both masks stay; a cell counts once."""
    masks = [rectangle(64, 64, (8, 8, 40, 40)), rectangle(64, 64, (9, 9, 39, 39))]
    targets = targets_of([[8, 8, 40, 40]] * 2, [5, 7], masks, (64, 64), num_grids=(4,), scale_ranges=((1, 96),))
    cells = len(targets.cell_index) // 2
    assert np.array_equal(targets.cell_index[:cells], targets.cell_index[cells:])
    assert targets.mask_index.tolist() == [0] * cells + [1] * cells
    assert targets.num_positive_cells == cells
    assert set(targets.category_labels[0][targets.cell_index]) == {8}


def test_at_most_3_by_3_cells_within_the_grid():
    targets = targets_of([[0, 0, 64, 64]], [0], [rectangle(64, 64, (0, 0, 2, 2))], (64, 64))
    level_0 = targets.cell_index[: targets.level_offsets[1]]
    assert level_0.tolist() == [0, 1, 40, 41]


def test_mask_may_be_a_view_and_smaller_than_the_padded_image():
    rng = np.random.default_rng(0)
    boxes, masks = ellipses(rng, 8, 122, 97)
    padded = np.zeros((8, 128, 128), np.uint8)
    padded[:, :122, :97] = masks
    expected = targets_of(boxes, range(8), padded, (128, 128))
    for same in (masks, padded[:, :122, :97], np.asfortranarray(masks)):
        targets = targets_of(boxes, range(8), same, (128, 128))
        assert np.array_equal(targets.masks, expected.masks)
        assert np.array_equal(targets.cell_index, expected.cell_index)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((2, 4), np.float32)}, "boxes"),
        ({"labels": np.zeros((1, 1), np.int64)}, "labels"),
        ({"masks": CroppedMasks.from_array(np.zeros((1, 65, 64), np.uint8))}, "larger"),
        ({"padded_size": (66, 64)}, "multiple of 4"),
        ({"scale_ranges": SCALE_RANGES[:4]}, "scale ranges"),
    ],
)
def test_arguments_that_do_not_fit(changes, message):
    arguments = {
        "boxes": np.zeros((1, 4), np.float32),
        "labels": np.zeros(1, np.int64),
        "masks": CroppedMasks.from_array(np.zeros((1, 64, 64), np.uint8)),
        "padded_size": (64, 64),
        "num_grids": NUM_GRIDS,
        "scale_ranges": SCALE_RANGES,
    }
    with pytest.raises(ValueError, match=message):
        make_targets(**{**arguments, **changes})


def test_batch_needs_one_size():
    small, large = (targets_of(np.zeros((0, 4)), [], np.zeros((0, s, s), np.uint8), (s, s)) for s in (64, 96))
    with pytest.raises(ValueError, match="same padded size"):
        collate_targets([small, large])
    with pytest.raises(ValueError, match="at least one"):
        collate_targets([])
