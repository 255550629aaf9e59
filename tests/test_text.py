"""Text from files: what reaches a terminal, a line of a file, and an error."""

import json
import logging

import cv2
import numpy as np
import pytest

from ppsolo.cli.shared import LogFormatter, say, say_error
from ppsolo.data.coco import CocoDataset
from ppsolo.errors import DatasetError
from ppsolo.text import one_line, printable

HOSTILE = "road\nsign\x1b[2J\a\x9b\u202e\ud800\r\u2028end"


def test_nothing_steers_a_terminal_and_letters_stay():
    assert one_line(HOSTILE) == "road sign [2J end" and printable("a  b\t") == "a  b "
    for name in ("caf\u00e9", "\u0441\u043b\u043e\u043d", "\u5927\u8c61", "a b", ""):
        assert one_line(name) == printable(name) == name
    assert str(DatasetError(HOSTILE)) == one_line(HOSTILE)


def test_output_errors_and_logs_are_clean(capsys):
    say(f"first\n{HOSTILE.replace(chr(10), '')}")
    say_error(HOSTILE)
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (HOSTILE,), None)
    logged = LogFormatter("%(levelname)s: %(message)s").format(record)
    out, err = capsys.readouterr()
    assert out.count("\n") == 2 and err.count("\n") == 1 and "\n" not in logged
    assert all(printable(line) == line for line in (*out.splitlines(), *err.splitlines(), logged))


@pytest.mark.parametrize("name", [HOSTILE, "\ud800", "a\nb"])
def test_a_category_is_one_line_whatever_the_file_says(tmp_path, name):
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
        "annotations": [{**square, "bbox": [1, 1, 5, 5], "area": 25}],
        "categories": [{"id": 1, "name": name}],
    }
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert CocoDataset(tmp_path / "x.json", tmp_path).class_names == (one_line(name),)
