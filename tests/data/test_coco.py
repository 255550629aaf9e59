"""Annotation files: real ones, small made ones, and broken ones."""

import copy
import json
import logging
import re

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ppsolo.data.coco import CocoDataset, decode_mask, load_sample
from ppsolo.errors import DatasetError

HEIGHT, WIDTH = 24, 32
TRIANGLE = [2.0, 3.0, 20.0, 3.0, 2.0, 15.0]


def annotation(number: int, **changes) -> dict:
    entry = {
        "id": number,
        "image_id": 1,
        "category_id": 7,
        "segmentation": [TRIANGLE],
        "bbox": [2.0, 3.0, 18.0, 12.0],
        "area": 108.0,
        "iscrowd": 0,
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def content(annotations: list[dict], images: int = 1) -> dict:
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
            for number in range(images, 0, -1)
        ],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "nut"}, {"id": 7, "name": "bolt"}],
    }


@pytest.fixture
def dataset_of(tmp_path):
    """Write a file, and images 1, 2 and 3, and open it."""

    def build(tree, **arguments) -> CocoDataset:
        for number in (1, 2, 3):
            cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((HEIGHT, WIDTH, 3), number, np.uint8))
        (tmp_path / "instances.json").write_text(json.dumps(tree))
        return CocoDataset(tmp_path / "instances.json", tmp_path, **arguments)

    return build


def run_lengths(mask: np.ndarray) -> list[int]:
    """Column by column, starting with the zeros, one pixel at a time."""
    runs, value = [0], 0
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@pytest.mark.parametrize(
    ("name", "images", "kept", "instances", "crowds"),
    [("train", 47, 47, 518, 6), ("val", 57, 55, 510, 7)],
)
def test_real_photographs(data, name, images, kept, instances, crowds):
    folder = data / "coco_permissive"
    path = folder / f"instances_{name}2017.json"
    dataset = CocoDataset(path, folder / f"{name}2017")
    records = [dataset[index] for index in range(len(dataset))]
    assert len(CocoDataset(path, folder / f"{name}2017", keep_empty=True)) == images
    assert len(records) == kept
    assert sum(len(record.boxes) for record in records) == instances
    assert sum(len(record.crowds) for record in records) == crowds
    assert [record.image_id for record in records] == sorted(record.image_id for record in records)
    assert dataset.class_names[:2] == ("person", "bicycle")
    assert dataset.category_ids[11] == 13


def test_real_masks_are_those_of_pycocotools(data):
    folder = data / "coco_permissive"
    tree = json.loads((folder / "instances_val2017.json").read_text())
    by_id = {entry["id"]: entry for entry in tree["annotations"]}
    dataset = CocoDataset(folder / "instances_val2017.json", folder / "val2017")
    for record in (dataset[index] for index in range(0, len(dataset), 11)):
        sample = load_sample(record)
        assert sample.image.shape == (*record.size, 3)
        for number, mask, box, label in zip(
            record.annotation_ids, sample.masks.to_array(), sample.boxes, sample.labels, strict=True
        ):
            entry = by_id[number]
            parts = coco_mask.frPyObjects(entry["segmentation"], *record.size)
            assert np.array_equal(mask, coco_mask.decode(coco_mask.merge(parts)))
            x, y, width, height = entry["bbox"]
            assert np.array_equal(box, np.round([x, y, x + width, y + height], 3).astype(np.float32))
            assert dataset.category_ids[label] == entry["category_id"]


def test_drawn_set(data, caplog):
    """8 images, one of them empty, one with a crowd only; an instance as run lengths, one of area zero."""
    folder = data / "tiny_coco"
    path = folder / "annotations" / "instances_tiny.json"
    with caplog.at_level(logging.WARNING):
        dataset = CocoDataset(path, folder / "images")
    assert "left out of training" in caplog.text and "(1 annotation: 36)" in caplog.text
    assert [dataset[index].image_id for index in range(len(dataset))] == [103, 106, 109, 112, 115, 118]
    everything = CocoDataset(path, folder / "images", keep_empty=True)
    assert len(everything) == 8
    crowds = [outline for index in range(8) for outline in everything[index].crowds]
    assert len(crowds) == 2


