"""Norms, coordinates, resizing and DropBlock."""

import numpy as np
import paddle
import pytest

from ppsolo.models.layers import (
    DropBlock,
    Norm,
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
    norm = build_norm(Norm(frozen=True), 2)
    norm.train()
    x = paddle.to_tensor(np.random.default_rng(0).normal(5, 3, [4, 2, 3, 3]).astype("float32"))
    np.testing.assert_allclose(norm(x).numpy(), x.numpy() / np.sqrt(1 + 1e-5), rtol=1e-6)
    assert all(parameter.stop_gradient for parameter in norm.parameters())


def test_sync_bn_runs_on_a_cpu():
    norm = build_norm(Norm("sync_bn"), 2)
    assert norm(paddle.ones([2, 2, 3, 3])).shape == [2, 2, 3, 3]


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="'ln'"):
        build_norm(Norm("ln"), 4)


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


class Half:
    """A float16 tensor with numpy's products: Paddle has no kernel for them on CPUs."""

    dtype = paddle.float16

    def __init__(self, values: np.ndarray):
        self.values, self.shape = values, list(values.shape)

    def __mul__(self, other: paddle.Tensor) -> "Half":
        return Half(self.values * other.numpy())


def test_drop_block_counts_more_cells_than_float16_holds():
    """The sum over 640 x 640 cells is infinite in float16. Dividing by it would give 0."""
    assert paddle.ones([640 * 640], "float16").sum().numpy() == np.inf
    x = Half(np.ones((1, 1, 640, 640), np.float16))
    y = drop_block(x, paddle.full(x.shape, 0.5), block_size=3, keep_prob=0.9)
    assert y.values.dtype == np.float16 and (y.values == 1).all()


def test_drop_block_is_off_in_eval_mode():
    paddle.seed(0)
    layer = DropBlock()
    layer.eval()
    x = paddle.randn([1, 16, 8, 8])
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    layer.train()
    assert not np.array_equal(layer(x).numpy(), x.numpy())


def test_drop_block_as_recorded(reference):
    recorded = np.load(reference / "golden" / "dygraph__train_dropblock.npz")
    x, uniform = (paddle.to_tensor(recorded[key]) for key in ("x", "rand"))
    y = drop_block(x, uniform, block_size=3, keep_prob=0.9)
    np.testing.assert_allclose(y.numpy(), recorded["y"], rtol=1e-6)


@pytest.mark.parametrize("grid", [40, 36, 24, 16, 12, 7])
def test_resize_as_recorded(reference, grid):
    recorded = np.load(reference / "golden" / "dygraph__ops.npz")
    y = resize(paddle.to_tensor(recorded["interp_x"]), (grid, grid)).numpy()
    # paddle 2.6 and 3.3 place samples 2e-6 apart
    np.testing.assert_allclose(y, recorded[f"interp_grid{grid}"], atol=5e-6)
