"""Instances: their arrays, choosing among them, and every written form, with and without any instance."""

import json
import pickle

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ppsolo.results.instances import Instances
from ppsolo.results.rle import encode_mask

NAMES = ("person", "dog", "Würstchen")
IDS = (1, 18, 90)
SIZE = (12, 20)


def make(masks: np.ndarray, scores: list[float], labels: list[int]) -> Instances:
    return Instances.from_masks(
        masks, scores=np.array(scores), labels=np.array(labels), class_names=NAMES, category_ids=IDS
    )


@pytest.fixture
def three() -> Instances:
    """A square; two parts and a hole; an empty mask."""
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 6:11, 1:6] = masks[1, 0, 19] = True
    masks[1, 8, 3] = False
    return make(masks, [0.9, 0.5, 0.25], [0, 2, 0])


@pytest.fixture
def none() -> Instances:
    return make(np.zeros((0, *SIZE), bool), [], [])


def test_arrays(three):
    assert len(three) == 3 and three.size == SIZE
    assert three.masks.dtype == bool and three.masks.shape == (3, *SIZE)
    assert three.masks is three.masks  # decoded once
    assert three.scores.dtype == np.float32 and three.labels.dtype == np.int64
    assert three.boxes.dtype == np.float32
    assert three.boxes.tolist() == [[3, 2, 9, 5], [1, 0, 20, 11], [0, 0, 0, 0]]
    assert three.areas.tolist() == [18, 25, 0]
    assert three.names == ["person", "Würstchen", "person"]


def test_masks_survive_the_run_lengths():
    generator = np.random.default_rng(0)
    for size in [(1, 1), (1, 7), (7, 1), (33, 21), (20000, 10)]:
        masks = generator.random((3, *size)) < generator.random((3, 1, 1))
        instances = make(masks, [0.3, 0.2, 0.1], [0, 1, 2])
        assert np.array_equal(instances.masks, masks)
        assert instances.areas.tolist() == masks.sum(axis=(1, 2)).tolist()
        again = Instances(
            rles=instances.rle(),
            scores=instances.scores,
            labels=instances.labels,
            size=size,
            class_names=NAMES,
            category_ids=IDS,
        )
        assert again.rles == instances.rles


def test_nothing_flows_through_every_form(none, tmp_path):
    assert len(none) == 0 and list(none) == []
    assert none.masks.shape == (0, *SIZE) and none.masks.dtype == bool
    assert none.boxes.shape == (0, 4) and none.areas.shape == none.scores.shape == none.labels.shape == (0,)
    assert none.names == none.rle() == none.polygons() == none.to_coco(1) == []
    assert len(none.above(0.0)) == len(none[:]) == len(none[[]]) == len(none[np.zeros(0, bool)]) == 0
    none.to_labelme(tmp_path / "none.json", "none.png")
    assert json.loads((tmp_path / "none.json").read_text())["shapes"] == []
    image = np.full((*SIZE, 3), 7, np.uint8)
    assert np.array_equal(none.draw(image), image)
    assert repr(none) == "Instances(0; 12x20)"
    assert len(pickle.loads(pickle.dumps(none))) == 0


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0, 0], [2, 0, 0]),
        (np.array([1]), [1]),
        ([True, False, True], [0, 2]),
        (np.array([False, False, False]), []),
    ],
)
def test_indexing(three, index, chosen):
    part = three[index]
    assert isinstance(part, Instances)
    assert np.array_equal(part.masks, three.masks[chosen])
    assert np.array_equal(part.scores, three.scores[chosen])
    assert np.array_equal(part.labels, three.labels[chosen])
    assert np.array_equal(part.boxes, three.boxes[chosen])
    assert (part.size, part.class_names, part.category_ids) == (SIZE, NAMES, IDS)


@pytest.mark.parametrize("index", [3, -4, [0, 3], np.array([True, False]), np.zeros((1, 1), int), (0, 1), "0", 0.5])
def test_wrong_indices_are_refused(three, index):
    with pytest.raises(IndexError):
        three[index]


def test_iteration_and_threshold(three):
    assert [one.names for one in three] == [["person"], ["Würstchen"], ["person"]]
    assert three.above(0.5).names == ["person", "Würstchen"]
    assert len(three.above(0.95)) == 0 and len(three.above(0.0)) == 3
    for wrong in (50, -0.1, float("nan")):
        with pytest.raises(ValueError, match="a score lies between 0 and 1"):
            three.above(wrong)


def test_a_labelme_file_never_takes_the_place_of_a_picture(three, tmp_path):
    picture = tmp_path / "street.jpg"
    picture.write_bytes(b"a photo")
    with pytest.raises(ValueError, match=r"street\.jpg: a labelme file ends with \.json"):
        three.to_labelme(picture)
    assert picture.read_bytes() == b"a photo"


def test_the_given_arrays_are_copied():
    scores, labels = np.array([0.5], np.float32), np.array([1])
    instances = Instances.from_masks(
        np.ones((1, 2, 2), bool), scores=scores, labels=labels, class_names=NAMES, category_ids=IDS
    )
    scores[0], labels[0] = 0, 0
    assert instances.scores[0] == 0.5 and instances.labels[0] == 1


