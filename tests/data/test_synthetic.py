"""Drawn scenes and data sets: their form, what hides what, and that files say exactly what was drawn."""

import json

import cv2
import numpy as np
import pytest

from ppsolo.data.coco import CocoDataset, decode_mask, load_sample
from ppsolo.data.synthetic import (
    CATEGORY_IDS,
    CLASS_NAMES,
    CROWD_SHARE,
    HUE_SPREAD,
    HUES,
    SHAPES,
    draw_dataset,
    draw_scene,
    visible_masks,
)
from ppsolo.errors import DatasetError

SIZE = (64, 96)


def scene(*seed: int):
    return draw_scene(np.random.default_rng(seed), SIZE)


@pytest.fixture(scope="module")
def scenes():
    return [scene(7, number) for number in range(100)]


def test_form(scenes):
    for image, masks, labels, crowds in scenes[:20]:
        assert image.shape == (*SIZE, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert masks.shape == (len(labels), *SIZE) and masks.dtype == bool
        assert labels.dtype == np.int64 and crowds.shape == labels.shape and crowds.dtype == bool
        assert masks.any(axis=(1, 2)).all()
        assert masks.sum(axis=0).max() == 1


def test_mixture(scenes):
    labels = np.concatenate([each.labels for each in scenes])
    assert np.bincount(labels, minlength=len(CLASS_NAMES)).min() > len(labels) / 5
    numbers = [int((~each.crowds).sum()) for each in scenes]
    assert min(numbers) >= SHAPES[0] - 1 and max(numbers) == SHAPES[1]
    assert 0 < sum(int(each.crowds.sum()) for each in scenes) < 3 * CROWD_SHARE * len(scenes)
    assert all(each.crowds.sum() <= 1 for each in scenes)
    # A tiny disc has a radius of 0.03 * 64 pixels, others at least 0.16 * 64; cut at the border and half hidden,
    # few of those are under 20 pixels.
    areas = np.concatenate([each.masks[~each.crowds].sum(axis=(1, 2)) for each in scenes])
    assert 0.01 < (areas < 20).mean() < 0.12
    assert 200 < np.median(areas) < 700


def test_shapes_show_in_the_picture(scenes):
    """Across the outline of an object that lies in front, colours change more than they do inside of it."""
    steps_at_edges, steps_inside = [], []
    for image, masks, _, crowds in scenes[:30]:
        steps = np.abs(np.diff(image.astype(int), axis=1)).sum(axis=2)
        front = masks[~crowds][-1]
        steps_at_edges.append(steps[front[:, 1:] != front[:, :-1]].mean())
        steps_inside.append(np.median(steps[front[:, 1:] & front[:, :-1]]))
    assert np.mean(steps_at_edges) > 2 * np.mean(steps_inside)


def test_each_class_has_its_hues(scenes):
    """An object's median hue is near its class's. Its second colour may add 15, noise and rounding 2."""
    for image, masks, labels, crowds in scenes[:20]:
        hues = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[:, :, 0].astype(float)
        for mask, label in zip(masks[~crowds], labels[~crowds], strict=True):
            if mask.sum() > 50:
                away = (hues[mask] - HUES[label] + 90) % 180 - 90
                assert abs(np.median(away)) <= HUE_SPREAD + 15 + 2


def test_same_seed_same_scene():
    first, again, other = scene(1, 2), scene(1, 2), scene(1, 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.image, other.image)


def test_visible_masks():
    masks = np.array([[[1, 1, 1, 1]], [[0, 1, 1, 0]], [[0, 0, 1, 1]], [[0, 0, 0, 1]]], bool)
    assert visible_masks(masks).astype(int).tolist() == [[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 1]]]
    hidden = np.array([[[0, 1, 0]], [[1, 1, 1]]], bool)
    assert visible_masks(hidden).any(axis=(1, 2)).tolist() == [False, True]
    assert visible_masks(np.zeros((0, 2, 3), bool)).shape == (0, 2, 3)


def test_files_hold_what_was_drawn(tmp_path):
    train, val = draw_dataset(tmp_path / "new" / "set", train=12, val=2, size=SIZE, seed=3)
    assert (train.annotations.name, val.image_dir.name) == ("instances_train.json", "val")
    dataset = CocoDataset(train.annotations, train.image_dir, keep_empty=True)
    assert dataset.class_names == CLASS_NAMES and dataset.category_ids == CATEGORY_IDS
    assert len(dataset) == 12
    crowds = 0
    for index in range(12):
        record, drawn = dataset[index], scene(3, 0, index + 1)
        sample = load_sample(record)
        single = ~drawn.crowds
        assert np.array_equal(sample.image, drawn.image)
        assert np.array_equal(sample.masks.to_array().astype(bool), drawn.masks[single])
        assert np.array_equal(sample.labels, drawn.labels[single])
        for mask, box in zip(drawn.masks[single], sample.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        for outline, mask in zip(record.crowds, drawn.masks[drawn.crowds], strict=True):
            assert np.array_equal(decode_mask(outline, SIZE), mask)
            crowds += 1
    assert crowds > 0
    entries = json.loads(train.annotations.read_text())["annotations"]
    assert [entry["id"] for entry in entries] == list(range(1, len(entries) + 1))
    assert {type(entry["segmentation"]) for entry in entries if entry["iscrowd"]} == {dict}
    assert {type(entry["segmentation"]) for entry in entries if not entry["iscrowd"]} == {list}


def test_more_scenes_leave_the_first_alone(tmp_path):
    for folder, number in (("a", 2), ("b", 3)):
        draw_dataset(tmp_path / folder, train=number, val=number, size=SIZE, seed=4)
    for part in ("train", "val"):
        first, second = ([*sorted((tmp_path / folder / part).iterdir())] for folder in ("a", "b"))
        assert [path.name for path in first] == ["000001.png", "000002.png"]
        assert len(second) == 3
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second[:2]]
    images = {path.read_bytes() for path in (tmp_path / "b").glob("*/*.png")}
    assert len(images) == 6
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "train",
        "val",
        "instances_train.json",
        "instances_val.json",
    }


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DatasetError, match=r"taken.*cannot be created"):
        draw_dataset(tmp_path / "taken", train=1, val=1, size=SIZE)
    (tmp_path / "full" / "instances_train.json").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"instances_train\.json: cannot be written"):
        draw_dataset(tmp_path / "full", train=1, val=1, size=SIZE)