def test_nuclei(data):
    folder = data / "dsb2018_360"
    dataset = CocoDataset(folder / "instances_train.json", folder / "train")
    assert (len(dataset), dataset.class_names) == (67, ("nucleus",))
    assert sum(len(dataset[index].boxes) for index in range(67)) == 1591


def test_recorded_polygons(reference):
    polygons = json.loads((reference / "golden" / "dygraph__poly2mask_polygons.json").read_text())
    with np.load(reference / "golden" / "dygraph__transforms.npz") as arrays:
        expected = arrays["poly2mask"]
    drawn = [decode_mask(tuple(np.array(part, np.float64) for part in parts), expected.shape[1:]) for parts in polygons]
    assert np.array_equal(drawn, expected)


def test_sample(dataset_of):
    dataset = dataset_of(content([annotation(5), annotation(6, category_id=9, image_id=2)], images=2))
    assert (dataset.category_ids, dataset.class_names) == ((9, 7), ("nut", "bolt"))
    record = dataset[0]
    assert (record.image_id, record.size, record.annotation_ids) == (1, (HEIGHT, WIDTH), (5,))
    assert record.boxes.tolist() == [[2, 3, 20, 15]]
    assert record.boxes.dtype == np.float32
    assert record.labels.tolist() == [1]
    assert dataset[1].labels.tolist() == [0]
    sample = load_sample(record)
    assert (sample.image == 1).all() and sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.masks.to_array().shape == (1, HEIGHT, WIDTH)
    assert 90 < sample.masks.to_array().sum() < 120
    assert (sample.image_id, sample.original_size) == (1, (HEIGHT, WIDTH))


def test_box_conventions(dataset_of):
    boxes = [[2.0, 3.0, 18.0, 12.0], [-4.0, 1.0, 50.0, 0.5], [3.00049, 2.0, 1.0, 1.0]]
    tree = content([annotation(number, bbox=box) for number, box in enumerate(boxes)])
    assert np.array_equal(
        dataset_of(tree)[0].boxes, np.array([[2, 3, 20, 15], [-4, 1, 46, 1.5], [3, 2, 4, 3]], np.float32)
    )
    assert np.array_equal(
        dataset_of(tree, box_convention="inclusive")[0].boxes,
        np.array([[2, 3, 19, 14], [0, 1, 31, 1], [3.00049, 2, 3.00049, 2]], np.float32),
    )


def test_run_lengths_in_both_forms(dataset_of):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 1.0):
        mask = (rng.random((HEIGHT, WIDTH)) < density).astype(np.uint8)
        compressed = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        forms = [{"size": [HEIGHT, WIDTH], "counts": counts} for counts in (compressed, run_lengths(mask))]
        tree = content([annotation(number, segmentation=form) for number, form in enumerate(forms)])
        assert np.array_equal(load_sample(dataset_of(tree)[0]).masks.to_array(), [mask, mask])


def test_crowds_are_known_but_not_trained_on(dataset_of):
    whole = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    record = dataset_of(
        content([annotation(1, iscrowd=1, segmentation=whole), annotation(2), annotation(3, ignore=True)])
    )[0]
    assert record.annotation_ids == (2,)
    assert len(record.crowds) == 2
    assert decode_mask(record.crowds[0], record.size).all()


def test_missing_fields(dataset_of):
    whole = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT, HEIGHT, HEIGHT * (WIDTH - 2)]}
    two_parts = [TRIANGLE, [25.0, 4.0, 30.0, 4.0, 30.0, 20.5]]
    record = dataset_of(
        content(
            [
                annotation(1, area=..., iscrowd=...),
                annotation(2, bbox=..., segmentation=two_parts),
                annotation(3, bbox=..., segmentation=whole),
            ]
        )
    )[0]
    assert record.boxes.tolist() == [[2, 3, 20, 15], [2, 3, 30, 20.5], [1, 0, 2, HEIGHT]]


def test_zero_areas_and_boxes_are_left_out(dataset_of, caplog):
    ignored = [annotation(4, area=0), annotation(5, bbox=[1, 1, 0, 5]), annotation(6, area=0.0, segmentation=[])]
    with caplog.at_level(logging.WARNING):
        record = dataset_of(content([annotation(3), *ignored]))[0]
    assert record.annotation_ids == (3,)
    assert "left out of training" in caplog.text and "(3 annotations: 4, 5, 6)" in caplog.text


