"""How single values are understood."""

import json
import math
import time

import pytest

from ppsolo.data.annotations.reader import read_annotation_file
from ppsolo.data.annotations.rules import read_box, read_flag, read_identity, read_number, read_rings, read_side

SQUARE = [1.0, 1.0, 4.0, 1.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("value", "understood"),
    [(3, 3), (3.0, 3), ("3", 3), (" 3.0 ", 3), ("-1", -1), ("03", "03"), ("x", "x"), (2.5, None), ([], None)],
)
def test_identities(value, understood):
    assert read_identity(value) == understood


def test_sides_and_numbers():
    assert [read_side(value) for value in (480, 480.0, "480", "480.0")] == [480] * 4
    assert [read_side(value) for value in (0, -3, 0.5, "tall", None, True, 10**12)] == [None] * 7
    assert [read_number(value) for value in (1, 2.5, "3.5")] == [1, 2.5, 3.5]
    assert [read_number(value) for value in (True, None, "x", math.nan, math.inf, "nan", 10**400)] == [None] * 7


def test_boxes_and_flags():
    for box in ([1, 2, 3, 4], ["1", "2", "3", "4"], "[1, 2, 3, 4]", "1 2 3 4", "1,2,3,4", (1, 2, 3, 4)):
        assert read_box(box) == [1, 2, 3, 4]
    for box in ([1, 2, 3], "1 2 3", {}, [1, 2, 3, None], [1, 2, 3, math.inf], 7):
        assert read_box(box) is None
    assert [read_flag(value) for value in (2, "maybe", [], -1, 0.5)] == [None] * 5


def test_rings():
    assert read_rings([SQUARE]) == ([SQUARE], set(), 0)
    assert read_rings(SQUARE) == ([SQUARE], {"flat-polygon"}, 0)
    assert read_rings([[1, 1], [4, 1], [4, 3]]) == ([SQUARE], {"flat-polygon"}, 0)
    assert read_rings([[[1, 1], [4, 1], [4, 3]]]) == ([SQUARE], {"flat-polygon"}, 0)
    assert read_rings([SQUARE, [], [1], [1, 2], [1, 2, 3, 4]]) == ([SQUARE], set(), 4)
    assert read_rings([list(map(str, SQUARE))]) == ([SQUARE], {"number-as-text"}, 0)
    for broken in ([SQUARE, 3], [[*SQUARE, 1]], [[*SQUARE, None, 1]], [[*SQUARE, math.nan, 1]], [[*SQUARE, 1e9, 1]]):
        with pytest.raises(ValueError, match="polygon"):
            read_rings(broken)


def test_ids_of_more_than_64_bits_are_texts():
    """All multiples of 2**61 - 1 have one hash: 20 000 of them as ids took a minute."""
    assert [read_identity(value) for value in (2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 1e30, str(2**63))] == [
        2**63 - 1,
        -(2**63),
        str(2**63),
        str(-(2**63) - 1),
        str(int(1e30)),
        str(2**63),
    ]


@pytest.mark.parametrize("key", ["id", "image_id"])
def test_chosen_ids_of_annotations_take_no_time_of_their_square(tmp_path, key):
    ids = [number * (2**61 - 1) for number in range(1, 20001)]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 9, "width": 9}],
        "annotations": [annotation | {key: number} for number in ids],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    start = time.process_time()
    read_annotation_file(tmp_path / "a.json")
    assert time.process_time() - start < 5


def test_entries_find_each_other_by_ids_of_more_than_64_bits(tmp_path):
    content = {
        "images": [{"id": 2**70, "file_name": "a.png", "height": 9, "width": 9}],
        "annotations": [{"id": 2**71, "image_id": 2**70, "category_id": 2**72, "segmentation": [SQUARE]}],
        "categories": [{"id": 2**72, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert list(read_annotation_file(tmp_path / "a.json").ids) == [str(2**71)]
