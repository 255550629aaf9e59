"""Headers of picture files: the format, the size, and whether the file is complete."""

import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

from ppsolo.data.pixels import check_size
from ppsolo.errors import ImageError

# Scans of a progressive JPEG: ten are usual, and each costs a pass over all pixels.
MOST_SCANS, MOST_SCANS_OF_LARGE = 100, 20
_LARGE = 2**25  # pixels


class Format(NamedTuple):
    """A format of picture files.

    name: for messages. magic: its first bytes. check: refuses too many pixels and truncated files before the decoder
    runs (None: the decoder does both).
    """

    name: str
    magic: re.Pattern[bytes]
    check: Callable[[bytes, int], None] | None


def format_of(data: bytes) -> Format:
    """Return the format with these first bytes. Raises ImageError for unknown ones."""
    for known in FORMATS:
        if known.magic.match(data):
            return known
    if _VIDEO.match(data):
        raise ImageError("a video, not a picture: `ppsolo infer --source` reads videos; in Python, give its frames")
    names = ", ".join(known.name for known in FORMATS)
    raise ImageError(f"not an image that can be read ({names})")


# MP4 and MOV, Matroska and WebM, AVI, MPEG, FLV. AVIF and HEIC are known before.
_VIDEO = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\x00\x00\x01\xba|FLV\x01", re.DOTALL)


def is_picture(head: bytes) -> bool:
    """Whether these bytes (32 are enough) begin a picture in a readable format."""
    return any(known.magic.match(head) for known in FORMATS)


# A marker that opens a segment or ends the file (ITU-T T.81, table B.1). Not stuffing (FF00), fill bytes (FFFF), TEM
# (FF01) or restarts (FFD0..FFD7), which occur inside compressed data.
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def check_jpeg(data: bytes, max_pixels: int) -> None:
    """Walk the segments (ITU-T T.81, annex B) to the end-of-image marker; a truncated file lacks it."""
    at, scans, most = 2, 0, MOST_SCANS
    while found := _JPEG_MARKER.search(data, at):
        at = found.end()
        marker = data[at - 1]
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        if scans > most:
            raise ImageError(f"the JPEG has more than {most} scans: save it as a baseline JPEG")
        if marker < 0xC0 or marker == 0xD8 or 0xF0 <= marker <= 0xFD:
            raise ImageError(f"the JPEG is damaged: impossible marker 0x{marker:02X} at byte {at - 1}")
        if marker in _JPEG_FRAME_MARKERS and at + 7 <= len(data):
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (3, 5))
            check_size(height, width, max_pixels)
            most = MOST_SCANS_OF_LARGE if height * width > _LARGE else most
        at += int.from_bytes(data[at : at + 2], "big")
    raise ImageError(f"the JPEG is cut short: no end-of-image marker in its {len(data)} bytes")


def is_animated_png(data: bytes) -> bool:
    """Whether a PNG has the chunk acTL, fcTL or fdAT of an animation."""
    at = 8
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] in (b"acTL", b"fcTL", b"fdAT"):
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def without_packed_texts(png: bytes) -> bytes:
    """Leave out a PNG's compressed texts and colour profiles: a few hundred kilobytes can unpack to gigabytes."""
    kept, at, first = [], 8, 0
    while at + 8 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] in (b"zTXt", b"iTXt", b"iCCP"):
            kept.append(png[first:at])
            first = end
        at = end
    return b"".join([*kept, png[first:]]) if kept else png


def _check_png(data: bytes, max_pixels: int) -> None:
    """Walk the chunks (PNG specification, chunk layout) to IEND and check the checksum of each."""
    if data[12:16] == b"IHDR" and len(data) >= 24:
        check_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), max_pixels)
    view = memoryview(data)
    at, kind = 8, b""
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            raise ImageError(f"the PNG is cut short: no IEND chunk in its {len(data)} bytes")
        kind = data[at + 4 : at + 8]
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageError(f"the PNG is damaged: wrong checksum of the chunk at byte {at}")
        if (kind == b"IHDR") != (at == 8):
            raise ImageError("the PNG is damaged: its header is not its first and only one")
        at = end


def _check_webp(data: bytes, max_pixels: int) -> None:
    expected = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < expected or len(data) < 30:
        raise ImageError(f"the WebP is cut short: {len(data)} bytes of {max(expected, 30)}")
    at = 12
    while at + 18 <= len(data):  # check every frame, not only the canvas
        kind, start = data[at : at + 4], at + 8
        if kind in (b"VP8X", b"ANMF"):
            first = start + (4 if kind == b"VP8X" else 6)
            width, height = (1 + int.from_bytes(data[i : i + 3], "little") for i in (first, first + 3))
            check_size(height, width, max_pixels)
        elif kind == b"VP8L":
            packed = int.from_bytes(data[start + 1 : start + 5], "little")
            check_size(1 + (packed >> 14 & 0x3FFF), 1 + (packed & 0x3FFF), max_pixels)
        elif kind == b"VP8 ":
            width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (start + 6, start + 8))
            check_size(height, width, max_pixels)
        if kind == b"ANMF":
            at = start + 16  # its own chunks follow
        else:
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            at = start + size + size % 2


def _check_bmp(data: bytes, max_pixels: int) -> None:
    """Windows headers have 32-bit sizes; the first header of OS/2 (12 bytes long) has 16-bit sizes."""
    if int.from_bytes(data[14:18], "little") == 12:
        width, height = (int.from_bytes(data[at : at + 2], "little") for at in (18, 20))
    else:
        width, height = (abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22))
    if len(data) >= 26:
        check_size(height, width, max_pixels)


def _check_pnm(data: bytes, max_pixels: int) -> None:
    from ppsolo.data.pnm import read_size

    check_size(*read_size(data), max_pixels)


def _check_gif(data: bytes, max_pixels: int) -> None:
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (6, 8))
    check_size(height, width, max_pixels)


def _check_jpeg2000(data: bytes, max_pixels: int) -> None:
    from ppsolo.data.jpeg2000 import check_jpeg2000

    check_jpeg2000(data, max_pixels)


def _check_heif(data: bytes, max_pixels: int) -> None:
    """Check the sizes of all pictures in an AVIF or HEIC file: its boxes `ispe` (ISO 23008-12, 6.5.3)."""
    found = list(re.finditer(rb"ispe", data))
    if not found:
        raise ImageError("it states no picture size: it is damaged or cut short")
    for start in found:
        width, height = (int.from_bytes(data[start.end() + at : start.end() + at + 4], "big") for at in (4, 8))
        check_size(height, width, max_pixels)


FORMATS = (
    Format("JPEG", re.compile(rb"\xff\xd8\xff"), check_jpeg),
    Format("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _check_png),
    Format("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _check_webp),
    Format("BMP", re.compile(rb"BM"), _check_bmp),
    Format("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]"), None),
    Format("PNM", re.compile(rb"P[1-6][\s#]"), _check_pnm),
    Format("GIF", re.compile(rb"GIF8[79]a"), _check_gif),
    Format("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), _check_jpeg2000),
    Format("AVIF", re.compile(rb".{4}ftyp(?:avif|avis)", re.DOTALL), _check_heif),
    Format("HEIC", re.compile(rb".{4}ftyp(?:hei[cfxms]|hevc|hevx|mif1|msf1)", re.DOTALL), _check_heif),
)
