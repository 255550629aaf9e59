"""The way of one image into the network: resize, normalise, pad, and the sizes that undo it."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np


class ImageSize(NamedTuple):
    """(height, width) of one image on its way: as read, scaled, and padded for the network.

    `resized` is the part of the padded input that masks are cut to before they go back to `original`.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]


class Preprocess:
    """uint8 RGB image -> network input, exactly as the published systems prepare theirs.

    short_side, long_side: the image is scaled, up or down, so that its shorter side is short_side unless
        its longer one would exceed long_side. Bilinear, no antialiasing.
    mean, std: per RGB channel, of values in [0, 1].
    normalize_first: normalise, then resize in floating point; else resize in 8 bits, then normalise.
    round_sides: round the scaled sides first and use each side's own ratio; else use one exact ratio and
        truncate when masks are cut.
    divisor: sides are padded, at the right and the bottom with zeros, to multiples of it.
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
        divisor: int = 32,
    ):
        self.short_side = short_side
        self.long_side = long_side
        self.mean = np.asarray(mean, dtype=np.float32)
        self.std = np.asarray(std, dtype=np.float32)
        self.normalize_first = normalize_first
        self.round_sides = round_sides
        self.divisor = divisor

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, ImageSize]:
        """image: uint8 [H, W, 3] RGB -> (float32 [3, padded height, padded width], ImageSize)."""
        original = (image.shape[0], image.shape[1])
        ratios, resized = self._geometry(*original)
        if self.normalize_first and min(ratios) >= 1.0:
            scaled = _resize(self._normalize(image), ratios)
        elif self.normalize_first:
            # The other order is the same but for rounding, and here it has fewer pixels to normalise.
            scaled = self._normalize(_resize(image.astype(np.float32), ratios))
        else:
            scaled = self._normalize(_resize(image, ratios))
        height, width = scaled.shape[:2]
        padded = (_round_up(height, self.divisor), _round_up(width, self.divisor))
        chw = np.zeros((3, *padded), dtype=np.float32)
        chw[:, :height, :width] = scaled.transpose(2, 0, 1)
        return chw, ImageSize(original, resized, padded)

    def _geometry(self, height: int, width: int) -> tuple[tuple[float, float], tuple[int, int]]:
        """-> ((vertical ratio, horizontal ratio), resized)."""
        short, long = min(height, width), max(height, width)
        if self.round_sides:
            ratio = min(self.short_side / short, self.long_side / long)
            resized = (max(1, int(ratio * height + 0.5)), max(1, int(ratio * width + 0.5)))
            return (resized[0] / height, resized[1] / width), resized
        ratio = self.short_side / short
        if np.round(ratio * long) > self.long_side:
            ratio = self.long_side / long
        # The published code kept these products as float32 and truncated them later.
        resized = (max(1, int(np.float32(ratio * height))), max(1, int(np.float32(ratio * width))))
        return (ratio, ratio), resized

    def _normalize(self, image: np.ndarray) -> np.ndarray:
        scaled = image.astype(np.float32)
        scaled *= np.float32(1.0 / 255.0)
        scaled -= self.mean
        scaled /= self.std
        return scaled


def _resize(image: np.ndarray, ratios: tuple[float, float]) -> np.ndarray:
    rows, columns = (round(side * ratio) for side, ratio in zip(image.shape[:2], ratios, strict=True))
    if rows and columns:
        # The ratios themselves, not those of the rounded sides, place the samples.
        return cv2.resize(image, None, fx=ratios[1], fy=ratios[0], interpolation=cv2.INTER_LINEAR)
    return cv2.resize(image, (max(columns, 1), max(rows, 1)), interpolation=cv2.INTER_LINEAR)


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
