"""Pictures: found, numbered, read into uint8 RGB arrays and written, or refused with a reason."""

import glob
import itertools
import os
import re
import stat
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.errors import ImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 2**28  # 16384 x 16384: 805 MB once decoded
MOST_SCANS = 100  # of a progressive JPEG; ten are usual, and each costs a pass over all pixels
MAX_FILE_BYTES = 2**31 - 1  # OpenCV counts the bytes of a file in 32 bits

Source = str | os.PathLike | np.ndarray
SourceType = TypeVar("SourceType", bound=Source)


def read_image(source: Source) -> np.ndarray:
    """The picture as uint8 [H, W, 3], RGB, 0..255, C-contiguous.

    A file is known by its content, not its suffix: JPEG, PNG, WebP, BMP, TIFF or PNM. The pixels are those of
    `cv2.imdecode(..., IMREAD_COLOR)`, turned upright where EXIF says so (in WebP too, with any OpenCV):

    - grey and palette become RGB; CMYK is taken as Adobe writes it, inverted, without a colour profile;
    - 16 bits become 8, within one level of v / 257; float is refused;
    - alpha is dropped, colour as stored (PNG, WebP); TIFF alone gives colour times alpha, as if on black;
    - of an animated WebP, the first frame; of a TIFF, the first page; GIF and animated PNG are refused.

    A file that is cut short is refused, and so is a PNG with a wrong checksum. Damage within the compressed
    data of a JPEG is noticed only where it leaves an impossible marker.

    An array must be uint8 [H, W, 3] RGB already; it is returned itself, or a copy if it is not C-contiguous.

    Raises ImageError, in one line: what is refused (path or array) and why.
    """
    if isinstance(source, np.ndarray):
        return checked_array(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"expected a path or a uint8 [H, W, 3] RGB array, got {type(source).__name__}")
    data = _file_bytes(Path(source))
    try:
        return decode_image(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from None


def checked_array(image: np.ndarray) -> np.ndarray:
    """The array itself, or a copy if it is not C-contiguous; ImageError if it is not uint8 [H, W, 3]."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0:
        _check_size(image.shape[0], image.shape[1], MAX_PIXELS)
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
    else:
        remedy = "values 0..255, rounded and clipped, then image.astype(numpy.uint8)"
    expected = f"expected uint8 [H, W, 3] RGB ({remedy})"
    raise ImageError(f"image array of dtype {image.dtype} and shape {list(image.shape)}: {expected}")


def _file_bytes(path: Path) -> bytes:
    size = regular_file(path).st_size
    if size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{path}: {size} bytes are too many for an image (at most {MAX_FILE_BYTES})")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def regular_file(path: Path) -> os.stat_result:
    """What `stat` says of a readable regular file; ImageError for others: a pipe or device may wait for ever."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"{str(path)!r}: cannot be read ({error})") from None
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path}: a directory, expected a file")
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path}: a pipe, socket or device, expected a regular file")
    if not os.access(path, os.R_OK):
        raise ImageError(f"{path}: cannot be read (Permission denied)")
    return found


def decode_image(data: bytes, *, max_pixels: int) -> np.ndarray:
    """The bytes of an image file -> the pixels, as `read_image` gives them; more than `max_pixels` are refused.

    The size that the file states is looked at before a pixel is decoded. ImageErrors do not know the file's name.
    """
    name, check = next(((name, check) for name, magic, check in _FORMATS if magic.match(data)), (None, None))
    if name is None or check is None:
        names = ", ".join(name for name, _, _ in _FORMATS)
        raise ImageError(f"not an image that can be read ({names}): it begins with {data[:12]!r}")
    check(data, max_pixels)
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if name == "WebP" else 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"OpenCV cannot decode this {name} ({error.err})") from None
    if image is None:
        raise ImageError(f"OpenCV cannot decode this {name}: it is damaged, cut short or of an unusual kind")
    _check_size(image.shape[0], image.shape[1], max_pixels)
    if name == "WebP":
        image = _upright(image, _webp_orientation(data))
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(f"{height} x {width} pixels are too many (at most {max_pixels}): cut up or shrink")


