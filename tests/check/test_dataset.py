"""The check of a data set: each fault by its kind and id, all in one go, and real data sets."""

import json

import cv2
import numpy as np
import pytest

from ppsolo.check.dataset import check_dataset
from ppsolo.data.coco import CocoDataset, load_sample
from ppsolo.data.synthetic import draw_dataset
from ppsolo.errors import DatasetError, ImageError

HEIGHT, WIDTH = 64, 96
PIXELS = HEIGHT * WIDTH
PUBLISHED = {
    "num_grids": (40, 36, 24, 16, 12),
    "scale_ranges": ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
}
SMALL = {"short_side": HEIGHT, "long_side": WIDTH, "num_grids": (8, 4), "scale_ranges": ((1, 32), (16, 2048))}


def annotation(number: int, left: float = 10, top: float = 10, side: float = 20, **changes) -> dict:
    """A square of image 1; `...` removes a key."""
    right, bottom = left + side, top + side
    entry = {
        "id": number,
        "image_id": 1,
        "category_id": 7,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        "bbox": [left, top, side, side],
        "area": side * side,
        "iscrowd": 0,
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def content(annotations: list[dict]) -> dict:
    """Images 1 and 2, of which the second has annotation 2 for its own."""
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in (1, 2)],
        "annotations": [*annotations, annotation(2, image_id=2)],
        "categories": [{"id": 7, "name": "bolt"}],
    }


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((HEIGHT, WIDTH, 3), number, np.uint8))
    return tmp_path


@pytest.fixture
def check(folder):
    def run(tree, **changes):
        (folder / "set.json").write_text(json.dumps(tree))
        return check_dataset(folder / "set.json", folder, **{**SMALL, **changes})

    return run


def kinds(report, *, notes: bool = False) -> dict:
    return {problem.kind: problem.ids for problem in report.problems if notes or problem.severity != "note"}


def train_on(folder) -> None:
    """Load everything as training would."""
    dataset = CocoDataset(folder / "set.json", folder)
    for index in range(len(dataset)):
        load_sample(dataset[index])


def test_nothing_wrong(check, folder):
    report = check(content([annotation(1)]), num_classes=1)
    assert report.ok and report.problems == ()
    assert (report.images, report.instances, report.crowds) == (2, 2, 0)
    assert report.categories == ((7, "bolt", 2),)
    assert report.sizes == (20,) * 7
    assert [(level.instances, level.lost) for level in report.given.levels] == [(2, 0), (2, 0)]
    train_on(folder)


ERRORS = {
    "unknown-category": {"category_id": 8},
    "unknown-image": {"image_id": 99},
    "broken-polygon": {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
    "broken-run-lengths": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [PIXELS - 1]}},
    "bad-number": {"area": "large"},
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_what_training_refuses(check, folder, kind):
    report = check(content([annotation(1), annotation(5, **ERRORS[kind])]))
    assert kinds(report) == {kind: (5,)}
    (problem,) = report.problems
    assert problem.severity == "error" and problem.id_of == "annotation"
    assert "annotation 5" in problem.details[0]
    assert report.instances == 2
    with pytest.raises(DatasetError):
        train_on(folder)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"category_id": [7]}, "unknown-category"),
        ({"category_id": ...}, "unknown-category"),
        ({"image_id": {}}, "unknown-image"),
        ({"segmentation": ...}, "no-outline"),
        ({"segmentation": "outline"}, "broken-polygon"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no-outline"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "broken-polygon"),
        ({"segmentation": {"size": [3, 4], "counts": [12]}}, "broken-run-lengths"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "oooooooo3"}}, "broken-run-lengths"),
        ({"segmentation": {}}, "no-outline"),
        ({"segmentation": [[1, 2]], "iscrowd": 1}, "no-outline"),
        ({"iscrowd": 3}, "bad-number"),
        ({"bbox": [1, 2, 3]}, "bad-number"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bad-number"),
        ({"bbox": [1, 2, 3, 1e300]}, "bad-number"),
        ({"area": 0}, "zero-area"),
        ({"bbox": [10, 10, 0, 20]}, "zero-area"),
    ],
)
def test_kinds_of_broken_annotations(check, changes, kind):
    assert kinds(check(content([annotation(1), annotation(5, **changes)]))) == {kind: (5,)}


