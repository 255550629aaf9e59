"""Every format of the catalogue: with instances, without any, and with empty masks."""

import io
import json
import zipfile

import cv2
import numpy as np
import pytest
from found import SIZE, three

from ppsolo.errors import ConfigError
from ppsolo.results.files.catalogue import FORMATS, checked_formats
from ppsolo.results.files.names import FORMAT_NAMES


@pytest.fixture(params=FORMATS)
def name(request) -> str:
    pytest.importorskip(FORMATS[request.param].package or "numpy")
    return request.param


def test_each_format_has_content_for_three_and_for_none(name):
    some, none = three().to_bytes(name), three()[:0].to_bytes(name)
    assert len(some) > len(none)
    for data in (some, none):
        if FORMATS[name].suffix in (".json", ".geojson"):
            json.loads(data)
        elif FORMATS[name].suffix == ".zip":
            assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
        elif FORMATS[name].suffix == ".png":
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape == SIZE


def test_the_instances_are_the_same_each_time(name):
    if name not in ("masks", "imagej"):  # zip files hold the time
        assert three().to_bytes(name) == three().to_bytes(name)


def test_names():
    assert tuple(FORMATS) == tuple(FORMAT_NAMES)
    assert checked_formats(["csv", "coco", "csv"]) == ("csv", "coco")
    with pytest.raises(ConfigError, match="choose among coco, labelme"):
        checked_formats(["cocoa"])


def test_a_missing_package_is_named_at_once(monkeypatch):
    monkeypatch.setitem(FORMATS, "csv", FORMATS["csv"]._replace(package="no_such_package"))
    with pytest.raises(ConfigError, match=r"csv needs the package no_such_package: pip install 'ppsolo\[formats\]'"):
        checked_formats(["csv"])