# A marker that opens a segment or ends the file (ITU-T T.81, table B.1): not stuffing (FF00), filling (FFFF),
# TEM (FF01) or a restart (FFD0..FFD7), which stand among compressed data.
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _check_jpeg(data: bytes, max_pixels: int) -> None:
    """Walks the segments (ITU-T T.81, annex B) to the end-of-image marker, which a file cut short lacks."""
    at, scans = 2, 0
    while found := _JPEG_MARKER.search(data, at):
        at = found.end()
        marker = data[at - 1]
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        if scans > MOST_SCANS:
            raise ImageError(f"the JPEG has more than {MOST_SCANS} scans: save it as a baseline JPEG")
        if marker < 0xC0 or marker == 0xD8 or 0xF0 <= marker <= 0xFD:
            raise ImageError(f"the JPEG is damaged: impossible marker 0x{marker:02X} at byte {at - 1}")
        if marker in _JPEG_FRAME_MARKERS:
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (3, 5))
            _check_size(height, width, max_pixels)
        at += int.from_bytes(data[at : at + 2], "big")
    raise ImageError(f"the JPEG is cut short: no end-of-image marker in its {len(data)} bytes")


def _check_png(data: bytes, max_pixels: int) -> None:
    """Walks the chunks (PNG specification, chunk layout) to IEND and sums each one.

    Those of an animation are refused: where they are damaged, OpenCV 4.11 overruns its memory.
    """
    _check_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), max_pixels)
    view = memoryview(data)
    at, kind = 8, b""
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            raise ImageError(f"the PNG is cut short: no IEND chunk in its {len(data)} bytes")
        kind = data[at + 4 : at + 8]
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageError(f"the PNG is damaged: wrong checksum of the chunk at byte {at}")
        if kind in (b"acTL", b"fcTL", b"fdAT"):
            raise ImageError("an animated PNG: save one frame as an image")
        at = end


def _check_webp(data: bytes, max_pixels: int) -> None:
    expected = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < expected:
        raise ImageError(f"the WebP is cut short: {len(data)} bytes of {expected}")
    if data[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_size(height, width, max_pixels)


def _check_bmp(data: bytes, max_pixels: int) -> None:
    width, height = (abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22))
    _check_size(height, width, max_pixels)


def _check_tiff(data: bytes, max_pixels: int) -> None:
    """Looks up the sizes of the first page, and of its tiles, in its directory (TIFF 6.0, section 2)."""
    for width, length in ((0x0100, 0x0101), (0x0142, 0x0143)):
        _check_size(_tiff_value(data, length), _tiff_value(data, width), max_pixels)


_PNM_SIZE = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})")


def _check_pnm(data: bytes, max_pixels: int) -> None:
    if found := _PNM_SIZE.match(data):
        _check_size(int(found[2]), int(found[1]), max_pixels)


# Name, first bytes, check: what is too large is refused before it is decoded, and what is cut short is named so,
# before OpenCV's libraries complain on stderr. For the last two the decoder's own refusal of the latter must do.
_FORMATS: tuple[tuple[str, re.Pattern[bytes], Callable[[bytes, int], None]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), _check_jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _check_png),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _check_webp),
    ("BMP", re.compile(rb"BM"), _check_bmp),
    ("TIFF", re.compile(rb"II\*\0|MM\0\*"), _check_tiff),
    ("PNM", re.compile(rb"P[1-6]\s"), _check_pnm),
)


