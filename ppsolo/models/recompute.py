"""Saves memory in training: intermediate results are computed again for the gradients instead of kept."""

from collections.abc import Callable
from typing import Any

import paddle
from paddle.distributed.fleet.utils import recompute


def recomputed(function: Callable[..., paddle.Tensor], *arguments: Any) -> paddle.Tensor:
    """Return function(*arguments) for a function without random numbers. Gradients of one backward pass are the same.

    Gradients of parameters that the function uses beyond its arguments go straight into `.grad`. So the gradients of
    several passes are summed in another order, and `paddle.grad` and `paddle.DataParallel` do not see them. A second
    backward pass over the same graph is impossible.
    """
    learned = any(isinstance(argument, paddle.Tensor) and not argument.stop_gradient for argument in arguments)
    if learned and paddle.in_dynamic_mode() and paddle.is_grad_enabled():
        return recompute(function, *arguments, preserve_rng_state=False)
    return function(*arguments)
