"""Values computed a second time for the gradients: when this happens, and that gradients stay the same."""

import numpy as np
import paddle
import pytest

from ppsolo.models.layers import ConvNorm, Norm, recomputed


@pytest.mark.parametrize(("learned", "recorded", "times"), [(True, True, 2), (True, False, 1), (False, True, 1)])
def test_a_function_runs_again_where_gradients_need_it(learned, recorded, times):
    calls = []

    def square(x, factor):
        calls.append(x)
        return x * x * factor

    x = paddle.to_tensor([3.0], stop_gradient=not learned)
    with paddle.set_grad_enabled(recorded):
        y = recomputed(square, x, 2)
    if times == 2:
        y.backward()
        assert x.grad.item() == 12
    assert y.item() == 18 and len(calls) == times


def test_gradients_of_group_norm_are_those_of_keeping_everything():
    """Of a layer that is used for several sizes, as in the heads."""
    paddle.seed(0)
    layer = ConvNorm(4, 8, 3, norm=Norm("gn", groups=4))
    inputs = [paddle.randn([2, 4, side, side]) for side in (7, 5, 3)]
    found = []
    for function in (layer, lambda x: layer._finish(layer.conv(x))):
        layer.clear_gradients()
        paddle.add_n([function(x).square().mean() for x in inputs]).backward()
        found.append([parameter.grad.numpy() for parameter in layer.parameters()])
    for again, kept in zip(*found, strict=True):
        np.testing.assert_array_equal(again, kept)


def test_group_norm_is_computed_again():
    layer = ConvNorm(4, 8, 3, norm=Norm("gn", groups=4))
    calls = []
    layer.norm.register_forward_post_hook(lambda *_: calls.append(1))
    layer(paddle.randn([1, 4, 5, 5])).sum().backward()
    assert len(calls) == 2
