"""Reads PNM pictures (PBM, PGM, PPM; text and binary), scaled by the largest value in their header."""

import re
import warnings

import numpy as np

from ppsolo.data.pixels import Samples
from ppsolo.errors import ImageError

_SPACE = rb"(?:\s|#[^\n]*\n)+"
_MOST_DIGITS = 10  # digits of a number in the header; enough for every accepted size


def read_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) from the header. Raises ImageError if there is none."""
    return _header(data)[1:3]


def decode_pnm(data: bytes) -> Samples:
    """Return the samples, [H, W] or [H, W, 3], clipped to the header's largest value. Raises ImageError."""
    kind, height, width, top, start = _header(data)
    channels = 3 if kind in (3, 6) else 1
    count = height * width * channels
    if kind == 4:
        values = _bits(data, start, height, width)
    elif kind < 4:
        values = _numbers(data[start:], kind, count)
    else:
        dtype = np.dtype(">u2" if top > 255 else "u1")
        if len(data) - start < count * dtype.itemsize:
            raise ImageError(
                f"cannot decode this PNM: it is cut short: {len(data) - start} bytes of {count * dtype.itemsize}"
            )
        values = np.frombuffer(data, dtype, count, start).astype(dtype.newbyteorder("="))
    if values.size and int(values.max()) > top:
        values = np.minimum(values, top)
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Samples(values.reshape(shape), top, "rgb" if channels == 3 else "grey")


def _header(data: bytes) -> tuple[int, int, int, int, int]:
    """Return (kind 1..6, height, width, largest value, position of the first sample)."""
    numbers = 2 if data[1:2] in (b"1", b"4") else 3
    number = rb"(\d{1,%d})" % _MOST_DIGITS
    found = re.match(rb"P([1-6])" + (_SPACE + number) * numbers + rb"\s", data)
    if found is None:
        raise ImageError("cannot decode this PNM: its header is damaged, expected a size and the largest value")
    width, height = int(found[2]), int(found[3])
    top = int(found[4]) if numbers == 3 else 1
    if not (width and height and 1 <= top <= 65535):
        raise ImageError(f"cannot decode this PNM: it states {height} x {width} pixels of values up to {top}")
    return int(found[1]), height, width, top, found.end()


def _bits(data: bytes, start: int, height: int, width: int) -> np.ndarray:
    """Read the bits of a binary PBM; 1 is black."""
    row = (width + 7) // 8
    if len(data) - start < row * height:
        raise ImageError(f"cannot decode this PNM: it is cut short: {len(data) - start} bytes of {row * height}")
    packed = np.frombuffer(data, np.uint8, row * height, start).reshape(height, row)
    return 1 - np.unpackbits(packed, axis=1)[:, :width]


def _numbers(text: bytes, kind: int, count: int) -> np.ndarray:
    """Read the numbers of a text file; in PBM, digits may touch, and 1 is black."""
    text = re.sub(rb"#[^\n]*\n?", b" ", text)
    if len(text) < (count if kind == 1 else 2 * count - 1):  # numpy allocates for all values before it reads one
        raise ImageError(f"cannot decode this PNM: it is cut short: {len(text)} bytes for {count} values")
    if kind == 1:
        digits = np.frombuffer(text, np.uint8)
        digits = digits[(digits == ord("0")) | (digits == ord("1"))][:count]
        values = ord("1") - digits
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy warns so about text that is not a number
            try:
                values = np.fromstring(text.decode("latin-1"), np.int64, count, sep=" ")
            except ValueError:  # newer numpys raise it instead
                raise ImageError("cannot decode this PNM: it has text between its numbers") from None
        if values.size and values.min() < 0:
            raise ImageError("cannot decode this PNM: a value is below zero")
        values = np.minimum(values, 65535).astype(np.uint16)
    if len(values) < count:
        raise ImageError(f"cannot decode this PNM: it is cut short or damaged: {len(values)} values of {count}")
    return values