def test_empty_images(dataset_of):
    tree = content([annotation(1)], images=3)
    assert len(dataset_of(tree)) == 1
    dataset = dataset_of(tree, keep_empty=True)
    assert [dataset[index].image_id for index in range(3)] == [1, 2, 3]
    sample = load_sample(dataset[2])
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert len(sample.masks) == 0 and sample.size == (HEIGHT, WIDTH)


PIXELS = HEIGHT * WIDTH


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_id": 8}, "annotation 5 of image 1: category 8 is not among"),
        ({"category_id": [7]}, "annotation 5 of image 1: category [7] is not among"),
        ({"image_id": 99}, "annotation 5 is for image 99"),
        ({"image_id": {}}, "annotation 5 is for image {}"),
        ({"segmentation": "outline"}, "annotation 5 of image 1: the segmentation is neither"),
        ({"iscrowd": 2}, "annotation 5 of image 1: 'iscrowd' is 2, neither 0 nor 1"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "annotation 5 of image 1: a polygon has 7 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "annotation 5 of image 1: a polygon is not a list"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "annotation 5 of image 1: a polygon has a coordinate"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "annotation 5 of image 1: a polygon has a coordinate"),
        ({"bbox": [1, 2, 3]}, "annotation 5 of image 1: bbox [1, 2, 3] is not"),
        ({"bbox": [1, 2, 3, 10**400]}, "annotation 5 of image 1: bbox"),
        ({"bbox": [1, 2, 3, float("inf")]}, "annotation 5 of image 1: bbox"),
        ({"area": "large"}, "annotation 5 of image 1: area 'large' is not a number"),
        (
            {"segmentation": {"size": [3, 4], "counts": [12]}},
            "annotation 5 of image 1: the mask's size (height, width) is [3, 4]",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [PIXELS - 1]}},
            "annotation 5 of image 1: the run lengths add",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-1, PIXELS + 1]}},
            "annotation 5 of image 1: the run lengths",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": ["a"]}},
            "annotation 5 of image 1: the run lengths ('counts')",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": ""}},
            "annotation 5 of image 1: the run lengths ('counts')",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "P3"}}, "annotation 5 of image 1: the run lengths add"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "oooooooo3"}},
            "annotation 5 of image 1: the run lengths",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "annotation 5 of image 1: the segmentation is neither"),
    ],
)
def test_broken_annotations(dataset_of, changes, message):
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        dataset_of(content([annotation(4), annotation(5, **changes)]))
    assert "\n" not in str(caught.value)
    assert "instances.json" in str(caught.value)


def change(tree: dict, path: str, value) -> dict:
    """Set one entry, or remove it with `...`."""
    tree = copy.deepcopy(tree)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inner = tree
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("categories", ..., "no list 'categories'"),
        ("annotations", {}, "no list 'annotations'"),
        ("images", [3], "'images' is not a list of objects"),
        ("images.0.id", 1, "'images' has the id 1 twice"),
        ("categories.0.id", 7, "'categories' has the id 7 twice"),
        ("annotations.0.id", [4], "every entry of 'annotations' needs an integer as 'id'"),
        ("annotations.0.id", ..., "every entry of 'annotations' needs an integer as 'id'"),
        ("images.1.height", ..., "image 1: needs a 'file_name'"),
        ("images.1.width", 0, "image 1: needs a 'file_name'"),
        ("images.1.file_name", "x" * 5000, "does not exist"),
        ("images.1.file_name", "gone.png", "gone.png does not exist"),
        ("annotations", [], "no image has an instance to train on"),
    ],
)
def test_broken_files(dataset_of, path, value, message):
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        dataset_of(change(content([annotation(4), annotation(5, image_id=2)], images=2), path, value))
    assert "instances.json" in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(DatasetError, match=re.escape("none.json: cannot be read")):
        CocoDataset(tmp_path / "none.json", tmp_path)
    for text in ("{", "\xff", "[]", "[" * 100_000):
        (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(DatasetError, match=re.escape("bad.json: not ")):
            CocoDataset(tmp_path / "bad.json", tmp_path)


def test_image_of_another_size(dataset_of):
    record = dataset_of(content([annotation(5)]))[0]
    cv2.imwrite(str(record.path), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"image 1: .*1\.png is 32 x 24 .* 24 x 32"):
        load_sample(record)
