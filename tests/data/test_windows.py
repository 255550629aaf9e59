"""Windows of large pictures hold the pixels of the whole picture."""

import numpy as np
import pytest

from ppsolo.data.images import read_image, write_image
from ppsolo.data.pixels import PixelSettings
from ppsolo.data.windows import ArrayWindows, TiffWindows, open_windows
from ppsolo.errors import ImageError

tifffile = pytest.importorskip("tifffile")
BOXES = [(0, 0, 70, 90), (0, 0, 1, 1), (69, 89, 70, 90), (10, 20, 50, 60), (31, 32, 33, 65)]

LAYOUTS = {
    "tiles": {"tile": (32, 16)},
    "deflate tiles": {"tile": (32, 32), "compression": "zlib"},
    "strips": {"rowsperstrip": 7},
    "BigTIFF": {"tile": (16, 16), "bigtiff": True},
    "predictor": {"tile": (32, 32), "compression": "zlib", "predictor": True},
}


def picture(dtype=np.uint8, channels: int = 3) -> np.ndarray:
    shape = (70, 90, channels) if channels > 1 else (70, 90)
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 3), (np.uint16, 1)])
def test_a_window_is_a_part_of_the_picture(tmp_path, layout, dtype, channels):
    path = tmp_path / "a.tif"
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(path, picture(dtype, channels), photometric=kind, **LAYOUTS[layout])
    whole = read_image(path)
    with open_windows(path) as windows:
        assert isinstance(windows, TiffWindows) and windows.size == (70, 90)
        for top, left, bottom, right in BOXES:
            np.testing.assert_array_equal(windows.read(top, left, bottom, right), whole[top:bottom, left:right])


@pytest.mark.parametrize("layout", [{"tile": (32, 16)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("channels", [1, 3])
def test_windows_of_a_jpeg_in_a_tiff(tmp_path, layout, channels):
    path = tmp_path / "a.tif"
    kind = "ycbcr" if channels == 3 else "minisblack"
    tifffile.imwrite(path, picture(channels=channels), photometric=kind, compression="jpeg", **layout)
    whole = read_image(path)
    for top, left, bottom, right in BOXES:
        with open_windows(path) as windows:  # a new one each time: the first read of a file is a case of its own
            assert isinstance(windows, TiffWindows)
            np.testing.assert_array_equal(windows.read(top, left, bottom, right), whole[top:bottom, left:right])


@pytest.mark.parametrize("case", ["turned", "planar", "auto range", "stack"])
def test_what_depends_on_the_whole_picture_is_read_whole(tmp_path, case):
    path, settings = tmp_path / "a.tif", PixelSettings()
    if case == "turned":
        tifffile.imwrite(path, picture(), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    elif case == "planar":
        values = picture().transpose(2, 0, 1)
        tifffile.imwrite(path, values, photometric="rgb", planarconfig="separate", tile=(32, 32))
    elif case == "stack":
        tifffile.imwrite(path, np.stack([picture(channels=1)] * 3), photometric="minisblack")
    else:
        settings = PixelSettings(value_range="auto")
        tifffile.imwrite(path, picture(np.uint16, 1), photometric="minisblack", tile=(32, 32))
    whole = read_image(path, settings=settings)
    with open_windows(path, settings=settings) as windows:
        assert isinstance(windows, ArrayWindows) and windows.size == whole.shape[:2]
        np.testing.assert_array_equal(windows.read(10, 20, 50, 60), whole[10:50, 20:60])


def test_other_pictures_and_arrays(tmp_path):
    write_image(tmp_path / "a.png", picture())
    for source in (tmp_path / "a.png", picture()):
        with open_windows(source) as windows:
            np.testing.assert_array_equal(windows.read(10, 20, 50, 60), picture()[10:50, 20:60])


def test_a_file_that_is_cut_short(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", tile=(32, 32))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 1000])
    with pytest.raises(ImageError, match="cut short"), open_windows(path):
        pass


def test_damage_is_named_where_it_is_met(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[4]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    with open_windows(path) as windows:
        windows.read(0, 0, 20, 20)
        with pytest.raises(ImageError, match="tile 4 of the TIFF is damaged"):
            windows.read(0, 0, 70, 90)
