"""Image sizes on the way into the network: scale ratios and padded sides."""

import numpy as np

DIVISOR = 32  # divides the sides of a batch: the coarsest stride of the backbone


def scale_ratios(size: tuple[int, int], short_side: int, long_side: int, *, round_sides: bool) -> tuple[float, float]:
    """Return the (vertical, horizontal) ratio that scales an image of `size` (height, width) in pixels.

    The shorter side becomes short_side, or less if the longer side would exceed long_side.

    round_sides: round the scaled sides, at least to 1, and give each its own ratio (2.x); else use one exact ratio
    (0.5).

    >>> scale_ratios((480, 640), 800, 1333, round_sides=True)
    (1.6666666666666667, 1.6671875)
    >>> scale_ratios((100, 400), 800, 1200, round_sides=False)
    (3.0, 3.0)
    """
    height, width = size
    short, long = min(size), max(size)
    if round_sides:
        ratio = min(short_side / short, long_side / long)
        return max(1, int(ratio * height + 0.5)) / height, max(1, int(ratio * width + 0.5)) / width
    ratio = short_side / short
    if np.round(ratio * long) > long_side:
        ratio = long_side / long
    return ratio, ratio


def round_up(side: int, divisor: int = DIVISOR) -> int:
    """Return the smallest multiple of `divisor` that is at least `side`.

    >>> round_up(800), round_up(801)
    (800, 832)
    """
    return -(-side // divisor) * divisor


def padded_shape(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return (height, width) of a batch of images of these sizes: the largest sides, rounded up."""
    return round_up(max(height for height, _ in sizes)), round_up(max(width for _, width in sizes))
