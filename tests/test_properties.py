"""Properties of answers that hold for any weights: batches, order, sizes."""

import os

import cv2
import numpy as np
import pytest
from busy import busy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ppsolo import load_config
from ppsolo.predictor import Predictor
from ppsolo.results.resize import resize_masks

RESIZE_CASES = int(os.environ.get("PPSOLO_RESIZE_CASES", "150"))  # 1000 for a long run
SCORES = 1e-5  # another batch size may take another kernel: float32 rounding


@pytest.fixture(scope="module")
def predictor(tiny) -> Predictor:
    config = load_config("solov2_r50_fpn_1x", {**tiny, "postprocess.max_instances": 20})
    model = busy_model(config, seed=3)
    return Predictor(config, model=model)


def pictures(count: int) -> list[np.ndarray]:
    chance = np.random.default_rng(count)
    sizes = [(48, 64), (64, 48), (40, 80), (48, 64), (30, 30)]
    small = [chance.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(count)]
    return [cv2.resize(image, sizes[number % len(sizes)][::-1]) for number, image in enumerate(small)]


def assert_same(one, other) -> None:
    assert len(one) == len(other) and list(one.labels) == list(other.labels)
    np.testing.assert_allclose(one.scores, other.scores, atol=SCORES)
    assert np.mean(one.masks != other.masks) < 1e-3 if len(one) else True


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_a_batch_answers_as_its_pictures_do_one_by_one(predictor, batch_size):
    images = pictures(7)
    singles = [predictor(image) for image in images]
    assert any(len(single) for single in singles)
    for one, other in zip(predictor(images, batch_size=batch_size), singles, strict=True):
        assert_same(one, other)


def test_the_order_of_pictures_changes_nothing_but_the_order(predictor):
    images = pictures(6)
    order = np.random.default_rng(0).permutation(6)
    forward = predictor(images, batch_size=6)
    shuffled = predictor([images[index] for index in order], batch_size=6)
    for place, index in enumerate(order):
        assert_same(shuffled[place], forward[index])


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize by half-pixel centres, edges repeated; a single output is the first input, as in the published systems."""
    for axis, length in enumerate(size):
        positions = np.clip((np.arange(length) + 0.5) * image.shape[axis] / length - 0.5, 0, image.shape[axis] - 1)
        positions = positions if length > 1 else np.zeros(1)
        low = np.floor(positions).astype(int)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        share = np.expand_dims(positions - low, 1 - axis)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


@settings(max_examples=RESIZE_CASES, deadline=None, derandomize=True)
@given(
    resized=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    original=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    count=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_are_resized_as_in_two_steps(resized, original, count, seed):
    """Against the obvious way: enlarge the whole padded mask by 4, cut the padding, resize to the original size."""
    padded = tuple(-(-side // 32) * 32 for side in resized)
    chance = np.random.default_rng(seed)
    masks = (
        np.stack(
            [
                cv2.GaussianBlur(chance.random((padded[0] // 4, padded[1] // 4), np.float32), (0, 0), 1.5)
                for _ in range(count)
            ]
        )
        if count
        else np.zeros((0, padded[0] // 4, padded[1] // 4), np.float32)
    )
    found = resize_masks(masks, resized=resized, original=original, threshold=0.5)
    assert len(found) == count
    for mask, rle in zip(masks, found, strict=True):
        enlarged = bilinear(mask.astype(np.float64), padded)[: resized[0], : resized[1]]
        expected = bilinear(enlarged, original)
        unclear = np.abs(expected - 0.5) < 1e-4  # rounding decides
        assert ((coco_mask.decode(rle) == (expected > 0.5)) | unclear).all()


@pytest.mark.parametrize("original", [(64, 96), (64, 200), (33, 31), (500, 41)])
def test_mirrored_masks_are_resized_to_the_mirror(original):
    """The pictures have no padding: padding is only on the right, so a padded picture cannot be mirrored."""
    padded, chance = (64, 96), np.random.default_rng(original[1])
    masks = np.stack([cv2.GaussianBlur(chance.random((16, 24), np.float32), (0, 0), 1.5) for _ in range(5)])
    there = resize_masks(masks, resized=padded, original=original, threshold=0.5)
    mirrored = resize_masks(np.ascontiguousarray(masks[:, :, ::-1]), resized=padded, original=original, threshold=0.5)
    for mask, one, other in zip(masks, there, mirrored, strict=True):
        unclear = np.abs(bilinear(bilinear(mask.astype(np.float64), padded), original) - 0.5) < 1e-4  # rounding decides
        assert ((coco_mask.decode(one) == coco_mask.decode(other)[:, ::-1]) | unclear).all()
        assert not unclear.all()
