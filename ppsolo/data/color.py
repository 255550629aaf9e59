"""The arithmetic of colour changes, equal to the published recipes to the last bit: in 8 bits and in float32."""

import functools
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np

Adjustment = Literal["brightness", "contrast", "saturation", "hue"]

STRIP_ROWS = 32  # rows at a time, so that intermediate results stay in the cache


def adjust_in_8_bits(image: np.ndarray, name: Adjustment, amount: float) -> np.ndarray:
    """Adjust uint8 [h, w, 3] RGB with the arithmetic of Pillow's ImageEnhance and HSV conversion."""
    if name == "hue":
        return _turn_hsv_hue(image, amount)
    if name == "saturation":
        return _by_strips(lambda strip: _blend(cv2.merge([_grey(strip)] * 3), strip, amount), image)
    base = np.uint8(0) if name == "brightness" else np.uint8(_grey(image).mean() + 0.5)
    return cv2.LUT(image, _blend(base, np.arange(256, dtype=np.uint8), amount))


def adjust_in_float(image: np.ndarray, name: Adjustment, amount: float) -> np.ndarray:
    """Adjust uint8 or float32 [h, w, 3] RGB in float32, without clipping. The hue turns by `amount` half circles."""
    if name == "brightness":
        return np.add(image, np.float32(amount), dtype=np.float32)
    if name == "contrast":
        return np.multiply(image, np.float32(amount), dtype=np.float32)
    image = image.astype(np.float32)
    if name == "saturation":
        to_grey = np.tile(np.array([0.299, 0.587, 0.114]) * (1 - amount), (3, 1))
        return cv2.transform(image, to_grey + amount * np.eye(3))
    cos, sin = np.cos(amount * np.pi), np.sin(amount * np.pi)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    to_rgb = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])
    return cv2.transform(image, to_rgb @ turn @ to_yiq)


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: ITU-R 601 luma in 16-bit fixed point, rounded; sums below 2^24 are exact in float32."""
    weighted = cv2.transform(image.astype(np.float32), np.array([[19595, 38470, 7471, 32768]], np.float32))
    return (weighted * np.float32(1 / 65536)).astype(np.uint8)


def _blend(base: np.ndarray | np.uint8, image: np.ndarray, factor: float) -> np.ndarray:
    """base + factor * (image - base), in float32, clipped to 0 .. 255 and truncated to uint8."""
    mixed = np.subtract(image, base, dtype=np.float32)
    mixed *= np.float32(factor)
    mixed += base
    return mixed.clip(0, 255, out=mixed).astype(np.uint8)


def _turn_hsv_hue(image: np.ndarray, amount: float) -> np.ndarray:
    """Add `amount` to the hue (0 .. 255 is the full circle), truncate to an integer, and take it modulo 256."""
    turned = np.trunc(np.arange(256) + amount).astype(np.int64) % 256
    hues, parts, kept = _hue_tables()
    hues = turned.astype(np.uint8).take(hues)
    return _by_strips(lambda strip: _rgb_of_hues(strip, hues, parts, kept), image)


def _by_strips(change: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Apply `change`, which uses one pixel at a time, to a uint8 [h, w, 3] image in strips."""
    result = np.empty_like(image)
    for top in range(0, len(image), STRIP_ROWS):
        strip = slice(top, top + STRIP_ROWS)
        result[strip] = change(image[strip])
    return result


def _rgb_of_hues(image: np.ndarray, hues: np.ndarray, parts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """uint8 RGB [h, w, 3] with other hues but the same value and saturation; for the tables see `_hue_tables`."""
    red, green, blue = (np.asarray(channel, np.uint8) for channel in cv2.split(image))
    value = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    middle = red ^ green ^ blue ^ value ^ least
    chroma = value - least
    # The largest channel (of equal ones: red, then green), and whether the channel before it is the smallest.
    sector = (least == green) + np.uint8(4)
    cv2.copyTo((least == red) + np.uint8(2), (green == value).view(np.uint8), sector)
    cv2.copyTo((least == blue).view(np.uint8), (red == value).view(np.uint8), sector)
    hue = hues.take(_index(sector, chroma, value - middle))
    saturation, least = _grey_share().take(_index(chroma, value), axis=1)
    middle = (value * kept.take(_index(hue, saturation)) + 0.5).astype(np.uint8)
    channels = []
    for table in parts:
        part, channel = cv2.LUT(hue, table), least.copy()
        cv2.copyTo(middle, (part == 1).view(np.uint8), channel)
        channels.append(cv2.copyTo(value, (part == 0).view(np.uint8), channel))
    return cv2.merge(channels)


def _index(*digits: np.ndarray) -> np.ndarray:
    """int64 positions in a table of 256 x 256 x ... from uint8 digits, the most significant first."""
    index = digits[0].astype(np.int64)
    for digit in digits[1:]:
        index <<= 8
        index |= digit
    return index


@functools.cache
def _grey_share() -> np.ndarray:
    """uint8 [2, 65536]: saturation, rounded down, and the smallest channel from it. Index: 256 chroma + value."""
    chroma, value = np.arange(256)[:, None], np.arange(256)
    saturation = (chroma / np.maximum(value, 1).astype(np.float32)).astype(np.float64) * 255.0
    saturation = np.minimum(saturation, 255.0).astype(np.uint8)  # the chroma never exceeds the value
    share = (np.arange(256) / 255.0).astype(np.float32).astype(np.float64)
    least = (value * (1.0 - share[saturation]) + 0.5).astype(np.uint8)
    return np.stack([saturation, least]).reshape(2, -1)


@functools.cache
def _hue_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tables from channels to hues and from hues to channels.

    hues: uint8 [6, 256, 256]. parts: uint8 [3, 256]. kept: float64 [65536].
    `hues[2 largest + before, chroma, value - middle]` is the truncated hue. largest: 0, 1 or 2 for red, green or blue.
        before: 1 if the channel before the largest one in the circle is the smallest, else 0.
    `parts[channel, hue]`: the channel is the largest (0), the middle (1) or the smallest (2).
    `kept[256 hue + saturation]` times the value is the middle channel.
    """
    # Distances from the largest channel in units of the chroma; grey has distances 0, hence hue 0. float64 steps are
    # stored as float32, as in the recordings.
    chroma = np.arange(256)[:, None]
    unit = np.maximum(chroma, 1).astype(np.float32)
    to_middle = (np.arange(256, dtype=np.uint8) / unit).astype(np.float64)
    to_least = np.tile((chroma / unit).astype(np.float64), 256)
    pairs = ((to_middle, to_least), (to_least, to_middle))
    sixths = np.stack([base + before - after for base in (0.0, 2.0, 4.0) for before, after in pairs]).astype(np.float32)
    turns = sixths.astype(np.float64) / 6.0 + 1.0
    hues = ((turns - np.floor(turns)).astype(np.float32).astype(np.float64) * 255.0).astype(np.uint8)
    position = np.arange(256) * 6.0 / 255.0
    sector = np.floor(position).astype(np.int64)
    fraction = (position - sector).astype(np.float32)[:, None]
    share = (np.arange(256) / 255.0).astype(np.float32)
    falling = (share * fraction).astype(np.float64)
    rising = share * (1.0 - fraction.astype(np.float64))
    middle = np.where(sector[:, None] % 2 == 1, falling, rising)
    order = np.array([[0, 1, 2, 2, 1, 0], [1, 0, 0, 1, 2, 2], [2, 2, 1, 0, 0, 1]], np.uint8)
    return hues, order[:, sector % 6], (1.0 - middle).ravel()
