"""The size of a pixel, as tifffile writes it in several ways."""

import numpy as np
import pytest

from ppsolo.formats.pixel_size import stated_pixel_size

tifffile = pytest.importorskip("tifffile")
IMAGE = np.zeros((20, 30), np.uint8)
OME = {"PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.325, "PhysicalSizeYUnit": "µm"}
NANOMETRES = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("a.ome.tif", {"metadata": {"axes": "YX", **OME}}, 0.325),
        (
            "a.ome.tif",
            {"metadata": {"axes": "YX", **OME, "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}},
            3.25e-4,
        ),
        ("a.ome.tif", {"metadata": {"axes": "YX", **OME, "PhysicalSizeY": 1.0}}, None),
        ("a.ome.tif", {"metadata": {"axes": "YX", **OME, "PhysicalSizeX": 1e308, "PhysicalSizeY": 1e308}}, None),
        ("a.ome.tif", {"metadata": {"axes": "YX"}}, None),
        ("a.tif", {"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}, 0.25),
        ("a.tif", {"imagej": True, "resolution": (4, 4), "metadata": {"unit": "micron"}}, 0.25),
        ("a.tif", {"imagej": True, "resolution": (4, 4), "metadata": {"unit": "furlong"}}, None),
        ("a.tif", {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ("a.tif", {"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ("a.tif", {}, None),
    ],
)
def test_what_a_tiff_states(tmp_path, name, options, expected):
    tifffile.imwrite(tmp_path / name, IMAGE, **options)
    found = stated_pixel_size(tmp_path / name)
    assert found == (None if expected is None else pytest.approx(expected))


def test_other_files_state_none(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0nothing")
    assert stated_pixel_size(tmp_path / "a.tif") is None
    assert stated_pixel_size(tmp_path / "missing.tif") is None
    assert stated_pixel_size(tmp_path / "a.png") is None
