"""Sizes: training and prediction scale an image alike. Resizing, normalising and padding."""

import cv2
import numpy as np
import pytest

from ppsolo.data.augment import Resize
from ppsolo.data.masks import CroppedMasks
from ppsolo.data.preprocess import Preprocess, padded_shape, round_up, scale_ratios
from ppsolo.data.sample import TrainingSample

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
STATIC = {"normalize_first": False, "round_sides": False}
DYGRAPH = {"normalize_first": True, "round_sides": True}


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, [height, width, 3], dtype=np.uint8)


@pytest.mark.parametrize("round_sides", [True, False])
def test_training_and_prediction_scale_alike(round_sides):
    rng = np.random.default_rng(0)
    prepare = Preprocess(short_side=80, long_side=133, round_sides=round_sides)
    resize = Resize((80,), 133, round_sides, "exclusive")
    for height, width in rng.integers(1, 300, (200, 2)).tolist():
        if max(height, width) > 60 * min(height, width):
            continue  # a side of less than one pixel, where the published recipes differ
        image = np.zeros((height, width, 3), np.uint8)
        empty = CroppedMasks.from_array(np.zeros((0, height, width), np.uint8))
        sample = TrainingSample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), empty, 1, (height, width))
        chw, size = prepare(image)
        assert size.padded == chw.shape[1:] == padded_shape([resize.apply(sample, 80).size])


def test_the_shorter_side_decides_unless_the_longer_one_is_too_long():
    assert scale_ratios((100, 150), 200, 1000, round_sides=False) == (2, 2)
    assert scale_ratios((100, 1000), 200, 1000, round_sides=False) == (1, 1)
    vertical, horizontal = scale_ratios((101, 333), 50, 1000, round_sides=True)
    assert (vertical * 101, horizontal * 333) == pytest.approx((50, 165))
    assert scale_ratios((1, 4000), 50, 100, round_sides=True)[0] == 1


def test_sides_are_rounded_up():
    assert [round_up(side) for side in (1, 32, 33, 64)] == [32, 32, 64, 64]
    assert padded_shape([(10, 70), (40, 20)]) == (64, 96)


@pytest.mark.parametrize("recipe", [STATIC, DYGRAPH])
def test_an_unscaled_image_is_only_normalised_and_padded(recipe):
    image = picture(40, 70)
    chw, size = Preprocess(short_side=40, long_side=100, **recipe)(image)
    assert (size.original, size.resized, size.padded) == ((40, 70), (40, 70), (64, 96))
    assert chw.shape == (3, 64, 96) and chw.dtype == np.float32
    expected = ((image / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(chw[:, :40, :70], expected, atol=1e-6)
    assert not chw[:, 40:].any() and not chw[:, :, 70:].any()


@pytest.mark.parametrize(
    ("recipe", "original", "resized", "padded"),
    [
        # 800 / 1333 by hand: 640 * 1.869.. = 1196.26
        (STATIC, (428, 640), (800, 1196), (800, 1216)),
        (DYGRAPH, (428, 640), (800, 1196), (800, 1216)),
        # 480 x 640: 1066.67 pixels are 1067 in the picture; 0.5 cuts masks to 1066, 2.x to 1067
        (STATIC, (480, 640), (800, 1066), (800, 1088)),
        (DYGRAPH, (480, 640), (800, 1067), (800, 1088)),
        # the long side rules: 1333 / 640 * 100 = 208.28
        (STATIC, (100, 640), (208, 1333), (224, 1344)),
        (DYGRAPH, (100, 640), (208, 1333), (224, 1344)),
    ],
)
def test_published_sizes(recipe, original, resized, padded):
    preprocess = Preprocess(short_side=800, long_side=1333, **recipe)
    _, size = preprocess(picture(*original))
    assert (size.original, size.resized, size.padded) == (original, resized, padded)


@pytest.mark.parametrize("recipe", [STATIC, DYGRAPH])
@pytest.mark.parametrize("original", [(1, 1), (1, 3000), (20000, 10), (10, 20000), (3, 2000)])
def test_extreme_shapes_keep_at_least_a_pixel(recipe, original):
    preprocess = Preprocess(short_side=800, long_side=1333, **recipe)
    chw, size = preprocess(picture(*original))
    assert min(size.resized) >= 1
    assert chw.shape[1:] == size.padded
    assert np.isfinite(chw).all()


def test_the_order_of_resize_and_normalise_matters_a_little():
    image = picture(60, 90)
    first, _ = Preprocess(short_side=40, long_side=100, **STATIC)(image)
    second, _ = Preprocess(short_side=40, long_side=100, **DYGRAPH)(image)
    difference = np.abs(first - second).max()
    # rounding to 8 bits, half a level at most, and OpenCV's 11-bit weights, which lose another half
    assert 0 < difference < 1 / 255 / STD.min()


@pytest.mark.parametrize("original", [(100, 150), (700, 1000), (1500, 999)])
def test_dygraph_normalises_first_or_gives_what_that_would(original):
    image = np.random.default_rng(3).integers(0, 256, (*original, 3), dtype=np.uint8)
    prepare = Preprocess(short_side=200, long_side=300, **DYGRAPH)
    prepared, size = prepare(image)
    normalised = (image.astype(np.float32) / 255 - prepare.mean) / prepare.std
    ratios = [after / before for after, before in zip(size.resized, original, strict=True)]
    published = cv2.resize(normalised, None, fx=ratios[1], fy=ratios[0], interpolation=cv2.INTER_LINEAR)
    height, width = size.resized
    np.testing.assert_allclose(prepared[:, :height, :width], published.transpose(2, 0, 1), atol=5e-6)


def normal(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) * np.float32(1 / 255) - MEAN.astype(np.float32)) / STD.astype(np.float32)


@pytest.mark.parametrize("recipe", [STATIC, DYGRAPH])
def test_channels_one_by_one_give_the_numbers_of_the_image_in_one(recipe):
    random, preprocess = np.random.default_rng(1), Preprocess(short_side=96, long_side=160, **recipe)
    for height, width in random.integers(10, 400, [60, 2]):
        image = random.integers(0, 256, [height, width, 3], np.uint8)
        fy, fx = scale_ratios((height, width), 96, 160, round_sides=recipe["round_sides"])
        if recipe is STATIC:
            expected = normal(cv2.resize(image, None, fx=fx, fy=fy))
        elif min(fy, fx) >= 1:
            expected = cv2.resize(normal(image), None, fx=fx, fy=fy)
        else:
            expected = normal(cv2.resize(image.astype(np.float32), None, fx=fx, fy=fy))
        rows, columns = expected.shape[:2]
        chw, _ = preprocess(image)
        # OpenCV 4 resizes floats of one channel with other roundings than of three.
        np.testing.assert_allclose(chw[:, :rows, :columns], expected.transpose(2, 0, 1), atol=1e-6)
        assert not chw[:, rows:].any() and not chw[:, :, columns:].any()
