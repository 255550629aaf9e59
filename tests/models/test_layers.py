"""Norms, deformable convolution, coordinates, resizing and DropBlock."""

import numpy as np
import paddle
import pytest

from ppsolo.models.layers import (
    ConvNorm,
    DeformableConv,
    DropBlock,
    append_coordinates,
    build_norm,
    drop_block,
    resize,
)


def test_coordinates_are_x_then_y_from_minus_one_to_one():
    x = append_coordinates(paddle.zeros([2, 1, 3, 5])).numpy()
    assert x.shape == (2, 3, 3, 5)
    np.testing.assert_allclose(x[1, 1, 2], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(x[1, 2, :, 4], [-1, 0, 1])


def test_coordinates_of_a_single_pixel():
    np.testing.assert_array_equal(append_coordinates(paddle.zeros([1, 1, 1, 1])).numpy().ravel(), [0, -1, -1])


def test_frozen_norm_uses_running_statistics_in_training():
    norm = build_norm("bn", 2, frozen=True)
    norm.train()
    x = paddle.to_tensor(np.random.default_rng(0).normal(5, 3, [4, 2, 3, 3]).astype("float32"))
    np.testing.assert_allclose(norm(x).numpy(), x.numpy() / np.sqrt(1 + 1e-5), rtol=1e-6)
    assert all(parameter.stop_gradient for parameter in norm.parameters())


def test_sync_bn_runs_on_a_cpu():
    norm = build_norm("sync_bn", 2)
    assert norm(paddle.ones([2, 2, 3, 3])).shape == [2, 2, 3, 3]


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="'ln'"):
        build_norm("ln", 4)


def test_deformable_convolution_starts_as_half_a_plain_one():
    layer = DeformableConv(3, 4, 3, stride=2)
    x = paddle.randn([2, 3, 9, 7])
    plain = paddle.nn.functional.conv2d(x, layer.conv.weight, stride=2, padding=1)
    np.testing.assert_allclose(layer(x).numpy(), 0.5 * plain.numpy(), atol=1e-5)


def test_deformable_convolution_of_one_tap_has_three_offset_channels():
    layer = ConvNorm(4, 8, 1, norm="gn", norm_groups=4, deformable=True, dcn_bias=True)
    assert layer.conv.offset.weight.shape == [3, 4, 1, 1]
    assert layer.conv.conv.bias.shape == [8]
    assert layer(paddle.randn([1, 4, 5, 5])).shape == [1, 8, 5, 5]


def _sample(image: np.ndarray, y: float, x: float) -> float:
    """Bilinear value of a 2-D array at a real position, zero outside."""
    total, top, left = 0.0, int(np.floor(y)), int(np.floor(x))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def test_deformable_convolution_moves_its_taps():
    paddle.seed(0)
    layer = DeformableConv(2, 1, 3)
    paddle.nn.initializer.Normal(0.0, 0.5)(layer.offset.weight)
    x = paddle.randn([1, 2, 5, 6])
    offsets = layer.offset(x).numpy()[0]
    weight = layer.conv.weight.numpy()[0]
    expected = np.zeros((5, 6))
    for row, column in np.ndindex(5, 6):
        for tap in range(9):
            dy, dx, modulation = (offsets[channel, row, column] for channel in (2 * tap, 2 * tap + 1, 18 + tap))
            y, x_ = row + tap // 3 - 1 + dy, column + tap % 3 - 1 + dx
            for channel in range(2):
                value = _sample(x.numpy()[0, channel], y, x_)
                expected[row, column] += weight[channel, tap // 3, tap % 3] * value / (1 + np.exp(-modulation))
    # float32 sums of 18 products against float64 ones
    np.testing.assert_allclose(layer(x).numpy()[0, 0], expected, atol=1e-5)


def test_resize_of_an_even_map_to_half_is_the_mean_of_four():
    x = paddle.to_tensor(np.arange(16, dtype="float32").reshape(1, 1, 4, 4))
    np.testing.assert_allclose(resize(x, (2, 2)).numpy()[0, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_drop_block_zeroes_whole_blocks_and_keeps_the_scale():
    uniform = paddle.ones([1, 1, 6, 6])
    uniform[0, 0, 2, 2] = 0.0
    y = drop_block(paddle.ones([1, 1, 6, 6]), uniform, block_size=3, keep_prob=0.9).numpy()[0, 0]
    assert (y[1:4, 1:4] == 0).all()
    assert (y != 0).sum() == 27
    np.testing.assert_allclose(y[y != 0], 36 / 27, rtol=1e-6)


def test_drop_block_is_off_in_eval_mode():
    layer = DropBlock()
    layer.eval()
    x = paddle.randn([1, 2, 8, 8])
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    layer.train()
    assert not np.array_equal(layer(x).numpy(), x.numpy())


def test_drop_block_as_recorded(reference):
    recorded = np.load(reference / "golden" / "dygraph__train_dropblock.npz")
    x, uniform = (paddle.to_tensor(recorded[key]) for key in ("x", "rand"))
    y = drop_block(x, uniform, block_size=3, keep_prob=0.9)
    np.testing.assert_allclose(y.numpy(), recorded["y"], rtol=1e-6)


@pytest.mark.parametrize(("case", "size", "stride"), [("dcn_k3", 3, 1), ("dcn_k3s2", 3, 2), ("dcn_k1", 1, 1)])
def test_deformable_convolution_as_recorded(reference, case, size, stride):
    recorded = np.load(reference / "golden" / "dygraph__ops.npz")
    x = recorded[f"{case}_x"]
    layer = DeformableConv(x.shape[1], recorded[f"{case}_y"].shape[1], size, stride=stride, bias=True)
    layer.conv.weight.set_value(recorded[f"{case}_weight"])
    layer.conv.bias.set_value(recorded[f"{case}_bias"])
    modulation = recorded[f"{case}_mask"].astype(np.float64)
    predicted = np.concatenate([recorded[f"{case}_offset"], np.log(modulation / (1 - modulation))], axis=1)
    layer.offset.forward = lambda _: paddle.to_tensor(predicted.astype("float32"))
    # the modulation went through its own inverse: a few units in the last place
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), recorded[f"{case}_y"], atol=1e-5)


@pytest.mark.parametrize("grid", [40, 36, 24, 16, 12, 7])
def test_resize_as_recorded(reference, grid):
    recorded = np.load(reference / "golden" / "dygraph__ops.npz")
    y = resize(paddle.to_tensor(recorded["interp_x"]), (grid, grid)).numpy()
    # paddle 2.6 and 3.3 place samples 2e-6 apart
    np.testing.assert_allclose(y, recorded[f"interp_grid{grid}"], atol=5e-6)
