"""Memory for time in training: what a function computes on its way is computed again for the gradients, not kept."""

from collections.abc import Callable
from typing import Any

import paddle
from paddle.distributed.fleet.utils import recompute


def recomputed(function: Callable[..., paddle.Tensor], *arguments: Any) -> paddle.Tensor:
    """function(*arguments), for a function without random numbers. The gradients of one backward pass are the same.

    Those of parameters that the function has beside its arguments go straight into their `.grad`: those of several
    passes are summed up in another order, `paddle.grad` and `paddle.DataParallel` do not see them. There can be no
    second pass over the same graph.
    """
    learned = any(isinstance(argument, paddle.Tensor) and not argument.stop_gradient for argument in arguments)
    if learned and paddle.in_dynamic_mode() and paddle.is_grad_enabled():
        return recompute(function, *arguments, preserve_rng_state=False)
    return function(*arguments)