def test_all_faults_in_one_go(check, folder):
    tree = content([annotation(10 + index, **changes) for index, changes in enumerate(ERRORS.values())])
    tree["images"] += [
        {"id": 3, "file_name": "gone.png", "height": HEIGHT, "width": WIDTH},
        {"id": 4, "file_name": "text.png", "height": HEIGHT, "width": WIDTH},
        {"id": 5, "file_name": "1.png", "height": WIDTH, "width": HEIGHT},
        {"id": 6, "height": HEIGHT, "width": WIDTH},
        {"id": 7, "file_name": "1.png", "height": 0, "width": WIDTH},
        {"id": 8, "file_name": "1.png", "height": 10**9, "width": 10**9},
        {"id": 2, "file_name": "1.png", "height": 3, "width": 3},
        {"file_name": "1.png"},
    ]
    tree["categories"].append({"id": 9})
    (folder / "text.png").write_text("no picture")
    report = check(tree, num_classes=80)
    expected = {kind: (10 + index,) for index, kind in enumerate(ERRORS)} | {
        "missing-image": (3,),
        "unreadable-image": (4,),
        "image-size": (5,),
        "image-entry": (6, 7, 8),
        "bad-id": (8, 9),
        "unused-category": (9,),
        "num-classes": (),
    }
    assert kinds(report) == expected
    details = [detail for problem in report.problems for detail in problem.details]
    assert any("'images' has the id 2 twice" in detail for detail in details)
    assert any("1.png is 64 x 96 (height x width), but listed as 96 x 64" in detail for detail in details)
    assert any("num_classes is 80, but the file has 2 categories" in detail for detail in details)
    assert all("\n" not in line for problem in report.problems for line in (problem.line, *problem.details))
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == report.to_json()


