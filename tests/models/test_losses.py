"""The criterion against a slow reference, and the batches that used to end in NaN or in a hang."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ppsolo.build.network import build_model
from ppsolo.config import load_config
from ppsolo.models.losses import SOLOv2Criterion, Targets, dice_loss, focal_loss
from ppsolo.models.solov2 import RawPredictions

GRIDS = (4, 3)
CLASSES, CHANNELS, HEIGHT, WIDTH = 3, 5, 6, 7


def raw_arrays(rng, images=2, spread=2.0):
    def draw(*shape):
        return rng.normal(0, spread, shape).astype(np.float32)

    return (
        [draw(images, CLASSES, grid, grid) for grid in GRIDS],
        [draw(images, CHANNELS, grid, grid) for grid in GRIDS],
        draw(images, CHANNELS, HEIGHT, WIDTH),
    )


def raw_tensors(arrays, dtype="float32"):
    def tensor(array):
        return paddle.to_tensor(array, dtype=dtype, stop_gradient=False)

    logits, kernels, features = arrays
    return RawPredictions([tensor(x) for x in logits], [tensor(x) for x in kernels], tensor(features))


def target_arrays(positives, masks, labels, images=2, grids=GRIDS, size=(HEIGHT, WIDTH)):
    """positives: (level, image, cell, mask), sorted by level. labels: class, from 1, of each (level, image, cell)."""
    category_labels = [np.zeros((images, grid * grid), np.int64) for grid in grids]
    for (level, image, cell), label in labels.items():
        category_labels[level][image, cell] = label
    columns = np.array(positives, np.int64).reshape(-1, 4)
    return SimpleNamespace(
        category_labels=category_labels,
        masks=np.array(masks, np.uint8).reshape(-1, *size),
        mask_index=columns[:, 3],
        image_index=columns[:, 1],
        cell_index=columns[:, 2],
        level_offsets=np.searchsorted(columns[:, 0], np.arange(len(grids) + 1)),
        num_positive_cells=np.array([len({p[::2] for p in positives if p[1] == image}) for image in range(images)]),
    )


def crowded(rng):
    """Two images on two levels: two instances share a cell, one has many cells, one has vanished."""
    masks = (rng.random((4, HEIGHT, WIDTH)) < 0.4).astype(np.uint8)
    masks[3] = 0
    positives = [(0, 0, 5, 0), (0, 0, 6, 0), (0, 0, 6, 1), (0, 1, 15, 2), (1, 0, 4, 1), (1, 1, 0, 2), (1, 1, 8, 3)]
    labels = {(0, 0, 5): 1, (0, 0, 6): 2, (0, 1, 15): 3, (1, 0, 4): 2, (1, 1, 0): 3, (1, 1, 8): 1}
    return target_arrays(positives, masks, labels)


def slow_losses(arrays, targets):
    """One class, cell and mask at a time, in float64."""
    logits, kernels, features = ([x.astype(np.float64) for x in group] for group in arrays)
    category = 0.0
    for level, grid in enumerate(GRIDS):
        for image, label, row, column in np.ndindex(logits[level].shape):
            positive = targets.category_labels[level][image, row * grid + column] == label + 1
            p = 1 / (1 + np.exp(-logits[level][image, label, row, column]))
            category -= 0.25 * (1 - p) ** 2 * np.log(p) if positive else 0.75 * p**2 * np.log(1 - p)
    dice = []
    for positive, image in enumerate(targets.image_index):
        level = np.searchsorted(targets.level_offsets, positive, side="right") - 1
        row, column = divmod(targets.cell_index[positive], GRIDS[level])
        target = targets.masks[targets.mask_index[positive]].astype(np.float64)
        p = 1 / (1 + np.exp(-np.einsum("e,ehw->hw", kernels[level][image, :, row, column], features[image])))
        if target.any():
            dice.append(1 - 2 * (p * target).sum() / ((p * p).sum() + 0.001 + (target * target).sum() + 0.001))
    return 3 * np.mean(dice), category / (targets.num_positive_cells.sum() + 1)


def outputs(raw):
    return [*raw.category_logits, *raw.kernels, raw.mask_features]


def test_against_the_slow_reference():
    rng = np.random.default_rng(0)
    arrays, targets = raw_arrays(rng), crowded(rng)
    losses = SOLOv2Criterion()(raw_tensors(arrays), Targets.from_arrays(targets))
    mask, category = slow_losses(arrays, targets)
    # float32 against float64.
    np.testing.assert_allclose([float(x) for x in losses], [mask, category, mask + category], rtol=1e-6)
    assert all(x.shape == [] and x.dtype == paddle.float32 for x in losses)


def test_weight_of_the_masks():
    rng = np.random.default_rng(0)
    arrays, targets = raw_tensors(raw_arrays(rng)), Targets.from_arrays(crowded(rng))
    once, five = (SOLOv2Criterion(mask_loss_weight=weight)(arrays, targets) for weight in (1.0, 5.0))
    assert float(five.mask) == pytest.approx(5 * float(once.mask), rel=1e-6)
    assert float(five.category) == float(once.category)


def test_nothing_is_read_back(monkeypatch):
    rng = np.random.default_rng(0)
    raw, targets = raw_tensors(raw_arrays(rng)), Targets.from_arrays(crowded(rng))

    def refuse(*_):
        raise AssertionError("the step waits for the device")

    with monkeypatch.context() as patch:
        for name in ("numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__"):
            patch.setattr(paddle.Tensor, name, refuse)
        losses = SOLOv2Criterion()(raw, targets)
        losses.total.backward()
    assert np.isfinite(float(losses.total))


ONE = {(0, 0, 5): 2}
FULL = np.ones((1, HEIGHT, WIDTH), np.uint8)


@pytest.mark.parametrize(
    ("positives", "masks", "labels", "learns"),
    [
        pytest.param([(0, 0, 5, 0)], FULL, ONE, True, id="an image without instances"),
        pytest.param([], [], {}, False, id="a batch without instances"),
        pytest.param([(0, 0, 5, 0)], 0 * FULL, ONE, False, id="all masks vanished at stride 4"),
    ],
)
def test_sparse_batches(positives, masks, labels, learns):
    raw = raw_tensors(raw_arrays(np.random.default_rng(0)))
    losses = SOLOv2Criterion()(raw, Targets.from_arrays(target_arrays(positives, masks, labels)))
    losses.total.backward()
    assert all(np.isfinite(float(x)) for x in losses)
    assert (float(losses.mask) > 0) == learns
    assert all(x.grad is not None and np.isfinite(x.grad.numpy()).all() for x in outputs(raw))
    assert (np.abs(raw.mask_features.grad.numpy()).max() > 0) == learns
    assert np.abs(raw.category_logits[1].grad.numpy()).max() > 0


@pytest.mark.parametrize("positives", [[(0, 1, 3, 0)], []])
def test_every_parameter_gets_a_gradient(tiny, positives):
    model = build_model(load_config("solov2_r50_enhance_coco", {**tiny, "model.head.dcn_layers": [0]}))
    raw = model(paddle.randn([2, 3, 64, 64]))
    grids = [x.shape[2] for x in raw.kernels]
    masks = np.ones((len(positives), 16, 16))
    targets = target_arrays(positives, masks, {p[:3]: 1 for p in positives}, grids=grids, size=(16, 16))
    SOLOv2Criterion()(raw, Targets.from_arrays(targets)).total.backward()
    trained = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    assert len(trained) > 50
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert all(np.isfinite(p.grad.numpy()).all() for p in trained.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_predictions_are_judged_in_float32(dtype):
    rng = np.random.default_rng(0)
    arrays, targets = raw_arrays(rng), Targets.from_arrays(crowded(rng))
    half = raw_tensors(arrays, dtype)
    with paddle.amp.auto_cast(dtype=dtype):
        losses = SOLOv2Criterion()(half, targets)
    losses.total.backward()
    logits, kernels, features = half
    full = RawPredictions(
        [x.astype("float32") for x in logits], [x.astype("float32") for x in kernels], features.astype("float32")
    )
    expected = SOLOv2Criterion()(full, targets)
    assert [float(x) for x in losses] == [float(x) for x in expected]
    assert all(x.dtype == paddle.float32 for x in losses)
    assert all(x.grad.dtype == x.dtype for x in outputs(half))


def test_focal_loss_at_the_ends():
    logits = paddle.to_tensor([-1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4], stop_gradient=False)
    for positive in (0.0, 1.0):
        losses = focal_loss(logits, paddle.full_like(logits, positive), alpha=0.25, gamma=2.0)
        losses.sum().backward()
        sign, weight = (1.0, 0.75) if positive == 0.0 else (-1.0, 0.25)
        wrong = sign * logits.numpy().astype(np.float64)
        expected = weight / (1 + np.exp(np.clip(-wrong, None, 300))) ** 2 * np.logaddexp(0, wrong)
        # exp and log of float32, a few roundings each.
        np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-6, atol=1e-12)
        # Far on the wrong side the loss is linear, far on the right side it is flat.
        slope = logits.grad.numpy() * sign
        np.testing.assert_allclose(slope[np.argsort(wrong)][[0, 1, -2, -1]], [0, 0, weight, weight], atol=1e-7)
        logits.clear_gradient()


def test_focal_loss_as_recorded(reference):
    with np.load(reference / "golden" / "dygraph__ops.npz") as recorded:
        logits, labels, expected = (recorded[key] for key in ("focal_logit", "focal_label", "focal"))
    positive = (labels[:, None] == np.arange(1, 81)).astype(np.float32)
    losses = focal_loss(paddle.to_tensor(logits), paddle.to_tensor(positive), alpha=0.25, gamma=2.0)
    # The case was recorded for 7 positive cells; float32 sums of 4000 terms.
    assert float(losses.sum()) / (7 + 1) == pytest.approx(float(expected), rel=1e-6)


def test_dice_loss():
    target = np.zeros((3, 40), np.float32)
    target[:2, :10] = 1
    probabilities = np.stack([target[0], 1 - target[0], np.full(40, 0.5, np.float32)])
    losses = dice_loss(paddle.to_tensor(probabilities), paddle.to_tensor(target)).numpy()
    # Right, wrong everywhere, and nothing to hit.
    np.testing.assert_allclose(losses, [1 - 20 / 20.002, 1, 1], rtol=1e-5, atol=1e-7)


def test_targets_come_to_the_device_in_two_copies(monkeypatch):
    copies = []
    to_tensor = paddle.to_tensor
    monkeypatch.setattr(paddle, "to_tensor", lambda array: copies.append(array) or to_tensor(array))
    arrays = crowded(np.random.default_rng(0))
    targets = Targets.from_arrays(arrays)
    assert len(copies) == 2
    for name in ("masks", "mask_index", "image_index", "cell_index", "level_offsets", "num_positive_cells"):
        np.testing.assert_array_equal(getattr(targets, name).numpy(), getattr(arrays, name))
    for ours, theirs in zip(targets.category_labels, arrays.category_labels, strict=True):
        assert ours.dtype == paddle.int64
        np.testing.assert_array_equal(ours.numpy(), theirs)
