"""Converts samples of any depth and number of channels to uint8 RGB."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppsolo.errors import ImageError

ValueRange = Literal["dtype", "auto"] | tuple[float | str, ...]

FEW_LEVELS = 64  # a picture that uses fewer of the 256 levels gets a note
MAX_PIXELS = 2**28  # 16384 x 16384: 805 MB once decoded
_ROWS = 256  # rows converted at a time, to save memory


@dataclass(frozen=True)
class PixelSettings:
    """Settings for pictures with more than 8-bit RGB; 8-bit grey and RGB pictures need none.

    Attributes:
        value_range: the values that become 0 and 255 in a picture of more than 8 bits. "dtype": the whole range of
            the type (0..65535, or 0..maxval if the file states it); floats must lie in 0..1. "auto": the smallest
            and the largest value of each picture. (low, high): these values; ("1%", "99%"): these percentiles of
            each picture. Values outside are clipped.
        page: the page of a stack, from 0. None reads the first page and notes that there are more.
        channels: the channels that become red, green and blue, from 0: one (grey), two (blue is 0) or three. Empty:
            grey or the first three.
    """

    value_range: ValueRange = "dtype"
    page: int | None = None
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ImageError for invalid settings."""
        if isinstance(self.value_range, str):
            if self.value_range not in ("dtype", "auto"):
                raise ImageError(f"value_range is {self.value_range!r}: {_RANGE_HELP}")
        elif len(self.value_range) != 2:
            raise ImageError(f"value_range is {list(self.value_range)}: {_RANGE_HELP}")
        else:
            low, high = (_bound(value) for value in self.value_range)
            if not low[0] < high[0] or low[1] != high[1] or (low[1] and not 0 <= low[0] < high[0] <= 100):
                raise ImageError(f"value_range is {list(self.value_range)}: {_RANGE_HELP}")
        if self.page is not None and self.page < 0:
            raise ImageError(f"page is {self.page}, but pages count from 0")
        if len(self.channels) > 3 or any(channel < 0 for channel in self.channels):
            raise ImageError(f"channels is {list(self.channels)}: give one, two or three numbers from 0")


_RANGE_HELP = "give dtype, auto, [low, high] with low below high, or percentiles such as [1%, 99%]"

DEFAULT_SETTINGS = PixelSettings()


@dataclass
class Samples:
    """The samples of one picture as stored in its file.

    Attributes:
        values: [H, W] grey or [H, W, C], unsigned, signed or float.
        top: the value of full brightness, None for float.
        names: the meaning of the channels: "grey", "rgb", or "bands" if unknown.
        notes: lines for the user about parts left out or suspicious values.
    """

    values: np.ndarray
    top: int | None
    names: Literal["grey", "rgb", "bands"] = "rgb"


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise ImageError for more than `max_pixels` pixels, or for no pixels."""
    if height < 1 or width < 1:
        raise ImageError(f"it states {height} x {width} pixels: it is damaged")
    if height * width > max_pixels:
        raise ImageError(f"{height} x {width} pixels are too many (at most {max_pixels}): cut up or shrink")


def checked_array(image: np.ndarray) -> np.ndarray:
    """Return the array itself, or a copy if it is not C-contiguous; ImageError if it is not uint8 [H, W, 3]."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and 0 < image.size <= 3 * MAX_PIXELS:
        return np.ascontiguousarray(image)
    if image.size == 0:
        remedy = "it has no pixels"
    elif image.ndim == 4:
        remedy = "give one image at a time"
    elif image.ndim == 2 or image.shape[2:] == (1,):
        remedy = "for grey, cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)"
    elif image.shape[2:] == (4,):
        remedy = "for RGBA, image[:, :, :3]; for BGRA, cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)"
    elif image.ndim != 3 or image.shape[2] != 3:
        remedy = "channels come last, image.transpose(1, 2, 0) for [3, H, W]"
    elif image.size > 3 * MAX_PIXELS:
        remedy = f"at most {MAX_PIXELS} pixels: cut it up or shrink it"
    elif image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1:
        remedy = "values 0..1: multiply by 255, (image * 255).round().astype(numpy.uint8)"
    else:
        remedy = "values 0..255, rounded and clipped, then image.astype(numpy.uint8)"
    expected = f"expected uint8 [H, W, 3] RGB ({remedy})"
    raise ImageError(f"image array of dtype {image.dtype} and shape {list(image.shape)}: {expected}")


