"""Switches for TF32, the 11-bit arithmetic of Ampere and newer GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle

_SWITCHES: Any = paddle.base.core  # Paddle has no public switches
_HAS_SWITCHES = hasattr(_SWITCHES, "set_cublas_switch")  # Paddle 2.6 without CUDA has none


def tf32_allowed() -> tuple[bool, bool]:
    """Whether Paddle may use TF32 for matrix products and for convolutions. Paddle 2.6 allows both by default.

    Without a GPU the answer has no meaning. It is (False, False) if Paddle has no switches.
    """
    if not _HAS_SWITCHES:
        return False, False
    return bool(_SWITCHES.get_cublas_switch()), bool(_SWITCHES.get_cudnn_switch())


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 inside the `with` block, and restore the old state after it. No effect without a GPU.

    >>> with tf32(allowed=False):
    ...     tf32_allowed()
    (False, False)
    """
    if not _HAS_SWITCHES:
        yield
        return
    products, convolutions = tf32_allowed()
    try:
        _SWITCHES.set_cublas_switch(allowed)
        _SWITCHES.set_cudnn_switch(allowed)
        yield
    finally:
        _SWITCHES.set_cublas_switch(products)
        _SWITCHES.set_cudnn_switch(convolutions)
