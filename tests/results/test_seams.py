"""Objects that seams cut are joined, and nothing else is."""

import numpy as np
import pytest

from ppsolo.results.instances import Instances
from ppsolo.results.seams import SeamJoiner

SIZE = (60, 90)


def tiles(side: int, overlap: int):
    for top in sorted({*range(0, SIZE[0] - side, side - overlap), SIZE[0] - side}):
        for left in sorted({*range(0, SIZE[1] - side, side - overlap), SIZE[1] - side}):
            yield top, left


def instances(masks: np.ndarray, scores, labels) -> Instances:
    return Instances.from_masks(
        masks, scores=np.array(scores), labels=np.array(labels), class_names=["a", "b"], category_ids=[1, 2]
    )


def joined(truth: np.ndarray, labels, *, side: int = 30, overlap: int = 10) -> Instances:
    """What tiles that see their part of the truth perfectly make of it."""
    joiner = SeamJoiner(SIZE, class_names=["a", "b"], category_ids=[1, 2])
    for top, left in tiles(side, overlap):
        part = truth[:, top : top + side, left : left + side]
        seen = part.any(axis=(1, 2))
        joiner.add(instances(part[seen], np.full(seen.sum(), 0.8), np.array(labels)[seen]), top=top, left=left)
    return joiner.instances()


def ellipse(y: float, x: float, height: float, width: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1


def assert_found(found: Instances, truth: np.ndarray, labels) -> None:
    assert len(found) == len(truth)
    left = list(range(len(truth)))
    for mask, label in zip(found.masks, found.labels, strict=True):
        (match,) = (i for i in left if (truth[i] == mask).all())
        assert label == labels[match]
        left.remove(match)


@pytest.mark.parametrize("overlap", [1, 10, 15, 22])
def test_every_object_comes_once_and_whole(overlap):
    truth = np.stack(
        [
            ellipse(10, 10, 6, 6),  # inside one tile
            ellipse(25, 25, 8, 8),  # in the corner of four tiles, whole in none
            ellipse(40, 45, 5, 40),  # across the whole picture
            ellipse(5, 24, 3, 3),  # inside an overlap: whole in two tiles
            ellipse(15, 70, 12, 2),
        ]
    )
    assert_found(joined(truth, [0, 1, 0, 1, 0], overlap=overlap), truth, [0, 1, 0, 1, 0])


@pytest.mark.parametrize("seed", range(20))
def test_random_objects_that_do_not_touch(seed):
    random = np.random.default_rng(seed)
    taken, truth = np.zeros(SIZE, bool), []
    for _ in range(12):
        mask = ellipse(*random.uniform([0, 0, 2, 2], [SIZE[0], SIZE[1], 12, 20]))
        if mask.sum() > 4 and not (mask & taken).any():
            truth.append(mask)
            taken |= mask
    labels = random.integers(0, 2, len(truth)).tolist()
    assert_found(joined(np.stack(truth), labels), np.stack(truth), labels)


def test_neighbours_across_a_seam_stay_two():
    """Two objects of one class that touch, one on each side of an overlap."""
    truth = np.zeros((2, *SIZE), bool)
    truth[0, 5:15, 12:24], truth[1, 5:15, 24:38] = True, True
    assert_found(joined(truth, [0, 0]), truth, [0, 0])


def test_a_whole_object_stands_for_a_piece_with_another_label():
    joiner = SeamJoiner(SIZE, class_names=["a", "b"], category_ids=[1, 2])
    whole = ellipse(15, 27, 5, 6)
    joiner.add(instances(whole[None, :30, :30], [0.4], [1]), top=0, left=0)  # cut on the right
    joiner.add(instances(whole[None, :30, 20:50], [0.9], [0]), top=0, left=20)
    found = joiner.instances()
    assert found.labels.tolist() == [0] and found.scores.tolist() == [np.float32(0.9)]


def test_an_unsure_object_stands_for_no_sure_piece():
    joiner = SeamJoiner(SIZE, class_names=["a", "b"], category_ids=[1, 2])
    bar = np.zeros(SIZE, bool)
    bar[10:14, 20:30] = True
    joiner.add(instances(bar[None, :30, :30], [0.9], [0]), top=0, left=0)  # cut on the right
    wide = np.zeros((1, 30, 30), bool)
    wide[0, 5:20, 3:12] = True
    joiner.add(instances(wide, [0.1], [1]), top=0, left=20)
    assert sorted(joiner.instances().scores.tolist()) == pytest.approx([0.1, 0.9])


def test_the_score_is_a_mean_by_area_and_the_label_that_of_the_larger_part():
    bar = np.zeros(SIZE, bool)
    bar[10:14, 5:45] = True
    joiner = SeamJoiner(SIZE, class_names=["a", "b"], category_ids=[1, 2])
    joiner.add(instances(bar[None, :30, :30], [0.5], [0]), top=0, left=0)  # 25 columns
    joiner.add(instances(bar[None, :30, 20:50], [0.9], [1]), top=0, left=20)  # 25 columns, a better score
    found = joiner.instances()
    assert len(found) == 1 and found.labels.tolist() == [1] and (found.masks[0] == bar).all()
    assert found.scores[0] == pytest.approx(0.7)


def test_where_tiles_overlap_the_one_with_the_pixel_in_its_middle_decides():
    """Masks are poor at the border of a tile: what one tile sees there stands nowhere."""
    bar = np.zeros(SIZE, bool)
    bar[10:14, 5:45] = True
    seen = [bar[None, :30, :30].copy(), bar[None, :30, 20:50].copy()]
    seen[0][0, 8:16, 26:30] = True  # the last columns of the first tile, nearer to the middle of the second
    seen[1][0, 8:16, :3] = True
    joiner = SeamJoiner(SIZE, class_names=["a", "b"], category_ids=[1, 2])
    for left, masks in zip((0, 20), seen, strict=True):
        joiner.add(instances(masks, [0.9], [0]), top=0, left=left)
    found = joiner.instances()
    assert len(found) == 1 and (found.masks[0] == bar).all()


def test_an_unsure_piece_does_not_join_a_sure_one():
    bar = np.zeros(SIZE, bool)
    bar[10:14, 5:45] = True
    joiner = SeamJoiner(SIZE, class_names=["a", "b"], category_ids=[1, 2])
    joiner.add(instances(bar[None, :30, :30], [0.9], [0]), top=0, left=0)
    joiner.add(instances(bar[None, :30, 20:50], [0.2], [0]), top=0, left=20)
    assert joiner.instances().scores.tolist() == pytest.approx([0.9, 0.2])


def test_two_pieces_of_which_one_covers_both_neighbours_do_not_join_it():
    """They agree by intersection over union, not by a part of the smaller one."""
    joiner = SeamJoiner(SIZE, class_names=["a", "b"], category_ids=[1, 2])
    bar = np.zeros(SIZE, bool)
    bar[10:14, 15:30] = True
    block = np.zeros(SIZE, bool)
    block[2:28, 20:40] = True
    joiner.add(instances(bar[None, :30, :30], [0.9], [0]), top=0, left=0)
    joiner.add(instances(block[None, :30, 20:50], [0.8], [0]), top=0, left=20)
    assert len(joiner.instances()) == 2


def test_nothing_in_any_tile():
    joiner = SeamJoiner(SIZE, class_names=["a"], category_ids=[1])
    found = joiner.instances()
    assert len(found) == 0 and found.size == SIZE
