"""A target of fuzzing, and the small picture that several of them lay beside their files."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np


class Target(NamedTuple):
    """One reader. run: takes an input; PpsoloError is an answer too. seeds: good inputs to change."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], Sequence[bytes]]


@functools.cache
def picture(suffix: str = ".png", height: int = 12, width: int = 16) -> bytes:
    """A small picture as the bytes of a file."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.imencode(suffix, smooth[..., 0] if suffix == ".pgm" else smooth)[1].tobytes()


@functools.cache
def mask() -> bytes:
    """Two objects on a background, as the bytes of a grey PNG of the size of `picture`."""
    values = np.zeros((12, 16), np.uint8)
    values[1:5, 1:5], values[6:10, 8:14] = 1, 2
    return cv2.imencode(".png", values)[1].tobytes()
