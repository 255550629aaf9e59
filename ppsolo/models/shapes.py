"""Shapes that hold in dygraph and while a static graph is traced."""

from typing import Any

import paddle


def sides(x: paddle.Tensor) -> list[int]:
    """The shape of `x`. While a static graph is traced, sides that are open in it are tensors, the others numbers."""
    if paddle.in_dynamic_mode():
        return x.shape
    traced: Any = paddle.unbind(paddle.shape(x))
    return [side if side >= 0 else traced[axis] for axis, side in enumerate(x.shape)]
