"""Annotations and results in COCO's format, and their outlines against pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as pycocotools

from fuzzing.target import Target, picture
from ppsolo.errors import PpsoloError

SIZE = (12, 16)  # height, width of the picture
API: Any = pycocotools


def _coco(data: bytes, folder: Path) -> None:
    from ppsolo.data.coco import CocoDataset, decode_mask

    (folder / "1.png").write_bytes(picture())
    (folder / "x.json").write_bytes(data)
    dataset = CocoDataset(folder / "x.json", folder)
    for index in range(len(dataset)):
        for outline in dataset[index].outlines[:4]:
            decode_mask(outline, dataset[index].size)


def coco_seeds() -> list[bytes]:
    """A file for each form of an outline."""
    seeds = []
    for segmentation in (
        [[1, 1, 6, 1, 6, 6, 1, 6]],
        {"counts": [13, 3, 176], "size": list(SIZE)},
        {"counts": "=3`5", "size": list(SIZE)},
    ):
        square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation, "iscrowd": 0, "area": 25}
        content = {
            "images": [{"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}],
            "annotations": [{**square, "bbox": [1, 1, 5, 5]}],
            "categories": [{"id": 1, "name": "a"}],
        }
        seeds.append(json.dumps(content).encode())
    return seeds


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise PpsoloError("no JSON") from None


def _rle(data: bytes, folder: Path) -> None:
    """Run lengths: what is accepted is the mask that pycocotools has, and both checks of one string agree."""
    from ppsolo.results import rle

    content = _parsed(data)
    counts = content.get("counts") if isinstance(content, dict) else None
    try:
        read = rle.read_segmentation(content, SIZE)
    except ValueError as error:
        read = None
        refusal = PpsoloError(str(error))
    else:
        refusal = None
    if isinstance(counts, str) and counts.isascii() and content.get("size") == list(SIZE):
        fill = rle.fill_their_images([counts], np.array([SIZE]))[0]
        if bool(fill) != (read is not None):
            raise AssertionError("two checks of the same run lengths differ")
    if read is None:
        raise refusal or PpsoloError("refused")
    if isinstance(content, dict):
        expected = content if not isinstance(counts, list) else API.frPyObjects(content, *SIZE)
        _compare(read, API.decode(expected))


def _polygons(data: bytes, folder: Path) -> None:
    """Polygons: what is accepted is the union that pycocotools draws."""
    from ppsolo.results import rle

    content = _parsed(data)
    try:
        read = rle.read_segmentation(content, SIZE)
    except ValueError as error:
        raise PpsoloError(str(error)) from None
    if isinstance(content, list):
        _compare(read, API.decode(API.merge(API.frPyObjects([list(map(float, one)) for one in content], *SIZE))))


def _compare(read: dict[str, Any], expected: np.ndarray) -> None:
    from ppsolo.results import rle

    if not np.array_equal(rle.decode_mask(read), expected.astype(bool)):
        raise AssertionError("another mask than pycocotools'")
    if not np.array_equal(rle.decode_masks([read], SIZE)[0], expected):
        raise AssertionError("another mask of several than pycocotools'")
    if rle.mask_areas([read])[0] != expected.sum():
        raise AssertionError("another area than pycocotools'")
    rows, columns = np.nonzero(expected)
    box = rle.mask_boxes_xywh([read])[0]
    tight = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else [0, 0, 0, 0]
    if not np.array_equal(box, tight):
        raise AssertionError(f"the box {box.tolist()} is not {[int(v) for v in tight]}")


def _rle_seeds() -> list[bytes]:
    chance = np.random.default_rng(0)
    seeds = []
    for share in (0.0, 0.1, 0.5, 1.0):
        mask = np.asfortranarray(chance.random(SIZE) < share, np.uint8)
        counts = API.encode(mask)["counts"].decode()
        flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
        runs = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
        seeds += [json.dumps({"size": SIZE, "counts": one}).encode() for one in (counts, runs)]
    return [*seeds, json.dumps({"size": SIZE, "counts": [0, 192]}).encode(), b'{"size": [12, 16], "counts": [192, 0]}']


def _polygon_seeds() -> list[bytes]:
    shapes: list[list[list[float]]] = [
        [[1, 1, 6, 1, 6, 6, 1, 6]],
        [[0, 0, 16, 0, 16, 12, 0, 12], [2.5, 2.5, 9.75, 3, 4, 11]],
        [[-5, -5, 30, 4, 8, 40]],
        [[3, 3, 3, 3, 3, 3]],
        [[0.1, 0.1, 15.9, 11.9, 0.1, 11.9, 15.9, 0.1]],
    ]
    return [json.dumps(shape).encode() for shape in shapes]


def _results(data: bytes, folder: Path) -> None:
    from ppsolo.evaluation.coco_evaluator import evaluate_results

    (folder / "truth.json").write_bytes(coco_seeds()[0])
    (folder / "x.json").write_bytes(data)
    evaluate_results(folder / "truth.json", folder / "x.json")


def _result() -> dict[str, Any]:
    segmentation = {"counts": "=3`5", "size": list(SIZE)}
    return {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": segmentation}


def _results_seeds() -> list[bytes]:
    result = _result()
    named = {**{key: value for key, value in result.items() if key != "image_id"}, "file_name": "1.png"}
    polygons = {**result, "segmentation": [[1, 1, 6, 1, 6, 6]]}
    box = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 1, 4, 4]}
    lists = [[result, {**result, "bbox": [1, 1, 4, 4]}], [], [named], [polygons], [box, {**box, "score": 1}]]
    return [json.dumps(entries).encode() for entries in lists]


def _thresholds(data: bytes, folder: Path) -> None:
    from ppsolo.config import load_config
    from ppsolo.evaluation.thresholds import with_thresholds

    (folder / "x.json").write_bytes(data)
    with_thresholds(load_config("solov2_r50_fpn_1x", ["num_classes=2", "class_names=[a, b]"]), folder / "x.json")


def _threshold_seeds() -> list[bytes]:
    entries = [{"category_id": number, "name": "a", "threshold": 0.5} for number in (1, 2)]
    return [json.dumps({"class_thresholds": entries, "found_on": {}}).encode()]


TARGETS = {
    "coco": Target(_coco, coco_seeds),
    "rle": Target(_rle, _rle_seeds),
    "polygons": Target(_polygons, _polygon_seeds),
    "results": Target(_results, _results_seeds),
    "thresholds": Target(_thresholds, _threshold_seeds),
}
