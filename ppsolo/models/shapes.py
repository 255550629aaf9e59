"""Shapes that are valid in dygraph and while a static graph is traced."""

from typing import Any

import paddle


def sides(x: paddle.Tensor) -> list[int]:
    """Return the shape of `x`. In a traced static graph, open sides are tensors; all others are numbers."""
    if paddle.in_dynamic_mode():
        return x.shape
    traced: Any = paddle.unbind(paddle.shape(x))
    return [side if side >= 0 else traced[axis] for axis, side in enumerate(x.shape)]