def test_repr(three):
    assert repr(three) == "Instances(3: 2 person, 1 Würstchen; 12x20)"
    names = [f"kind{i}" for i in range(8)]
    many = Instances.from_masks(
        np.ones((8, 3, 4), bool), scores=np.ones(8), labels=np.arange(8), class_names=names, category_ids=range(8)
    )
    assert repr(many) == "Instances(8: 1 kind0, 1 kind1, 1 kind2, 1 kind3, 1 kind4, 3 more classes; 3x4)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros(2)}, "scores and labels"),
        ({"labels": np.zeros((1, 1), int)}, "scores and labels"),
        ({"labels": np.array([3])}, "labels must lie in 0 .. 2"),
        ({"labels": np.array([-1])}, "labels must lie in 0 .. 2"),
        ({"labels": np.array([0.5])}, "integers"),
        ({"size": (3, 2)}, "size"),
        ({"category_ids": (1, 2)}, "3 class names but 2 category ids"),
        ({"rles": [{"size": [2, 3], "counts": [6]}]}, "compressed"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    fitting = {
        "rles": [encode_mask(np.ones((2, 3), bool))],
        "scores": np.ones(1),
        "labels": np.zeros(1, int),
        "size": (2, 3),
        "class_names": NAMES,
        "category_ids": IDS,
    }
    assert len(Instances(**fitting)) == 1
    with pytest.raises(ValueError, match=message):
        Instances(**{**fitting, **change})


def test_masks_of_another_form_are_refused():
    for masks in (np.ones((1, 2, 3)), np.ones((2, 3), bool)):
        with pytest.raises(ValueError, match=r"bool \[n, height, width\]"):
            make(masks, [1.0], [0])


def test_pickle_leaves_the_decoded_masks_out(three):
    before = len(pickle.dumps(three))
    assert three.masks.any() and three.boxes.any()
    after = pickle.dumps(three)
    assert len(after) < before + 500
    again = pickle.loads(after)
    assert np.array_equal(again.masks, three.masks) and again.names == three.names


def test_coco_results(three):
    entries = json.loads(json.dumps(three.to_coco(42)))
    assert [entry["image_id"] for entry in entries] == [42] * 3
    assert [entry["category_id"] for entry in entries] == [1, 90, 1]
    assert [entry["bbox"] for entry in entries] == [[3, 2, 6, 3], [1, 0, 19, 11], [0, 0, 0, 0]]
    assert [entry["score"] for entry in entries] == pytest.approx([0.9, 0.5, 0.25], abs=1e-7)
    assert [entry["segmentation"] for entry in entries] == three.rle()
    for entry, area in zip(entries, three.areas, strict=True):
        assert coco_mask.area(entry["segmentation"]) == area
        assert entry["segmentation"]["size"] == list(SIZE)


def test_polygons(three):
    polygons = three.polygons(tolerance=0)
    assert [len(parts) for parts in polygons] == [1, 2, 0]
    for parts, mask in zip(polygons[:2], three.masks[:2], strict=True):
        drawn = coco_mask.merge(coco_mask.frPyObjects(parts, *SIZE))
        assert drawn == encode_mask(mask)
    json.dumps(polygons)


def test_labelme(three, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    path = tmp_path / "labels" / "a.json"
    path.write_text("old")
    three.to_labelme(path, tmp_path / "images" / "a.jpg")
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {key: content[key] for key in ("flags", "imagePath", "imageData", "imageHeight", "imageWidth")} == {
        "flags": {},
        "imagePath": "../images/a.jpg",
        "imageData": None,
        "imageHeight": 12,
        "imageWidth": 20,
    }
    assert isinstance(content["version"], str)
    square, *parts = content["shapes"]
    assert square["label"] == "person" and square["group_id"] is None and square["shape_type"] == "polygon"
    assert sorted(square["points"]) == [[3, 2], [3, 5], [9, 2], [9, 5]]
    assert square["score"] == pytest.approx(0.9) and square["flags"] == {} and square["description"] == ""
    assert [(part["label"], part["group_id"]) for part in parts] == [("Würstchen", 1)] * 2


def test_labelme_without_an_image_or_a_place(three, tmp_path):
    three.to_labelme(str(tmp_path / "b.json"))
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["imagePath"] == ""
    with pytest.raises(OSError):
        three.to_labelme(tmp_path / "missing" / "b.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError):
        three.to_labelme(tmp_path / "folder.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.json", "folder.json"]


def test_draw_hands_its_arguments_on(three):
    image = np.zeros((*SIZE, 3), np.uint8)
    assert np.array_equal(three.draw(image, score_threshold=0.95), image)
    assert three.draw(image)[3, 5].any() and (three.draw(image, alpha=0.0)[3, 5] < three.draw(image)[3, 5]).all()


def test_instances_cannot_be_changed(three):
    for name in ("scores", "labels", "rles", "size", "masks", "anything"):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(three, name, None)
    with pytest.raises(AttributeError, match="cannot be changed"):
        del three.scores
    for instances in (three, three[:2], pickle.loads(pickle.dumps(three))):
        for array in (instances.scores, instances.labels, instances.masks, instances.boxes, instances.areas):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 0
    three.rles[0]["size"][0] = 99
    three.rles[0].clear()
    assert three.rles[0]["size"] == list(SIZE)


@pytest.mark.parametrize("size", [(12, 20), (2000, 3), (1, 1)])
def test_a_notebook_shows_a_small_picture(size):
    masks = np.zeros((1, *size), bool)
    masks[0, : size[0] // 2 + 1] = True
    picture = cv2.imdecode(np.frombuffer(make(masks, [0.9], [0])._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert max(picture.shape) <= 800 and picture[0].any()
    assert picture.shape[0] / picture.shape[1] == pytest.approx(size[0] / size[1], rel=0.01) or size == (2000, 3)


def test_a_notebook_shows_no_instance_too(none):
    assert not cv2.imdecode(np.frombuffer(none._repr_png_(), np.uint8), cv2.IMREAD_COLOR).any()


def test_unknown_formats_are_refused(three):
    with pytest.raises(ValueError, match="choose among coco, labelme"):
        three.to_bytes("cocoa")
