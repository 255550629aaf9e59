"""Memory for time in training: what a function computes on its way is computed again for the gradients, not kept."""

from collections.abc import Callable
from typing import Any

import paddle
from paddle.distributed.fleet.utils import recompute


def recomputed(function: Callable[..., paddle.Tensor], *arguments: Any) -> paddle.Tensor:
    """function(*arguments), for a function without random numbers. Its gradients are the same, bit for bit."""
    learned = any(isinstance(argument, paddle.Tensor) and not argument.stop_gradient for argument in arguments)
    if learned and paddle.in_dynamic_mode() and paddle.is_grad_enabled():
        return recompute(function, *arguments, preserve_rng_state=False)
    return function(*arguments)
