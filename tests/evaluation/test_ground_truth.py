"""Annotation files and results: which values are filled in, and which faults are refused and named."""

import copy

import numpy as np
import pytest

from ppsolo.errors import DatasetError
from ppsolo.evaluation.ground_truth import GroundTruth, read_detections

SQUARE = [[1, 1, 4, 1, 4, 3, 1, 3]]  # 3 wide, 2 tall


def content():
    return {
        "images": [{"id": 5, "height": 6, "width": 8}, {"id": 2, "height": 6, "width": 8}],
        "categories": [{"id": 4, "name": "dog"}, {"id": 1}],
        "annotations": [
            {"id": 10, "image_id": 2, "category_id": 4, "segmentation": SQUARE},
            {"id": 11, "image_id": 5, "category_id": 1, "iscrowd": 1, "area": 7, "bbox": [0, 1, 2, 3]},
            {"id": 0, "image_id": 2, "category_id": 1, "bbox": [0, 0, 2, 2.5], "iscrowd": 0, "ignore": 1},
        ],
    }


def test_columns_follow_the_file_and_ids_are_sorted():
    truth = GroundTruth(content())
    assert (truth.image_ids, truth.category_ids) == ((2, 5), (1, 4))
    assert truth.category_names == ("1", "dog")
    assert truth.image.tolist() == [0, 0, 1]  # by image
    assert truth.category.tolist() == [1, 0, 0]
    assert truth.crowd.tolist() == [False, False, True]
    assert truth.area.tolist() == [6, 5, 7]  # of the mask, of the box, as stated
    assert truth.annotated.tolist() == [True, False]
    assert truth.rows(0).tolist() == [0, 1]
    assert truth.boxes(np.arange(3)).tolist() == [[1, 1, 3, 2], [0, 0, 2, 2.5], [0, 1, 2, 3]]
    assert (truth.image_index(5), truth.category_index(4)) == (1, 1)


def test_images_left_out_are_known_but_have_no_index():
    truth = GroundTruth(content(), image_ids=[5])
    assert (truth.image_ids, truth.rows(0).tolist(), len(truth.image)) == ((5,), [0], 1)
    assert truth.image_index(2) is None
    with pytest.raises(KeyError):
        truth.image_index(3)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images",), None, "it has no list 'images'"),
        (("annotations",), {}, "it has no list 'annotations'"),
        (("images", 0), {"height": 1}, "every entry of 'images' needs an integer as 'id': entry 0"),
        (("images", 0, "id"), 2, "'images' has the id 2 twice"),
        (("categories", 1, "id"), 4, "'categories' has the id 4 twice"),
        (("annotations", 2, "id"), 10, "'annotations' has the id 10 twice"),
        (("annotations", 0, "image_id"), 9, "annotation 10 is for image 9, which is not among 'images'"),
        (("annotations", 0, "image_id"), [2], r"annotation 10 is for image \[2\], which is not among"),
        (("annotations", 2, "category_id"), None, "annotation 0 of image 2: category None is not among"),
        (("annotations", 1, "iscrowd"), 2, "annotation 11 of image 5: 'iscrowd' is 2, neither 0 nor 1"),
        (("annotations", 1, "area"), "big", "annotation 11 of image 5: area 'big' is not a number"),
        (("annotations", 2, "bbox"), [0, 0, 2], r"annotation 0 of image 2: bbox \[0, 0, 2\] is not \[x, y, width"),
        (
            ("annotations", 0, "segmentation"),
            [[1, 2, 3, 4, 5, 6, 7]],
            "annotation 10 of image 2: a polygon has 7 numbers",
        ),
    ],
)
def test_broken_files_are_refused_by_name(path, value, message):
    broken = content()
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(DatasetError, match=f"^annotations.*{message}"):
        GroundTruth(broken)


def test_an_annotation_without_a_mask_is_refused_when_the_mask_is_needed():
    truth = GroundTruth(content())
    assert truth.outlined.tolist() == [True, False, False]
    truth.check_masks()
    with pytest.raises(DatasetError, match="annotation 11: it has no 'segmentation'"):
        truth.masks(truth.rows(1))


def test_masks_need_outlines_and_sizes_from_the_start():
    boxes = content()
    del boxes["annotations"][0]["segmentation"]
    boxes["annotations"][0]["bbox"] = [0, 0, 1, 1]
    with pytest.raises(DatasetError, match="none of the 3 annotations has an outline"):
        GroundTruth(boxes).check_masks()
    unsized = content()
    del unsized["images"][1]["width"]
    unsized["annotations"][0]["area"] = 6
    with pytest.raises(DatasetError, match="image 2 has no height and width"):
        GroundTruth(unsized).check_masks()


def test_ids_may_be_texts():
    named = content()
    named["images"][0]["id"] = "five"
    named["annotations"][1]["image_id"] = "five"
    assert GroundTruth(named).image_ids == (2, "five")


def read(*entries, box_from_mask=False, needs_masks=False):
    return read_detections(
        list(enumerate(entries, 20)),
        image=0,
        truth=GroundTruth(content()),
        box_from_mask=box_from_mask,
        needs_masks=needs_masks,
    )


GOOD = {"image_id": 2, "category_id": 4, "score": 0.5, "segmentation": SQUARE}


def test_boxes_and_areas_of_results():
    stated = {**GOOD, "bbox": [0, 0, 2, 2], "score": np.float32(0.25)}
    boxes = {key: value for key, value in stated.items() if key != "segmentation"}
    detections = read(GOOD, stated, {**GOOD, "bbox": []})
    assert detections.boxes.tolist() == [[1, 1, 3, 2], [0, 0, 2, 2], [1, 1, 3, 2]]
    assert detections.area.tolist() == [6, 4, 6]
    assert detections.score.tolist() == [0.5, 0.25, 0.5]
    assert detections.category.tolist() == [1, 1, 1]
    assert detections.masks is not None
    assert read(GOOD, stated, box_from_mask=True).area.tolist() == [6, 6]
    assert read(GOOD, boxes, box_from_mask=True).area.tolist() == [6, 4]
    assert read(GOOD, boxes).masks is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 3}, "annotations has no category 3"),
        ({"category_id": [4]}, r"annotations has no category \[4\]"),
        ({"score": None}, "no finite 'score'"),
        ({"score": "0.5"}, "no finite 'score'"),
        ({"score": 10**400}, "no finite 'score'"),
        ({"score": float("inf")}, "no finite 'score'"),
        ({"bbox": [0, 0, 1]}, "its 'bbox' is not left, top, width, height"),
        ({"bbox": 7}, "its 'bbox' is not left, top, width, height"),
        ({"segmentation": {"size": [8, 6], "counts": [48]}}, r"\[8, 6\], but the image's \[6, 8\]"),
        ({"segmentation": {"size": [6, 8], "counts": "zz"}}, "cannot be read"),
        ({"segmentation": None}, "neither 'segmentation' nor 'bbox'"),
    ],
)
def test_broken_results_are_refused_by_index_and_image(change, message):
    entry = {**copy.deepcopy(GOOD), **change}
    with pytest.raises(DatasetError, match=rf"^result 21 \(image 2\): .*{message}"):
        read(GOOD, entry)
