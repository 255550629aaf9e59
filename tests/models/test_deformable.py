"""Deformable convolution: on a CPU by gathering, against its definition, Paddle's kernel and recorded outputs."""

from functools import partial

import numpy as np
import paddle
import pytest

from ppsolo.models.layers import ConvNorm, DeformableConv, Norm, deformable_conv, freeze


def test_deformable_convolution_starts_as_half_a_plain_one():
    layer = DeformableConv(3, 4, 3, stride=2)
    x = paddle.randn([2, 3, 9, 7])
    plain = paddle.nn.functional.conv2d(x, layer.conv.weight, stride=2, padding=1)
    np.testing.assert_allclose(layer(x).numpy(), 0.5 * plain.numpy(), atol=1e-5)


def test_deformable_convolution_of_one_tap_has_three_offset_channels():
    layer = ConvNorm(4, 8, 1, norm=Norm("gn", groups=4), deformable=True, dcn_bias=True)
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


@pytest.mark.parametrize("outputs", [4, 6])  # fewer than inputs, or more: products before or after the gathering
@pytest.mark.parametrize(
    ("size", "stride", "spread"), [(3, 1, 2.0), (3, 2, 2.0), (1, 1, 2.0), (3, 1, 0.0), (3, 2, 9.0)]
)
def test_gathering_equals_paddles_kernel_and_its_gradients(size, stride, spread, outputs):
    draw = np.random.default_rng(0)
    x, weight = draw.normal(size=[2, 5, 9, 7]), draw.normal(size=[outputs, 5, size, size])
    out = [-(-9 // stride), -(-7 // stride)]
    displacement = spread * draw.normal(size=[2, 2 * size**2, *out])
    displacement[:, :, ::3, ::2] = displacement[:, :, ::3, ::2].round()  # on pixels, and on -1 at the edge
    modulation = draw.random([2, size**2, *out])
    seed = paddle.to_tensor(draw.normal(size=[2, outputs, *out]).astype("float32"))

    def gradients(function):
        inputs = [
            paddle.to_tensor(a.astype("float32"), stop_gradient=False) for a in (x, displacement, modulation, weight)
        ]
        y = function(*inputs)
        (y * seed).sum().backward()
        return [y.numpy(), *(tensor.grad.numpy() for tensor in inputs)]

    def kernel(x, displacement, modulation, weight):
        return paddle.vision.ops.deform_conv2d(
            x, displacement, weight, mask=modulation, stride=stride, padding=size // 2
        )

    for ours, theirs in zip(gradients(lambda *a: deformable_conv(*a, stride)), gradients(kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def _kernel(layer: DeformableConv, x: paddle.Tensor) -> paddle.Tensor:
    """What the layer computes, by Paddle's kernel."""
    displacement, modulation = paddle.split(layer.offset(x), [2 * layer.taps, layer.taps], axis=1)
    return layer.conv(x, displacement, paddle.nn.functional.sigmoid(modulation))


# Paddle's kernel crashes where only the weight learns.
@pytest.mark.parametrize(
    ("frozen", "learned_input"), [("", True), ("", False), ("offset", True), ("conv", True), ("conv", False)]
)
def test_every_parameter_gets_the_gradient_that_the_kernel_gives_it(frozen, learned_input):
    paddle.seed(0)
    layer = DeformableConv(3, 4, 3, bias=True)
    paddle.nn.initializer.Normal(0.0, 0.5)(layer.offset.weight)
    if frozen:
        freeze(getattr(layer, frozen))
    x = paddle.randn([2, 3, 6, 7])
    x.stop_gradient = not learned_input
    found = []
    for function in (layer, partial(_kernel, layer)):
        layer.clear_gradients()
        x.clear_gradient()
        function(x).square().sum().backward()
        tensors = [x, *layer.parameters()]
        found.append([tensor.grad.numpy() for tensor in tensors if not tensor.stop_gradient])
    assert len(found[0]) == len(found[1]) == 4 - 2 * bool(frozen) + learned_input
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_displacement_out_of_range_reads_no_stray_memory(value):
    displacement = paddle.full([1, 2, 4, 4], 0.0)
    displacement[0, 0, 1, 2] = value
    y = deformable_conv(
        paddle.ones([1, 1, 4, 4]), displacement, paddle.ones([1, 1, 4, 4]), paddle.ones([1, 1, 1, 1]), 1
    ).numpy()
    assert y[0, 0, 1, 2] == 0 or np.isnan(y[0, 0, 1, 2])
    assert np.isfinite(value) == np.isfinite(y[0, 0, 1, 2])
    y[0, 0, 1, 2] = 1
    np.testing.assert_array_equal(y, 1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_no_image_sees_another(outputs):
    x = paddle.ones([3, 2, 4, 4])
    x[1] = np.nan
    displacement, modulation = paddle.zeros([3, 18, 4, 4]), paddle.ones([3, 9, 4, 4])
    y = deformable_conv(x, displacement, modulation, paddle.ones([outputs, 2, 3, 3]), 1).numpy()
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


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
