"""Samples of many depths and channels become 8-bit RGB."""

import numpy as np
import pytest

from ppsolo.data.pixels import PixelSettings, Samples, to_rgb
from ppsolo.errors import ImageError


def ramp(top: int, dtype: type = np.uint16) -> np.ndarray:
    return np.linspace(0, top, 64).round().astype(dtype).reshape(8, 8)


def test_twelve_bits_in_sixteen_give_the_8_bit_picture():
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    twelve = np.rint(picture * (4095 / 255)).astype(np.uint16)
    image, notes = to_rgb(Samples(twelve, 65535), PixelSettings(value_range=(0, 4095)))
    assert np.array_equal(image, picture) and notes == []


def test_few_levels_are_said_and_the_range_is_suggested():
    for top, suggested in ((4095, "[0, 4095]"), (1023, "[0, 1023]"), (3000, "[0, 4095]")):
        _, notes = to_rgb(Samples(ramp(top), 65535, "grey"), PixelSettings())
        assert len(notes) == 1 and f"preprocess.value_range={suggested}" in notes[0]
    for samples in (Samples(ramp(65535), 65535), Samples(ramp(4095), 4095), Samples(ramp(20, np.uint8), 255)):
        assert to_rgb(samples, PixelSettings())[1] == []


@pytest.mark.parametrize(
    ("values", "top", "value_range", "ends"),
    [
        ([0, 65535], 65535, "dtype", (0, 255)),
        ([100, 1100], 65535, "auto", (0, 255)),
        ([0, 2**32 - 1], 2**32 - 1, "dtype", (0, 255)),
        ([-32768, 32767], 32767, "dtype", (0, 255)),
        ([0.0, 1.0], None, "dtype", (0, 255)),
        ([-5.0, 5.0], None, (-10, 10), (64, 191)),
        ([float("nan"), 2.0, 4.0, float("inf")], None, (2, 4), (0, 255)),
        ([0, 15], 15, (0, 4095), (0, 255)),  # at most 8 bits: what the file says
    ],
)
def test_ranges(values, top, value_range, ends):
    kind = np.float32 if top is None else {65535: np.uint16, 32767: np.int16, 15: np.uint8}.get(top, np.uint32)
    image, _ = to_rgb(Samples(np.array([values], kind), top, "grey"), PixelSettings(value_range=value_range))
    assert (image[0, 0, 0], image[0, -1, 0]) == ends and image.dtype == np.uint8


def test_percentiles_ignore_outliers_and_what_is_no_number():
    values = np.full((10, 100), np.nan, np.float32)
    values[:, :99] = np.arange(990).reshape(10, 99)
    values[0, 0] = 1e6
    image, _ = to_rgb(Samples(values, None, "grey"), PixelSettings(value_range=("1%", "99%")))
    assert image[0, 0, 0] == 255 and image[0, 99, 0] == 0 and 120 < image[5, 0, 0] < 135


def test_float_outside_0_to_1_is_refused_with_the_remedy():
    with pytest.raises(
        ImageError, match=r"from -2 to 300 are not in 0..1: set preprocess.value_range to \[low, high\]"
    ):
        to_rgb(Samples(np.float32([[-2, 300]]), None, "grey"), PixelSettings())


def test_channels():
    bands = np.stack([np.full((4, 5), level, np.uint8) for level in (10, 20, 30, 40, 50)], axis=2)
    image, notes = to_rgb(Samples(bands, 255, "bands"), PixelSettings())
    assert image[0, 0].tolist() == [10, 20, 30] and "it has 5 channels, the first three are read" in notes[0]
    assert to_rgb(Samples(bands, 255), PixelSettings(channels=(4, 0, 2)))[0][0, 0].tolist() == [50, 10, 30]
    assert to_rgb(Samples(bands, 255), PixelSettings(channels=(3,)))[0][0, 0].tolist() == [40, 40, 40]
    assert to_rgb(Samples(bands, 255), PixelSettings(channels=(1, 3)))[0][0, 0].tolist() == [20, 40, 0]
    assert to_rgb(Samples(bands[:, :, :2], 255), PixelSettings())[0][0, 0].tolist() == [10, 10, 10]
    with pytest.raises(ImageError, match="it has 5 channels, but no channel 5"):
        to_rgb(Samples(bands, 255), PixelSettings(channels=(5,)))


@pytest.mark.parametrize(
    "settings",
    [
        {"value_range": (5, 1)},
        {"value_range": (1,)},
        {"value_range": ("1%", 99)},
        {"value_range": ("1%", "101%")},
        {"value_range": ("a", "b")},
        {"page": -1},
        {"channels": (0, 1, 2, 3)},
        {"channels": (-1,)},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ImageError):
        PixelSettings(**settings)