@pytest.mark.parametrize(
    ("name", "error"), [("gone.png", DatasetError), ("text.png", ImageError), ("turned.png", DatasetError)]
)
def test_image_errors_are_what_training_refuses(check, folder, name, error):
    (folder / "text.png").write_text("no picture")
    cv2.imwrite(str(folder / "turned.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    tree = content([annotation(1)])
    tree["images"][0]["file_name"] = name
    report = check(tree)
    assert [(problem.severity, problem.ids) for problem in report.problems] == [("error", (1,))]
    assert report.instances == 2
    with pytest.raises(error):
        train_on(folder)
    assert set(kinds(check(tree, images=False))) == ({"missing-image"} if name == "gone.png" else set())


def test_notes_only(check):
    tree = content([annotation(1, iscrowd=1), annotation(3, ignore=1)])
    report = check(tree)
    assert report.ok
    assert kinds(report, notes=True) == {"crowd": (1, 3), "empty-image": (1,)}
    assert report.crowds == 2


def test_nothing_to_train(check):
    tree = content([annotation(1, iscrowd=1)])
    tree["annotations"].pop()
    report = check(tree)
    assert kinds(report) == {"nothing-to-train": (), "unused-category": (7,)}
    assert (report.given, report.suggested, report.sizes) == (None, None, ())
    tree["images"] = []
    assert set(kinds(check(tree))) == {"nothing-to-train", "unused-category", "unknown-image"}


def test_collisions(check):
    """The squares have one centre, so only the last one keeps cells. Its larger size does not matter here."""
    squares = [annotation(1, 38, 22, 20), annotation(3, 40, 24, 16), annotation(4, 39, 23, 18), annotation(5, 2, 2, 20)]
    report = check(content(squares), num_grids=(4, 2))
    assert kinds(report) == {"collision": (1, 3)}
    assert [(level.instances, level.lost) for level in report.given.levels] == [(5, 2), (5, 2)]
    assert report.given.lost == 2
    # On a level of its own range the first keeps its cells.
    report = check(content(squares), num_grids=(4, 2), scale_ranges=((1, 19), (19, 2048)))
    assert kinds(report) == {"collision": (3,)}


def test_sizes_that_fit_no_level(check):
    squares = [annotation(1, 4, 4, 5), annotation(3, 20, 20, 12), annotation(4, 40, 10, 40)]
    report = check(content(squares), scale_ranges=((6, 10), (30, 38)))
    assert kinds(report) == {"out-of-range": (1, 3, 4, 2)}
    assert "5.0 pixels" in report.problems[0].details[0]
    assert report.given.lost == 0
    # At twice the scale all sizes double.
    report = check(content(squares), short_side=128, long_side=192, scale_ranges=((10, 24), (40, 80)))
    assert report.ok


def test_masks_that_cannot_be_learned(check):
    nothing = {"size": [HEIGHT, WIDTH], "counts": [PIXELS]}
    entries = [
        annotation(1, 40, 40, 3),
        annotation(3, 60.2, 40, 20, segmentation=nothing),
        annotation(4, 4, 40, 2, segmentation=[[4, 40, 40, 40, 40, 42, 4, 42]], bbox=[4, 40, 36, 2]),
    ]
    report = check(content(entries))
    assert kinds(report) == {"empty-mask": (3,), "tiny": (1,)}
    report = check(content(entries), short_side=HEIGHT // 2)
    assert kinds(report) == {"empty-mask": (3,), "tiny": (1, 4)}


def test_boxes_that_are_no_boxes_of_their_outlines(check):
    """A box with corners in place of width and height is a fault; a difference of a few pixels is none."""
    entries = [
        annotation(1, 40, 30, 20, bbox=[40, 30, 60, 50]),
        annotation(3, 10, 10, 6, bbox=[7, 7, 10, 10]),
        annotation(4, 60, 5, 20, bbox=[58, 3, 26, 26]),
    ]
    report = check(content(entries))
    assert kinds(report) == {"box-mismatch": (1,)}
    assert "bbox from [40.0, 30.0] to [100.0, 80.0], outline from [40, 30] to [60, 50]" in report.problems[0].details[0]


def test_suggestion_loses_less(check):
    """A grid of 4 has 16 cells for 24 squares. 12 is the smallest grid of the choices with a cell for each."""
    squares = [annotation(10 + i, 8 * (i % 8) + 2, 8 * (i // 8) + 2, 6) for i in range(24)]
    report = check(content(squares), num_grids=(4, 4))
    assert report.given.levels[0].lost > 12
    assert report.suggested.lost == 0
    assert [level.num_grid for level in report.suggested.levels] == [12, 12]
    assert check(content(squares), num_grids=(12, 12)).given.levels[0].lost == 0


def test_files_that_are_no_data_set(check, folder):
    for text, message in (("{", "not a JSON file"), ("[]", "no list 'images'"), ('{"images": []}', "'annotations'")):
        (folder / "bad.json").write_text(text)
        with pytest.raises(DatasetError, match=message):
            check_dataset(folder / "bad.json", folder, **SMALL)
    with pytest.raises(DatasetError, match="cannot be read"):
        check_dataset(folder / "none.json", folder, **SMALL)
    check(content([]))
    with pytest.raises(DatasetError, match="no such image folder"):
        check_dataset(folder / "set.json", folder / "none", **SMALL)
    with pytest.raises(ValueError, match="one of each per level"):
        check_dataset(folder / "set.json", folder, **{**SMALL, "num_grids": (8,)})


def test_lists_of_anything(check):
    """Entries that are no objects are problems, not crashes."""
    tree = {"images": [3, None, {"id": "1"}], "annotations": [[], {"id": 1.5}], "categories": ["bolt"]}
    report = check(tree)
    assert kinds(report) == {"bad-id": (0, 1, 0, 0, 1), "image-entry": (1,), "nothing-to-train": ()}


def test_large_pictures_of_small_objects_are_for_tiles(check):
    """Objects of 24 pixels, six at a quarter of their size, are as large in tiles as they were drawn."""
    objects = [annotation(number, left=30 * number, side=24) for number in range(3, 20)]
    tree = content(objects)
    for image in tree["images"]:
        image.update(height=4 * HEIGHT, width=4 * WIDTH)
    (problem,) = [one for one in check(tree, images=False).problems if one.kind == "tiles"]
    assert problem.severity == "note" and "predict with --tile 64 --overlap 32" in problem.details[0]
    assert problem.details[0].startswith(f"{len(tree['annotations'])} of {len(tree['annotations'])} instances")
    small_pictures = content([annotation(3, side=24), annotation(4, left=40, side=24)])
    assert not [one for one in check(small_pictures, images=False).problems if one.kind == "tiles"]


def test_progress(check):
    seen = []
    check(content([annotation(1)]), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_drawn_data_set(tmp_path):
    """Nothing is wrong with what ppsolo draws itself but what it draws on purpose."""
    split, _ = draw_dataset(tmp_path, train=10, val=0, size=(128, 160), seed=0)
    report = check_dataset(*split, short_side=128, long_side=160, **PUBLISHED)
    assert {problem.kind for problem in report.problems} <= {"crowd", "tiny", "collision"}


@pytest.mark.parametrize(("name", "images"), [("train", 47), ("val", 57)])
def test_real_photographs(data, name, images):
    path, folder = data / "coco_permissive" / f"instances_{name}2017.json", data / "coco_permissive" / f"{name}2017"
    report = check_dataset(path, folder, short_side=400, long_side=667, images=False, **PUBLISHED)
    dataset = CocoDataset(path, folder, keep_empty=True)
    assert report.images == len(dataset) == images
    assert report.instances == sum(len(dataset[index].boxes) for index in range(images))
    assert report.crowds == sum(len(dataset[index].crowds) for index in range(images))
    assert not [problem for problem in report.problems if problem.severity == "error"]
    assert report.suggested.lost < report.given.lost


def test_nuclei(data):
    folder = data / "dsb2018_360"
    path = folder / "instances_val.json"
    report = check_dataset(path, folder / "val", short_side=400, long_side=667, **PUBLISHED)
    assert report.ok and report.instances == 540
    assert all(level.instances > 150 for level in report.suggested.levels)  # a third of them each
