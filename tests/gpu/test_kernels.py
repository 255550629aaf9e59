"""Kernels of a GPU beside those of a CPU."""

import numpy as np
import paddle
import pytest
from gpus import needs_gpus

from ppsolo.models.layers import DeformableConv, drop_block
from ppsolo.models.tf32 import tf32

pytestmark = needs_gpus()


@pytest.mark.parametrize("stride", [1, 2])
def test_the_deformable_kernel_against_gathering(stride):
    """The same layer on the same GPU, forward and gradients."""
    paddle.seed(0)
    layer = DeformableConv(8, 12, 3, stride=stride)
    paddle.nn.initializer.Normal(0.0, 0.3)(layer.offset.weight)
    answers = []
    with tf32(allowed=False):
        for gathers in (False, True):
            layer.gathers = gathers
            x = paddle.to_tensor(np.random.default_rng(0).normal(0, 1, [2, 8, 20, 24]).astype("float32"))
            x.stop_gradient = False
            y = layer(x)
            (y * y).sum().backward()
            answers.append([y.numpy(), x.grad.numpy(), *(parameter.grad.numpy() for parameter in layer.parameters())])
            layer.clear_gradients()
    for kernel, gathered in zip(*answers, strict=True):
        np.testing.assert_allclose(kernel, gathered, rtol=1e-3, atol=1e-3 * np.abs(gathered).max())


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_drop_block_over_more_cells_than_float16_counts(level):
    paddle.seed(0)
    x = paddle.ones([1, 256, 40, 40]).astype("float16")  # 409,600 values
    with paddle.amp.auto_cast(level=level):
        y = drop_block(x, paddle.rand(x.shape), block_size=3, keep_prob=0.9).astype("float32")
    assert bool(paddle.isfinite(y).all()) and 0.05 < float((y == 0).astype("float32").mean()) < 0.15
    assert abs(float(y.mean()) - 1.0) < 1e-3  # 11 bits of the factor
