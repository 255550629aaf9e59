"""Text from files: what reaches a terminal, a line of a file, and an error."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from found import three

from ppsolo.cli.shared import LogFormatter, say, say_error
from ppsolo.data.coco import CocoDataset
from ppsolo.errors import DatasetError
from ppsolo.results.files.catalogue import FORMATS
from ppsolo.text import json_text, one_line, printable, storable

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


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:secret@camera:554/live", "rtsp://***@camera:554/live"),
        ("rtsp://me:sec@ret@camera/live", "rtsp://***@camera/live"),
        ("rtsp://me:sec/ret@camera/live", "rtsp://***@camera/live"),
        ("https://secret@a.example/b", "https://***@a.example/b"),
        *[(plain, plain) for plain in ("http://a:80/b@c", "http://[::1]:80/b@c", "http://a?b=c@d", "me@a.example")],
    ],
)
def test_no_password_of_an_address_is_printed(capsys, address, shown):
    say(f"{address} gives {address}")
    say_error(address)
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (address,), None)
    out, err = capsys.readouterr()
    assert out == f"{shown} gives {shown}\n" and err == f"ppsolo: error: {shown}\n"
    assert LogFormatter("%(message)s").format(record) == str(DatasetError(address)) == shown


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


@pytest.mark.parametrize("format", ["coco", "labelme", "geojson", "csv", "parquet", "yolo"])
def test_results_of_a_file_whose_name_is_no_unicode(format):
    """Every format is UTF-8, whatever bytes the name of the picture has."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    found = three().results(image_name="a\udcff.png", image_path=Path("a\udcff.png"))
    data = FORMATS[format].encode(found)
    assert data if format == "parquet" else data.decode("utf-8")


def test_json_holds_letters_or_escapes():
    assert (
        json_text({"a": "caf\u00e9"}) == '{"a": "caf\u00e9"}'
        and json_text(["\udc80", "\u00e9"]) == '["\\udc80", "\\u00e9"]'
    )
    assert json_text({"a": ["\u00e9"]}, indent=1) == json.dumps({"a": ["\u00e9"]}, ensure_ascii=False, indent=1)
    assert json.loads(json_text(HOSTILE)) == HOSTILE
    assert storable("caf\u00e9 \udcff") == "caf\u00e9 \\udcff"
