"""TF32, the 11-bit arithmetic of Ampere and newer GPUs, allowed or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle

_SWITCHES: Any = paddle.base.core  # Paddle has no public switches
_HAS_SWITCHES = hasattr(_SWITCHES, "set_cublas_switch")  # Paddle 2.6 without CUDA has none


def tf32_allowed() -> tuple[bool, bool]:
    """Whether Paddle may take TF32 for matrix products and for convolutions. It is on by default in Paddle 2.6.

    Without a GPU the answer means nothing; it is (False, False) where Paddle has no switches.
    """
    if not _HAS_SWITCHES:
        return False, False
    return bool(_SWITCHES.get_cublas_switch()), bool(_SWITCHES.get_cudnn_switch())


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow TF32 inside the `with` block, or forbid it; afterwards it is as before. Without a GPU nothing changes.

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
