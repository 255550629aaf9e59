"""Preprocessing: scale ratios and padded sides; resize, normalise, pad; and the sizes that undo it."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
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


def round_up(side: int) -> int:
    """Return the smallest multiple of DIVISOR that is at least `side`.

    >>> round_up(800), round_up(801)
    (800, 832)
    """
    return -(-side // DIVISOR) * DIVISOR


def padded_shape(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return (height, width) of a batch of images of these sizes: the largest sides, rounded up."""
    return round_up(max(height for height, _ in sizes)), round_up(max(width for _, width in sizes))


class ImageSize(NamedTuple):
    """(height, width) of one image: original, resized, and padded for the network.

    Masks of the padded input are cropped to `resized` before they are scaled to `original`.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]


class Prepared(NamedTuple):
    """An image ready for the network: float32 [3, H, W], H and W multiples of DIVISOR, and its three sizes."""

    image: np.ndarray
    size: ImageSize


class Preprocess:
    """uint8 RGB image -> network input, prepared exactly as in the published systems.

    short_side, long_side: the shorter side is scaled, up or down, to short_side, or less if the longer side would
        exceed long_side. Bilinear, no antialiasing.
    mean, std: per RGB channel, for values in [0, 1].
    normalize_first: normalise, then resize in floating point; else resize in 8 bits, then normalise.
    round_sides: round the scaled sides first and use each side's own ratio; else use one exact ratio, and truncate
        sizes when masks are cropped.
    """

    def __init__(
        self,
        *,
        short_side: int,
        long_side: int,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        normalize_first: bool = False,
        round_sides: bool = False,
    ):
        self.short_side = short_side
        self.long_side = long_side
        self.mean = np.asarray(mean, dtype=np.float32)
        self.std = np.asarray(std, dtype=np.float32)
        self.normalize_first = normalize_first
        self.round_sides = round_sides
        self._normalized_levels = np.tile(np.arange(256, dtype=np.float32), (3, 1))
        self._normalize(self._normalized_levels)

    def __call__(self, image: np.ndarray) -> Prepared:
        """Resize, normalise and pad an image, uint8 [H, W, 3] RGB; zeros are added at the right and the bottom."""
        original = (image.shape[0], image.shape[1])
        ratios = scale_ratios(original, self.short_side, self.long_side, round_sides=self.round_sides)
        exact = [side * ratio for side, ratio in zip(original, ratios, strict=True)]
        rows, columns = (max(1, round(side)) for side in exact)
        chw = np.empty((3, round_up(rows), round_up(columns)), np.float32)
        chw[:, rows:], chw[:, :, columns:] = 0.0, 0.0
        self._fill(chw[:, :rows, :columns], image, ratios)
        resized = (rows, columns)
        if not self.round_sides:
            # The published code stored the exact sides as float32 and truncated them later.
            resized = (max(1, int(np.float32(exact[0]))), max(1, int(np.float32(exact[1]))))
        return Prepared(chw, ImageSize(original, resized, (chw.shape[1], chw.shape[2])))

    def _fill(self, planes: np.ndarray, image: np.ndarray, ratios: tuple[float, float]) -> None:
        """Resize and normalise the image into float32 [3, H, W]; channel by channel, equal up to rounding."""
        if self.normalize_first and min(ratios) >= 1.0:
            for plane, levels, channel in zip(planes, self._normalized_levels, cv2.split(image), strict=True):
                _resize(cv2.LUT(channel, levels), ratios, plane)
        elif self.normalize_first:
            # The other order is equal up to rounding, and here has fewer pixels to normalise.
            for plane, channel in zip(planes, cv2.split(image), strict=True):
                _resize(channel.astype(np.float32), ratios, plane)
            self._normalize(planes)
        else:
            resized = cv2.split(_resize(image, ratios))
            for plane, levels, channel in zip(planes, self._normalized_levels, resized, strict=True):
                cv2.LUT(channel, levels, dst=plane)

    def _normalize(self, planes: np.ndarray) -> None:
        """Normalise float32 [3, ...] with values from 0 to 255, in place."""
        for plane, mean, std in zip(planes, self.mean, self.std, strict=True):
            plane *= np.float32(1.0 / 255.0)
            plane -= mean
            plane /= std


def _resize(image: np.ndarray, ratios: tuple[float, float], out: np.ndarray | None = None) -> np.ndarray:
    """Resize an image. out: the array to write to, of the resulting size."""
    rows, columns = (round(side * ratio) for side, ratio in zip(image.shape[:2], ratios, strict=True))
    if rows and columns:
        # The exact ratios place the samples, not the ratios of the rounded sides.
        return cv2.resize(image, None, out, fx=ratios[1], fy=ratios[0], interpolation=cv2.INTER_LINEAR)
    return cv2.resize(image, (max(columns, 1), max(rows, 1)), out, interpolation=cv2.INTER_LINEAR)
