"""Annotations read many at a time are those read one by one."""

import json

import numpy as np
import pytest

from ppsolo.data.annotations import reader
from ppsolo.data.annotations.reader import read_annotation_file
from ppsolo.results.rle import encode_mask


def content() -> dict:
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(40):
        mask = encode_mask(rng.random((30, 40)) < 0.3)
        rings = [rng.uniform(0, 30, 2 * int(rng.integers(3, 9))).round(2).tolist() for _ in range(1 + number % 3)]
        annotations.append(
            {
                "id": 7 * number + 1,
                "image_id": int(rng.integers(1, 6)),
                "category_id": int(rng.integers(1, 4)),
                "segmentation": {"size": [30, 40], "counts": mask["counts"].decode()} if number % 4 == 0 else rings,
                "area": float(rng.integers(1, 90)),
                "bbox": [1, 2.5, 10, 12],
                "iscrowd": int(number % 8 == 0),
            }
        )
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in range(1, 6)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, 4)],
    }


def one_by_one(monkeypatch, path):
    with monkeypatch.context() as context:
        context.setattr(reader, "read_usual", lambda *_: None)
        return read_annotation_file(path)


def same(one, other) -> bool:
    columns, others = one.columns(), other.columns()
    return one.facts() == other.facts() and all(
        columns[name].dtype == others[name].dtype and columns[name].tobytes() == others[name].tobytes()
        for name in columns
    )


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(reader, "_AT_ONCE", 16)


def test_usual_entries(tmp_path, monkeypatch):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content()))
    taken = []
    read_usual = reader.read_usual
    monkeypatch.setattr(reader, "read_usual", lambda *given: taken.append(read_usual(*given)) or taken[-1])
    read = read_annotation_file(path)
    assert len(taken) == 3 and None not in taken and len(read) == 40
    assert same(read, one_by_one(monkeypatch, path))


@pytest.mark.parametrize(
    "change",
    [
        {"id": 1},  # again
        {"id": "3"},
        {"image_id": 77},
        {"image_id": "2"},
        {"category_id": 9},
        {"area": 0},
        {"area": None},
        {"area": -1.0},
        {"bbox": [1, 1, 0, 4]},
        {"bbox": [1, 1, -3, 4]},
        {"bbox": [1e6, 1, 3, 4]},
        {"bbox": None},
        {"iscrowd": 2},
        {"iscrowd": True},
        {"ignore": 1},
        {"segmentation": []},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
        {"segmentation": [[1, 2, 3, 4, 5, 2e5]]},
        {"segmentation": [[0, 0, 9e4, 9e4] * 4]},
        {"segmentation": {"size": [30, 41], "counts": "P3"}},
        {"segmentation": {"size": [30, 40], "counts": "P3"}},
        {"segmentation": {"size": [30, 40], "counts": ""}},
        {"segmentation": {"size": [30, 40], "counts": [100, 20, 1080]}},
    ],
)
def test_an_entry_of_another_form(tmp_path, monkeypatch, change):
    drawn = content()
    drawn["annotations"][20] |= change
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(drawn))
    assert same(read_annotation_file(path), one_by_one(monkeypatch, path))