def to_rgb(samples: Samples, settings: PixelSettings) -> tuple[np.ndarray, list[str]]:
    """Return uint8 [H, W, 3] RGB, C-contiguous, and lines for the user. Raises ImageError."""
    chosen, notes = _choose_channels(samples, settings.channels)
    levels, more = _to_levels(chosen, samples.top, settings.value_range)
    if levels.ndim == 2:
        levels = levels[:, :, None]
    if levels.shape[2] == 1:
        levels = np.broadcast_to(levels, (*levels.shape[:2], 3))
    elif levels.shape[2] == 2:
        levels = np.concatenate([levels, np.zeros_like(levels[:, :, :1])], axis=2)
    return np.ascontiguousarray(levels), notes + more


def _choose_channels(samples: Samples, channels: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Return [H, W] or [H, W, 1..3]: the wanted channels, or the usual ones for this kind of picture."""
    values = samples.values
    count = 1 if values.ndim == 2 else values.shape[2]
    if channels:
        if max(channels) >= count:
            raise ImageError(f"it has {count} channels, but no channel {max(channels)}; they count from 0")
        planes = values[:, :, None] if values.ndim == 2 else values
        return planes[:, :, list(channels)], []
    if count in (1, 3):
        return values, []
    taken = 1 if count == 2 else 3
    which = "the first is" if taken == 1 else "the first three are"
    note = f"it has {count} channels, {which} read; preprocess.channels chooses others"
    return values[:, :, :taken], [note]


def _to_levels(values: np.ndarray, top: int | None, value_range: ValueRange) -> tuple[np.ndarray, list[str]]:
    if values.dtype.kind not in "buif":
        raise ImageError(f"its values are of the type {values.dtype}, which is neither grey nor colour")
    if values.dtype == np.uint8 and top == 255:
        return values, []
    if top is not None and top <= 255:  # at most 8 bits: use the range of the file
        return _scale(values, 0, top), []
    low, high = _limits(values, top, value_range)
    levels = _scale(values, low, high)
    return levels, _few_levels(values, top) if value_range == "dtype" else []


def _limits(values: np.ndarray, top: int | None, value_range: ValueRange) -> tuple[float, float]:
    """Return the values that become 0 and 255."""
    if value_range == "dtype":
        if top is not None:
            return (float(np.iinfo(values.dtype).min) if values.dtype.kind == "i" else 0.0), float(top)
        low, high = _extremes(values)
        if low < 0 or high > 1:
            raise ImageError(
                f"float values from {low:.6g} to {high:.6g} are not in 0..1: set preprocess.value_range to [low, high] "
                "or auto"
            )
        return 0.0, 1.0
    if value_range == "auto":
        return _extremes(values)
    (low, percent), (high, _) = (_bound(value) for value in value_range)
    if not percent:
        return low, high
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size == 0:
        return 0.0, 0.0
    found = np.percentile(finite, [low, high])
    return float(found[0]), float(found[1])


def _extremes(values: np.ndarray) -> tuple[float, float]:
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return float(values.min()), float(values.max())


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of the same shape: low becomes 0, high becomes 255, rounded and clipped; NaN becomes 0."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        table = np.arange(np.iinfo(values.dtype).max + 1, dtype=np.float64)
        table = np.rint(np.clip((table - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)
        return table[values]
    levels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        block = values[start : start + _ROWS].astype(np.float64)
        block = np.nan_to_num((block - low) * (255 / (high - low)), nan=0.0, posinf=255.0, neginf=0.0)
        levels[start : start + _ROWS] = np.rint(np.clip(block, 0, 255))
    return levels


def _few_levels(values: np.ndarray, top: int | None) -> list[str]:
    """Return a note for data of 12 bits in a file of 16; the picture would be almost black."""
    if top is None or values.size == 0:
        return []
    low, high = int(values.min()), int(values.max())
    span = top if values.dtype.kind != "i" else top - np.iinfo(values.dtype).min
    used = math.ceil((high - low) * 255 / span)
    if high <= low or used >= FEW_LEVELS:
        return []
    upper = 2 ** max(high, 1).bit_length() - 1
    suggestion = f"[{0 if low >= 0 else low}, {upper}]"
    return [
        f"its values {low} to {high} use {used} of 256 levels; if they are data of fewer bits, set "
        f"preprocess.value_range={suggestion} or auto"
    ]


def _bound(value: float | str) -> tuple[float, bool]:
    """Return (number, whether it is a percentile)."""
    text = str(value)
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ImageError(f"value_range holds {value!r}: {_RANGE_HELP}")
    return number, text.endswith("%")