def _webp_orientation(data: bytes) -> int:
    """EXIF orientation 1..8 of a WebP, 1 where it states none: OpenCV 4.11 does not look, OpenCV 5 does."""
    if data[12:16] != b"VP8X":  # only the extended layout holds EXIF
        return 1
    at = 12
    while at + 8 <= len(data) and data[at : at + 4] != b"EXIF":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    orientation = _tiff_value(data[at + 8 :].removeprefix(b"Exif\0\0"), 0x0112)
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_value(tiff: bytes, tag: int) -> int:
    """The first value of a tag in the first directory of a TIFF, which EXIF is too; 0 where it is not there."""
    order = "little" if tiff[:2] == b"II" else "big"

    def number(position: int, width: int) -> int:
        return int.from_bytes(tiff[position : position + width], order)

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(entry, 2) == tag:
            return number(entry + 8, 4 if number(entry + 2, 2) == 4 else 2)
    return 0


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation (Exif 2.3, tag 0x0112): transposed from 5 on, then mirrored."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def read_ahead(
    sources: Iterable[SourceType], *, depth: int = 4
) -> Generator[tuple[SourceType, np.ndarray | ImageError], None, None]:
    """Yields (source, what `read_image` returns or the ImageError it raises) in the order of `sources`.

    One background thread reads at most `depth` (>= 1) images ahead of the one that was yielded last, so that
    no more than depth + 1 are held. Closing the generator ends the thread. Other exceptions are raised here.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    ahead = deque()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read_ahead")
    try:
        for source in sources:
            ready = _first_of(ahead) if len(ahead) == depth else None
            ahead.append((source, executor.submit(_image_or_error, source)))
            if ready is not None:
                yield ready
        while ahead:
            yield _first_of(ahead)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _first_of(ahead: deque[tuple[SourceType, Future]]) -> tuple[SourceType, np.ndarray | ImageError]:
    source, future = ahead.popleft()
    return source, future.result()


def _image_or_error(source: Source) -> np.ndarray | ImageError:
    try:
        return read_image(source)
    except ImageError as error:
        return ImageError(str(error))  # without its traceback, which holds the bytes of the file


def list_images(directory: str | os.PathLike) -> list[Path]:
    """The files of a directory with a suffix in IMAGE_SUFFIXES (in any case), in natural order: 2 before 10.

    Hidden files and sub-directories are left out. Raises ImageError where there is no directory or no image.
    """
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise ImageError(f"{directory}: cannot be listed as a directory ({error.strerror})") from None
    found = _listed(Path(directory, name) for name in names)
    if not found:
        raise ImageError(f"{directory}: no image in this directory ({', '.join(IMAGE_SUFFIXES)})")
    return found


def expand_images(pattern_or_path: str | os.PathLike) -> list[Path]:
    """The images that a file, a directory or a pattern (`*`, `?`, `[a-z]`; `**` for any depth) names.

    What exists under that very name is taken literally, a file whatever its suffix. Of what a pattern matches
    the files that `list_images` would list are kept, each once, in natural order. ImageError for no image.
    """
    text = os.fspath(pattern_or_path)
    if os.path.isdir(text):
        return list_images(text)
    if os.path.lexists(text):
        regular_file(Path(text))
        return [Path(text)]
    if not glob.has_magic(text):
        raise ImageError(f"{text}: no such file or directory")
    matches = glob.glob(text, recursive=True) or glob.glob(text.replace("[", "[[]"), recursive=True)
    found = _listed(map(Path, matches))
    if not found:
        raise ImageError(f"{text}: matches no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _listed(paths: Iterable[Path]) -> list[Path]:
    """The files among the paths that are visible and have an image's suffix: each once, in natural order."""
    named = {path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")}
    return sorted(filter(os.path.isfile, named), key=_natural_key)


def _natural_key(path: Path) -> tuple[list[str | int], str]:
    """Numbers compare as numbers, letters without case; what is then equal, by the exact name."""
    parts = re.split(r"([0-9]+)", str(path).casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], str(path)


def image_id_of(path: str | os.PathLike, running: int) -> int:
    """The image id that a file name states, else `running`.

    It states one if the stem is a number, with or without COCO's prefix: `000000252219.jpg` is 252219,
    `COCO_val2014_000000000042.jpg` is 42. Numbers from 2**63 on are not taken: ids are kept as int64.
    """
    stated = re.fullmatch(r"(?:COCO_\w+_)?([0-9]+)", Path(path).stem)
    return int(stated[1]) if stated and int(stated[1]) < 2**63 else running


def image_ids(paths: Sequence[str | os.PathLike]) -> list[int]:
    """A different image id for each path, in order.

    The first path to state a number (`image_id_of`) has it. Every other, without a number or with one that is
    taken, gets the smallest number from 0 on that no path states and no earlier path got.
    """
    stated = [image_id_of(path, -1) for path in paths]
    running = itertools.filterfalse(set(stated).__contains__, itertools.count())
    ids, taken = [], {-1}
    for number in stated:
        ids.append(next(running) if number in taken else number)
        taken.add(number)
    return ids


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] RGB as .png or as .jpg / .jpeg (quality 95), by suffix.

    The file appears complete or not at all. Raises ImageError for another suffix or array, or where it cannot
    be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ImageError(f"{path}: images are written as .png, .jpg or .jpeg, not as {path.suffix!r}")
    bgr = cv2.cvtColor(checked_array(image), cv2.COLOR_RGB2BGR)
    try:
        encoded, data = cv2.imencode(path.suffix.lower(), bgr)
    except cv2.error as error:
        raise ImageError(f"{path}: OpenCV cannot encode it ({error.err})") from None
    if not encoded:
        raise ImageError(f"{path}: OpenCV cannot encode {image.shape[0]} x {image.shape[1]} pixels")
    try:
        with atomic_writer(path, "wb") as stream:
            stream.write(data.tobytes())
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror})") from None
