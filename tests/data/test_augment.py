"""Training transforms: recorded arrays, recorded random decisions, and the rules of both recipes."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ppsolo.data.augment import (
    ColorDistort,
    DistortAndCrop,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomTurn,
    Resize,
    augment,
    box_ious,
)
from ppsolo.data.coco import CocoDataset, load_sample
from ppsolo.data.color import adjust_in_8_bits, adjust_in_float
from ppsolo.data.masks import CroppedMasks
from ppsolo.data.sample import TrainingSample

# OpenCV 5 orders the operations of its interpolation of float images otherwise than the OpenCV 4 of the recordings: in
# a few pixels the last bit differs, 1.5e-5 of 255, or 2.7e-7 after normalisation. On OpenCV 4 everything is equal.
FLOAT_RESIZE = 0.0 if cv2.__version__.startswith("4.") else 3e-7

RECORDED_BOXES = np.array([[50.3, 49.7, 190.2, 131.1], [200, 150, 204, 153]], np.float32)

EXCLUSIVE = [Resize((160, 192, 224, 256), 320, True, "exclusive"), RandomFlip("exclusive"), Normalize()]
INCLUSIVE = [Resize((160, 192, 224, 256), 320, False, "inclusive"), RandomFlip("inclusive"), Normalize()]
RECIPES = {
    "2.x": [ColorDistort("hsv"), RandomCrop(drop_empty_masks=False), *EXCLUSIVE],
    "0.5": [ColorDistort("yiq"), RandomCrop(drop_empty_masks=True), *INCLUSIVE],
}


@pytest.fixture(scope="module")
def golden(reference):
    return reference / "golden"


@pytest.fixture(scope="module")
def transforms(golden) -> dict[str, np.ndarray]:
    with np.load(golden / "dygraph__transforms.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope="module")
def tiny_coco(data) -> CocoDataset:
    folder = data / "tiny_coco"
    return CocoDataset(folder / "annotations" / "instances_tiny.json", folder / "images")


def unflipped(transforms: dict[str, np.ndarray]) -> CroppedMasks:
    """The masks that the recorded transforms started from."""
    return CroppedMasks.from_array(transforms["flip_gt_segm"][:, :, ::-1])


def drawn_sample(height: int = 120, width: int = 160, count: int = 4, seed: int = 0) -> TrainingSample:
    """Noise with rectangles that fill their boxes."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), np.uint8)
    corners = rng.integers(0, [width - 30, height - 30], (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(4, 30, (count, 2))], axis=1)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return TrainingSample(
        image, boxes.astype(np.float32), np.arange(count), CroppedMasks.from_array(masks), 7, (height, width)
    )


def same(a: TrainingSample, b: TrainingSample) -> bool:
    names = ("image", "boxes", "labels")
    arrays_are = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return arrays_are and np.array_equal(a.masks.to_array(), b.masks.to_array())


class Recorded:
    """Answers like a generator with recorded numbers, if it is asked what the original code asked."""

    def __init__(self, calls: list):
        # The original also drew whether to transform at all, with probability 1.
        self.calls = [call for call in calls if call[0] != "random.random"]

    def uniform(self, low: float, high: float) -> float:
        name, arguments, result = self.calls.pop(0)
        assert (name, arguments) == ("np.uniform", [low, high])
        return result

    def permutation(self, count: int) -> list[int]:
        name, [choices], result = self.calls.pop(0)
        if name == "np.shuffle":  # in place: the recorded argument is shuffled, too
            choices = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, "no_crop"]
        assert len(choices) == count
        return [choices.index(entry) for entry in result]

    def integers(self, low: int, high: int) -> int:
        name, arguments, result = self.calls.pop(0)
        if name == "np.randint":
            assert arguments == [low, high]
            return result
        assert name == "random.choice"
        assert (low, high) == (0, len(arguments[0]))
        return arguments[0].index(result)


