"""Checks JPEG 2000 files (ISO 15444-1, annex A) before OpenJPEG reads them: their pixels and their parts.

OpenJPEG allocates hundreds of bytes for each part before it reads the first pixel, and a part may be a single pixel.
"""

import re
from collections.abc import Iterator

from ppsolo.data.pixels import check_size
from ppsolo.errors import ImageError

MOST_TILES = 2**16  # tiles times channels
MOST_SMALL_PARTS = 2**16  # precincts and code blocks of less than _SMALL pixels, in all channels
_SMALL = 256  # pixels of a part; usual ones have 1024 to 65536
_START = re.compile(rb"\xff\x4f\xff\x51")
_CODING, _CODING_OF_ONE, _TILE, _DATA, _END = 0x52, 0x53, 0x90, 0x93, 0xD9
# Markers of segments (table A.2 and ISO 15444-2, -3, -15). OpenJPEG looks for the next one inside an unknown segment.
_SEGMENTS = frozenset(
    [*range(0x50, 0x54), 0x55, *range(0x57, 0x5A), *range(0x5C, 0x62), 0x63, 0x64, *range(0x72, 0x79), _TILE]
)


def check_jpeg2000(data: bytes, max_pixels: int) -> None:
    """Check every codestream in the file: the marker SIZ follows its start (A.5.1). Raises ImageError."""
    found = list(_START.finditer(data))
    if not found:
        raise ImageError("the JPEG 2000 is damaged: it holds no picture")
    for start in found:
        _check_codestream(data, start.start(), max_pixels)


def _check_codestream(data: bytes, start: int, max_pixels: int) -> None:
    right, bottom, left, top, across, down = (_number(data, at, 4) for at in range(start + 8, start + 32, 4))
    check_size(bottom - top, right - left, max_pixels)
    channels = _number(data, start + 40, 2)
    first_left, first_top = _number(data, start + 32, 4), _number(data, start + 36, 4)
    if not (across and down and channels):
        raise ImageError("the JPEG 2000 is damaged: it states no tiles or no channels")
    tiles = -((first_left - right) // across) * -((first_top - bottom) // down)
    if tiles * channels > MOST_TILES:
        raise ImageError(f"the JPEG 2000 has {tiles} tiles in {channels} channels: save it with larger tiles")
    samples = (bottom - top) * (right - left) * channels
    for coding in _codings(data, start + 2, 1 if channels < 257 else 2):
        smallest = _smallest_part(coding)
        if smallest < _SMALL and samples // smallest > MOST_SMALL_PARTS:
            raise ImageError(
                f"the JPEG 2000 has precincts or code blocks of {smallest} pixels: save it with larger ones"
            )


def _codings(data: bytes, at: int, width: int) -> Iterator[bytes]:
    """Yield the coding parameters (table A.20) of all headers of a codestream. width: bytes of a channel's number."""
    tile, size = 0, 0  # place of a tile-part, and its bytes; 0 for the last one
    while at + 4 <= len(data):
        marker, length = data[at + 1], _number(data, at + 2, 2)
        if data[at] != 0xFF or marker == _END or (marker == _DATA and size == 0):
            return
        if marker == _DATA and tile + size > at:
            at = tile + size
            continue
        if marker not in _SEGMENTS or length < 2:
            raise ImageError(f"the JPEG 2000 is damaged: an impossible header at byte {at}")
        content = data[at + 4 : at + 2 + length]
        if marker == _CODING:
            yield content[:1] + content[5:]
        elif marker == _CODING_OF_ONE:
            yield content[width:]
        elif marker == _TILE:
            tile, size = at, _number(data, at + 6, 4)
        at += 2 + length


def _smallest_part(coding: bytes) -> int:
    """Pixels of the smallest precinct or code block. coding: style, levels, code block's width and height, ..."""
    if len(coding) < 6:
        raise ImageError("the JPEG 2000 is damaged: its coding parameters are cut short")
    parts = [2 ** (4 + (coding[2] & 15) + (coding[3] & 15))]
    if coding[0] & 1:
        parts += [2 ** ((sides & 15) + (sides >> 4)) for sides in coding[6:]]
    return min(parts)


def _number(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "big")
