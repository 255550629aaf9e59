"""JSON files: what is no file is named."""

import os

import pytest

from ppsolo.data.annotations.json_file import read_json
from ppsolo.errors import DatasetError


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device that never ends")
def test_a_device_is_no_file():
    with pytest.raises(DatasetError, match=r"^/dev/zero: a device, expected a JSON file$"):
        read_json("/dev/zero")