@pytest.mark.parametrize(
    ("system", "batch"), [("r50_fpn_1x", 0), ("r50_fpn_1x", 1), ("enhance", 0), ("enhance", 1), ("enhance", 2)]
)
def test_recorded_samples(tiny_coco, golden, system, batch):
    """From the file to the finished sample, with the recorded random numbers."""
    recipe = RECIPES["2.x"] if system == "enhance" else [replace(EXCLUSIVE[0], short_sides=(256,)), *EXCLUSIVE[1:]]
    decisions = json.loads((golden / f"dygraph__train_reader_{system}_decisions.json").read_text())[str(batch)]
    with np.load(golden / f"dygraph__train_reader_{system}_{batch}.npz") as arrays:
        for number, index in enumerate(arrays["record_index"]):
            record = tiny_coco[int(index)]
            assert record.image_id == arrays["im_id"][number]
            numbers = Recorded(decisions[number])
            sample = augment(load_sample(record), recipe, numbers)
            assert numbers.calls == []
            prefix = f"sample{number}_"
            assert np.array_equal(sample.boxes, arrays[prefix + "gt_bbox"])
            assert np.array_equal(sample.labels, arrays[prefix + "gt_class"][:, 0])
            assert np.array_equal(sample.masks.to_array(), arrays[prefix + "gt_segm"])
            assert sample.size == tuple(arrays[prefix + "im_shape"])
            np.testing.assert_allclose(sample.image, arrays[prefix + "image"], rtol=0, atol=FLOAT_RESIZE)


def test_recorded_batch_without_a_choice(tiny_coco, golden):
    with np.load(golden / "dygraph__train_batch_r50_fpn_1x.npz") as arrays:
        images = arrays["image"]
    for record, image in zip((tiny_coco[0], tiny_coco[2]), images, strict=True):
        sample = EXCLUSIVE[0].apply(load_sample(record), 256)
        height, width = sample.size
        assert np.array_equal(Normalize().apply(sample, None).image, image[:, :height, :width])


def test_recorded_static_image(data, golden):
    """The recorded network input of release 0.5, a photograph resized to 256 x 416."""
    folder = data / "coco_permissive"
    dataset = CocoDataset(folder / "instances_val2017.json", folder / "val2017")
    record = next(dataset[index] for index in range(len(dataset)) if dataset[index].image_id == 252219)
    sample = load_sample(record)
    masks = CroppedMasks.from_array(np.zeros((0, 256, 416), np.uint8))
    squashed = replace(sample, image=cv2.resize(sample.image, (416, 256)), masks=masks)
    with np.load(golden / "static__solov2_r50_fpn_1x__batch_small.npz") as arrays:
        # That release divided by 255, this code multiplies with 1 / 255: three float32 roundings below 2.7.
        np.testing.assert_allclose(Normalize().apply(squashed, None).image, arrays["image"][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("arithmetic", ["hsv", "yiq"])
def test_colours_of_the_crop_alone_are_those_of_the_whole(arithmetic):
    color, crop = ColorDistort(arithmetic), RandomCrop(drop_empty_masks=False)
    both = DistortAndCrop(color, crop)
    names = set()
    for seed in range(40):
        sample = drawn_sample(seed=seed)
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        decision = both.decide(sample, rng)
        assert decision == (color.decide(sample, other), crop.decide(sample, other))
        expected = crop.apply(color.apply(sample, decision[0]), decision[1])
        assert same(both.apply(sample, decision), expected)
        names.update(name for name, _ in decision[0] if decision[1] is not None)
    assert len(names) == 4


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_recorded_colours(transforms, name):
    for amount, expected in zip(transforms[f"{name}_deltas"], transforms[name], strict=True):
        assert np.array_equal(adjust_in_8_bits(transforms["rgb"], name, float(amount)), expected)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("name", "sides", "size"),
    [("up", (300, 500), (300, 420)), ("down", (150, 170), (121, 170)), ("odd", (215, 500), (215, 301))],
)
def test_recorded_resize(transforms, kind, name, sides, size):
    rgb = transforms["rgb"]
    image = rgb if kind == "uint8" else ((rgb / 255 - 0.45) / 0.225).astype(np.float32)
    sample = TrainingSample(image, RECORDED_BOXES, np.arange(2), unflipped(transforms), 0, (200, 280))
    resized = Resize(sides[:1], sides[1], True, "exclusive").apply(sample, sides[0])
    prefix = f"resize_{name}_{kind}_"
    assert resized.size == size
    assert np.array_equal(resized.boxes, transforms[prefix + "gt_bbox"])
    assert np.array_equal(resized.masks.to_array(), transforms[prefix + "gt_segm"])
    assert resized.image.dtype == kind
    # The input of the float case was rounded in another order; both stay below 2.5 in magnitude.
    tolerance = 0 if kind == "uint8" else 5e-7
    np.testing.assert_allclose(resized.image, transforms[prefix + "image"], rtol=0, atol=tolerance)


def test_recorded_flip(transforms):
    sample = TrainingSample(transforms["rgb"], RECORDED_BOXES, np.arange(2), unflipped(transforms), 0, (200, 280))
    result = RandomFlip("exclusive").apply(sample, True)
    assert np.array_equal(result.image, transforms["flip_image"])
    assert np.array_equal(result.masks.to_array(), transforms["flip_gt_segm"])
    assert np.array_equal(result.boxes, transforms["flip_gt_bbox"])


def test_float_colours():
    """Against the formulas, one pixel at a time."""
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    to_rgb = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])
    for amount in (0.5, 1.37, -17.2):
        cos, sin = np.cos(amount * np.pi), np.sin(amount * np.pi)
        for pixel in np.ndindex(5, 6):
            rgb = image[pixel].astype(np.float64)
            y, i, q = to_yiq @ rgb
            expected = {
                "brightness": rgb + amount,
                "contrast": rgb * amount,
                "saturation": rgb * amount + (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]) * (1 - amount),
                "hue": to_rgb @ [y, cos * i - sin * q, sin * i + cos * q],
            }
            for name, value in expected.items():
                # Sums of three float32 products of up to 5e3.
                np.testing.assert_allclose(adjust_in_float(image, name, amount)[pixel], value, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("arithmetic", ["hsv", "yiq"])
def test_colours_leave_their_input_and_the_geometry_alone(arithmetic):
    sample = drawn_sample()
    before = sample.image.copy()
    decision = (("contrast", 0.7), ("hue", 9.0), ("brightness", 1.2), ("saturation", 0.6))
    distorted = ColorDistort(arithmetic).apply(sample, decision)
    assert np.array_equal(sample.image, before)
    assert distorted.image.dtype == np.float32
    assert not np.array_equal(distorted.image, before)
    assert same(replace(distorted, image=before), sample)


def test_without_an_adjustment_only_the_type_may_change():
    sample = drawn_sample()
    assert ColorDistort("hsv").apply(sample, ()).image.dtype == np.float32
    assert ColorDistort("yiq").apply(sample, ()).image.dtype == np.uint8


def test_colour_decisions():
    distort, sample, rng = ColorDistort("hsv"), drawn_sample(), np.random.default_rng(0)
    decisions = [distort.decide(sample, rng) for _ in range(400)]
    names = [name for decision in decisions for name, _ in decision]
    for name, bounds in {"brightness": (0.5, 1.5), "hue": (-18, 18)}.items():
        amounts = [amount for decision in decisions for kind, amount in decision if kind == name]
        assert bounds[0] <= min(amounts) < 0.9 * bounds[0] + 0.1 * bounds[1]
        assert 0.1 * bounds[0] + 0.9 * bounds[1] < max(amounts) <= bounds[1]
        assert 160 < names.count(name) < 240
    assert len({decision[0][0] for decision in decisions if decision}) == 4


@pytest.mark.parametrize("recipe", RECIPES)
def test_seeds(recipe):
    """The generator that is passed in decides everything, and it alone."""
    sample = drawn_sample()
    state = np.random.get_state()[1].copy()
    first, again, other = (augment(sample, RECIPES[recipe], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("recipe", RECIPES)
def test_samples_stay_sound(recipe):
    for seed in range(30):
        sample = augment(drawn_sample(seed=seed), RECIPES[recipe], np.random.default_rng(seed))
        height, width = sample.size
        assert sample.image.shape == (3, height, width)
        assert sample.image.dtype == sample.boxes.dtype == np.float32
        assert len(sample.boxes) == len(sample.labels) == len(sample.masks) > 0
        assert (sample.boxes >= 0).all() and (sample.boxes <= [width, height] * 2).all()
        assert (sample.image_id, sample.original_size) == (7, (120, 160))
        for box, mask in zip(sample.boxes, sample.masks.to_array(), strict=True):
            y, x = np.nonzero(mask)
            if len(x):  # rectangles fill their boxes, but for the rounding of the resize
                around = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                np.testing.assert_allclose(box, around, atol=2.5 * max(height / 36, 1))


@pytest.mark.parametrize("recipe", RECIPES)
def test_image_without_instances(recipe):
    sample = augment(drawn_sample(count=0), RECIPES[recipe], np.random.default_rng(0))
    assert sample.boxes.shape == (0, 4)
    assert len(sample.masks) == 0 and sample.size == sample.image.shape[1:]


def test_crop_cuts_boxes_and_keeps_centred_instances():
    sample = drawn_sample(count=3)
    sample = replace(sample, boxes=np.array([[10, 10, 30, 30], [0, 0, 40, 30], [60, 60, 90, 90]], np.float32))
    cropped = RandomCrop(drop_empty_masks=False).apply(sample, (20, 15, 100, 50))
    # The first box's centre (20, 20) lies on the included left edge; the third one is outside.
    assert cropped.boxes.tolist() == [[0, 0, 10, 15], [0, 0, 20, 15]]
    assert cropped.labels.tolist() == [0, 1]
    assert np.array_equal(cropped.masks.to_array(), sample.masks.to_array()[:2, 15:50, 20:100])
    assert np.array_equal(cropped.image, sample.image[15:50, 20:100])


def test_crop_may_drop_instances_without_a_pixel():
    sample = drawn_sample(count=2)
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 100]], np.float32)
    masks = np.zeros((2, *sample.size), np.uint8)
    masks[0, :5, :5] = 1
    masks[1, 50, 50] = 1
    sample = replace(sample, boxes=boxes, masks=CroppedMasks.from_array(masks))
    assert RandomCrop(drop_empty_masks=False).apply(sample, (40, 40, 80, 80)).labels.tolist() == [0, 1]
    assert RandomCrop(drop_empty_masks=True).apply(sample, (40, 40, 80, 80)).labels.tolist() == [1]
    nothing = replace(sample, masks=CroppedMasks.from_array(np.zeros_like(masks)))
    decisions = [RandomCrop(drop_empty_masks=True).decide(nothing, np.random.default_rng(seed)) for seed in range(20)]
    assert decisions == [None] * 20


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_crop_windows(threshold):
    crop, sample = RandomCrop(drop_empty_masks=False, thresholds=(threshold,)), drawn_sample(60, 90, count=1)
    sample = replace(sample, boxes=np.array([[10, 5, 80, 55]], np.float32))
    windows = [crop.decide(sample, np.random.default_rng(seed)) for seed in range(60)]
    found = [window for window in windows if window is not None]
    assert 0 < len(found) < 60
    for left, top, right, bottom in found:
        assert 0 <= left < right <= 90 and 0 <= top < bottom <= 60
        assert box_ious(sample.boxes, (left, top, right, bottom)).max() >= threshold
        assert left <= 45 < right and top <= 30 < bottom


def test_tiny_image_can_be_cropped():
    sample = replace(drawn_sample(40, 40, count=1), image=np.zeros((2, 2, 3), np.uint8))
    masks = CroppedMasks.from_array(np.ones((1, 2, 2), np.uint8))
    sample = replace(sample, masks=masks, boxes=np.array([[0, 0, 2, 2]], np.float32))
    for seed in range(10):
        assert len(augment(sample, RECIPES["2.x"][1:2], np.random.default_rng(seed)).labels) == 1


def test_box_ious():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [30, 30, 40, 40]], np.float32)
    np.testing.assert_allclose(box_ious(boxes, (0, 0, 10, 10)), [1, 1 / 3, 0, 0], rtol=1e-6)  # float32


@pytest.mark.parametrize(
    ("size", "short", "long", "rounded", "exact"),
    [
        ((480, 640), 800, 1333, (800, 1067), (800, 1067)),
        ((427, 640), 800, 1333, (800, 1199), (800, 1199)),
        ((100, 300), 800, 1333, (444, 1333), (444, 1333)),
        ((600, 1000), 800, 1333, (800, 1333), (800, 1333)),  # 1333.33: above the limit only before rounding
        ((100, 640), 512, 852, (133, 852), (133, 852)),
        ((1, 500), 160, 320, (1, 320), (1, 320)),
    ],
)
def test_resized_sizes(size, short, long, rounded, exact):
    sample = TrainingSample(
        np.zeros((*size, 3), np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64),
        CroppedMasks.from_array(np.zeros((0, *size), np.uint8)),
        0,
        size,
    )
    assert Resize((short,), long, True, "exclusive").apply(sample, short).size == rounded
    assert Resize((short,), long, False, "inclusive").apply(sample, short).size == exact


def test_resize_cuts_boxes_by_convention():
    sample = replace(drawn_sample(100, 200, count=1), boxes=np.array([[-5, -5, 250, 99.5]], np.float32))
    assert Resize((50,), 100, True, "exclusive").apply(sample, 50).boxes.tolist() == [[0, 0, 100, 49.75]]
    assert Resize((50,), 100, False, "inclusive").apply(sample, 50).boxes.tolist() == [[0, 0, 99, 49]]


def test_flip_boxes_by_convention():
    sample = replace(drawn_sample(100, 200, count=1), boxes=np.array([[10, 20, 30, 40]], np.float32))
    assert RandomFlip("exclusive").apply(sample, True).boxes.tolist() == [[170, 20, 190, 40]]
    assert RandomFlip("inclusive").apply(sample, True).boxes.tolist() == [[169, 20, 189, 40]]
    flip, rng = RandomFlip("exclusive"), np.random.default_rng(0)
    assert 60 < sum(flip.decide(sample, rng) for _ in range(200)) < 140
    twice = flip.apply(flip.apply(sample, True), True)
    assert same(twice, sample)
    assert flip.apply(sample, False) is sample


def test_normalize():
    sample = drawn_sample()
    expected = (sample.image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    result = Normalize().apply(sample, None).image
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), rtol=0, atol=1e-6)  # float32, up to 2.7
    from_float = Normalize().apply(replace(sample, image=sample.image.astype(np.float32)), None).image
    assert np.array_equal(result, from_float)
    other = Normalize(mean=(0, 0, 0), std=(1, 1, 1)).apply(sample, None).image
    assert np.array_equal(other, sample.image.transpose(2, 0, 1) * np.float32(1 / 255))


@pytest.mark.parametrize("convention", ["exclusive", "inclusive"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turned_boxes_and_masks_stay_together(convention, turns):
    """The box of a turned mask is the turned box; the image turns with them."""
    mask = np.zeros((1, 7, 9), np.uint8)
    mask[0, 1:4, 2:8] = 1
    last = 0 if convention == "exclusive" else 1
    sample = TrainingSample(
        image=np.repeat(mask[0][:, :, None], 3, axis=2),
        boxes=np.array([[2, 1, 8 - last, 4 - last]], np.float32),
        labels=np.zeros(1, np.int64),
        masks=CroppedMasks.from_array(mask),
        image_id=1,
        original_size=(7, 9),
    )
    turned = RandomTurn(convention).apply(sample, turns)
    (found,) = turned.masks.to_array()
    np.testing.assert_array_equal(found, np.rot90(mask[0], turns))
    np.testing.assert_array_equal(turned.image[:, :, 0], found)
    rows, columns = np.nonzero(found)
    expected = [columns.min(), rows.min(), columns.max() + 1 - last, rows.max() + 1 - last]
    np.testing.assert_array_equal(turned.boxes, np.array([expected], np.float32))
    assert turned.boxes.dtype == np.float32


def test_turns_are_drawn_evenly():
    rng = np.random.default_rng(0)
    turn = RandomTurn("exclusive")
    sample = drawn_sample()
    counts = np.bincount([turn.decide(sample, rng) for _ in range(4000)])
    assert len(counts) == 4 and (abs(counts - 1000) < 150).all()  # five standard deviations
