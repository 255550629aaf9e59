"""Reads TIFF pictures of any depth and layout with tifffile; without it, OpenCV reads plain ones."""

import importlib
import io
import itertools
import logging
import math
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import cv2
import numpy as np

from ppsolo.data.headers import check_jpeg
from ppsolo.data.jpeg2000 import check_jpeg2000
from ppsolo.data.pixels import PixelSettings, Samples, check_size
from ppsolo.errors import ImageError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

REMEDY = "pip install 'ppsolo[images]' (tifffile and imagecodecs)"
_MOST_PAGES = 500_000
_MOST_TAGS = 4096  # of a directory: tifffile refuses more
_SUB_DIRECTORIES = 330  # the tag with their places
_BYTES_PER_PIXEL = 8  # decoded bytes allowed per pixel, at the largest number of pixels

# Compressions whose decoders write into a buffer of known size. Other formats state sizes of their own.
_PLAIN = frozenset({1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000})
_JPEG, _JPEG_2000 = frozenset({7}), frozenset({33003, 33004, 33005, 34712})
_ALPHA_ASSOCIATED, _ALPHA = 1, 2
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MIN_IS_WHITE, _GREY, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_KNOWN_COLOURS = frozenset({_MIN_IS_WHITE, _GREY, _RGB, _PALETTE, _SEPARATED, _YCBCR})


def decode_tiff(stream: BinaryIO, *, max_pixels: int, settings: PixelSettings) -> tuple[Samples, int, list[str]]:
    """Decode a page; return its samples, its EXIF orientation 1..8, and lines for the user.

    Raises ImageError: too many pixels or bytes, damage, no such page, or a kind without an installed reader.
    """
    try:
        tifffile = importlib.import_module("tifffile")
    except ModuleNotFoundError:
        return _decode_plain(stream.read(), max_pixels, settings)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # ppsolo reports damage itself, once
    try:
        return _decode(tifffile, stream, max_pixels, settings)
    except ImageError:
        raise
    except Exception as error:  # for a damaged file, a parser may raise anything
        if "imagecodecs" in str(error):
            raise ImageError(f"this TIFF needs {REMEDY}") from None
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ImageError(f"tifffile cannot decode this TIFF, it is damaged, cut short or unusual ({reason})") from None


def _decode(
    tifffile: ModuleType, stream: BinaryIO, max_pixels: int, settings: PixelSettings
) -> tuple[Samples, int, list[str]]:
    notes = []
    with tifffile.TiffFile(stream, _multifile=False) as tif:
        check_chain(tif)
        series = [one for one in tif.series if not one.keyframe.subfiletype & (_REDUCED | _MASK)] or tif.series[:1]
        if not series:
            raise ImageError("tifffile cannot decode this TIFF: it has no picture, or is damaged or cut short")
        counts = [math.prod(_outer(one).values()) for one in series]
        wanted = settings.page or 0
        if wanted >= sum(counts):
            raise ImageError(f"the TIFF has {sum(counts)} pages, but preprocess.page is {wanted}; pages count from 0")
        if sum(counts) > 1 and settings.page is None:
            notes.append(f"it has {sum(counts)} pages, the first is read; preprocess.page chooses another")
        which = 0
        while wanted >= counts[which]:
            wanted -= counts[which]
            which += 1
        one = series[which]
        page: Any = one.keyframe
        check_directory(tif, page)
        check_page(page, max_pixels)
        values = _read(tif, one, wanted, max_pixels)
        tag = page.tags.get(274)
        orientation = tag.value if tag is not None and tag.value in range(1, 9) else 1
        return colours(values, page, keep_all=bool(settings.channels)), int(orientation), notes


def _outer(series: "TiffPageSeries") -> dict[str, int]:
    """Return the axes of a series that are neither picture nor channel axes, with their lengths: time, depth, ..."""
    return {axis: size for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXSC"}


def check_chain(tif: "TiffFile") -> None:
    """Raise ImageError if the directories form a circle, overlap, or are far too many: tifffile may not end then."""
    kind, stream = tif.tiff, tif.filehandle
    known: set[int] = set()
    taken = 0
    at = int(tif.pages.first.offset)
    while 0 < at < stream.size:
        if at in known or len(known) >= _MOST_PAGES:
            what = "form a circle" if at in known else f"are more than {_MOST_PAGES}"
            raise ImageError(f"the TIFF is damaged: its directories {what}")
        known.add(at)
        length = 0
        for length in _directory_lengths(tif, at):
            taken += length
            if taken > stream.size:  # every directory has its own bytes
                raise ImageError("the TIFF is damaged: its directories overlap")
        end = min(at + length, stream.size)  # of a file that is cut short, tifffile takes the last bytes
        stream.seek(max(end - kind.offsetsize, at + kind.tagnosize))
        following = stream.read(kind.offsetsize)
        at = int.from_bytes(following, _order(tif)) if length and len(following) == kind.offsetsize else 0


def _directory_lengths(tif: "TiffFile", at: int) -> Iterator[int]:
    """Yield the bytes of each sub-directory of the directory at `at`, then its own; nothing if tifffile stops there."""
    kind, stream, order = tif.tiff, tif.filehandle, _order(tif)

    def tags(place: int) -> int:
        stream.seek(place)
        return int.from_bytes(stream.read(kind.tagnosize), order)

    number = tags(at)
    if number > _MOST_TAGS:
        return
    entries = stream.read(number * kind.tagsize)
    around = kind.tagnosize + kind.offsetsize
    for tag, width, length, values in _entries(tif, entries):
        if tag != _SUB_DIRECTORIES:
            continue
        if length > kind.offsetsize:
            stream.seek(int.from_bytes(values, order))
            values = stream.read(min(length, stream.size))
        for first in range(0, min(length, len(values)), width or 1):
            more = tags(int.from_bytes(values[first : first + width], order))
            yield around + (more if more <= _MOST_TAGS else 0) * kind.tagsize
    yield around + number * kind.tagsize


def _entries(tif: "TiffFile", entries: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the tag of each entry, the bytes of a value and of all values, and the values or else their place."""
    kind, order = tif.tiff, _order(tif)
    for start in range(0, len(entries) - kind.tagsize + 1, kind.tagsize):
        tag = int.from_bytes(entries[start : start + 2], order)
        width = _TYPE_SIZES.get(int.from_bytes(entries[start + 2 : start + 4], order), 0)
        count = int.from_bytes(entries[start + 4 : start + 4 + kind.offsetsize], order)
        yield tag, width, width * count, entries[start + 4 + kind.offsetsize : start + kind.tagsize]


def _order(tif: "TiffFile") -> Literal["little", "big"]:
    return "little" if tif.byteorder == "<" else "big"


def check_directory(tif: "TiffFile", page: "TiffPage") -> None:
    """Raise ImageError if the file ends within the directory of a page or a value of it, or states too many strips."""
    kind, stream, order = tif.tiff, tif.filehandle, _order(tif)
    stream.seek(page.offset)
    entries = stream.read(kind.tagnosize + kind.tagsize * (len(page.tags) + 1))
    number = int.from_bytes(entries[: kind.tagnosize], order)
    ends = [page.offset + kind.tagnosize + number * kind.tagsize + kind.offsetsize]
    for _, _, length, place in itertools.islice(_entries(tif, entries[kind.tagnosize :]), number):
        start = int.from_bytes(place, order)
        if length > kind.offsetsize and start < stream.size:
            ends.append(start + length)
    if max(ends) > stream.size:
        raise ImageError(f"tifffile cannot decode this TIFF: it is cut short, {stream.size} bytes of {max(ends)}")
    if math.prod(page.chunked) > stream.size:  # each would take time, whatever it holds
        raise ImageError("the TIFF is damaged: it states more strips or tiles than it has bytes")


def check_page(page: "TiffPage", max_pixels: int) -> None:
    """Raise ImageError for a page that needs too much memory, before it is decoded."""
    check_size(page.imagelength, page.imagewidth, max_pixels)
    if page.dtype is None:
        raise ImageError(f"the TIFF holds samples of {page.bitspersample} bits of an unusual kind")
    if page.photometric not in _KNOWN_COLOURS:
        raise ImageError(
            f"the TIFF holds {getattr(page.photometric, 'name', page.photometric)}: save it as grey or RGB"
        )
    if page.is_tiled:
        check_size(page.tilelength, page.tilewidth, max_pixels)
    limit = _BYTES_PER_PIXEL * max_pixels
    sizes = (page.shape, page.chunks)
    if max(math.prod(size) for size in sizes) * page.dtype.itemsize > limit:
        raise ImageError(f"the TIFF decodes to more than {limit} bytes: cut it up, shrink it or save fewer channels")
    compression = int(page.compression)
    if compression not in _PLAIN | _JPEG | _JPEG_2000:
        name = getattr(page.compression, "name", compression)
        raise ImageError(f"the TIFF is compressed by {name}: save it with deflate, zstd or LZW")


def _read(tif: "TiffFile", series: "TiffPageSeries", wanted: int, max_pixels: int) -> np.ndarray:
    """Return one page of a series, [H, W] or [H, W, C]. C counts the channels, stored together or as pages."""
    outer = _outer(series)
    place = dict(zip(outer, np.unravel_index(wanted, tuple(outer.values()) or (1,)), strict=False))
    axes = series.axes
    inner = min(axes.find(axis) for axis in "YXS" if axis in axes) if "Y" in axes and "X" in axes else -1
    if inner < 0:
        raise ImageError(f"the TIFF has the axes {axes}, which hold no picture")
    leading = axes[:inner]
    steps = [
        range(size) if axis == "C" else [int(place[axis])] for axis, size in zip(leading, series.shape, strict=False)
    ]
    shape = series.shape[:inner]
    planes = []
    channels = math.prod(len(step) for step in steps)
    if channels * math.prod(series.keyframe.shape) * series.dtype.itemsize > _BYTES_PER_PIXEL * max_pixels:
        raise ImageError(f"the TIFF has {channels} channels, too many bytes: save fewer")
    for indices in itertools.product(*steps):
        flat = int(np.ravel_multi_index(indices, shape)) if shape else 0
        plane = _plane(tif, series, flat, pages=math.prod(shape), shape=series.shape[inner:])
        planes.append(_rows_columns_channels(plane, axes[inner:], place))
    if len(planes) == 1:
        return planes[0]
    return np.concatenate([plane if plane.ndim == 3 else plane[:, :, None] for plane in planes], axis=2)


def _plane(tif: "TiffFile", series: "TiffPageSeries", flat: int, *, pages: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the samples at position `flat` of the leading axes, with the shape of the other axes."""
    size = tif.filehandle.size
    if series.dataoffset is not None:  # the pages are stored one after another
        dtype = series.dtype.newbyteorder(tif.byteorder)
        count = math.prod(shape)
        start = series.dataoffset + flat * count * dtype.itemsize
        if start + count * dtype.itemsize > size:
            raise ImageError(f"tifffile cannot decode this TIFF: it is cut short, {size} bytes")
        tif.filehandle.seek(start)
        data = tif.filehandle.read(count * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    if len(series.pages) != pages:
        raise ImageError(f"the TIFF has an unusual order of pages ({series.axes}): save it as one page each")
    page: Any = series.pages[flat]
    if page is None:
        raise ImageError("this page of the TIFF is in another file, or missing")
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start + length > size:
            raise ImageError(f"tifffile cannot decode this TIFF: it is cut short, {size} bytes")
    check_segments(tif, page)
    return page.asarray(maxworkers=1).reshape(shape)


def check_segments(tif: "TiffFile", page: Any) -> None:
    """Check that strips or tiles state a length; and JPEG and JPEG 2000, whose headers state sizes of their own."""
    if any(start and not length for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise ImageError("the TIFF is damaged: a strip or tile has no length")  # omitted ones have no place either
    compression, largest = int(page.keyframe.compression), 4 * math.prod(page.keyframe.chunks[:2])
    if compression in _PLAIN:
        return
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if length:
            tif.filehandle.seek(start)
            (check_jpeg if compression in _JPEG else check_jpeg2000)(tif.filehandle.read(length), largest)


def _rows_columns_channels(plane: np.ndarray, axes: str, place: dict[str, Any]) -> np.ndarray:
    """Return [H, W] or [H, W, C] of an array with these axes; other axes than Y, X, S and C are indexed by `place`."""
    for axis in [axis for axis in axes if axis not in "YXSC"]:
        plane = np.take(plane, int(place[axis]), axis=axes.index(axis))
        axes = axes.replace(axis, "")
    channels = [axes.index(axis) for axis in axes if axis in "SC"]
    plane = plane.transpose([axes.index("Y"), axes.index("X"), *channels])
    return plane.reshape(*plane.shape[:2], -1) if channels else plane


def colours(values: np.ndarray, page: Any, *, keep_all: bool) -> Samples:
    """Convert samples to grey or colour: look up palettes, turn ink to light, apply opacity unless `keep_all`."""
    if values.dtype == bool:
        values = values.astype(np.uint8)
    bits = int(page.bitspersample)
    top = 2**bits - 1 if values.dtype.kind == "u" else None
    if values.dtype.kind == "i":
        top = int(np.iinfo(values.dtype).max)
    names: Literal["grey", "rgb", "bands"] = "grey" if values.ndim == 2 else "bands"
    if page.photometric == _PALETTE and page.colormap is not None and values.ndim == 2:
        colours = page.colormap.T
        colours = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
        return Samples(colours[np.minimum(values, len(colours) - 1)], 255)
    if page.photometric == _MIN_IS_WHITE and top is not None:
        values = (top - values).astype(values.dtype)
    if values.ndim == 2:
        return Samples(values, top, names)
    extra = [int(kind) for kind in page.extrasamples]
    colour = values.shape[2] - len(extra) if page.samplesperpixel == values.shape[2] else values.shape[2]
    if page.photometric == _SEPARATED and colour == 4 and top is not None:
        light = (top - values[:, :, :4]).astype(np.float32)
        return Samples(np.rint(light[:, :, :3] * light[:, :, 3:] / top).astype(values.dtype), top)
    if keep_all or not extra:
        return Samples(values, top, names)
    kinds = [kind for kind in extra if kind in (_ALPHA_ASSOCIATED, _ALPHA)]
    if len(kinds) != len(extra) or colour not in (1, 3):
        return Samples(values, top, names)  # extra bands, none marked as opacity
    shown = values[:, :, :colour]
    if kinds == [_ALPHA] and top is not None:  # on black, like libtiff
        shown = np.rint(shown * (values[:, :, colour:].astype(np.float32) / top)).astype(values.dtype)
    return Samples(shown[:, :, 0] if colour == 1 else shown, top, "grey" if colour == 1 else "rgb")


def _decode_plain(data: bytes, max_pixels: int, settings: PixelSettings) -> tuple[Samples, int, list[str]]:
    """Decode with OpenCV if it reads this kind correctly; otherwise raise ImageError with the remedy."""
    tags = first_tags(data, max_pixels)
    _check_plain(tags)
    if settings.page:
        raise ImageError(f"to choose a page of a TIFF needs {REMEDY}")
    deep = tags[258][0] == 16
    flags = cv2.IMREAD_UNCHANGED if deep else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"OpenCV cannot decode this TIFF ({error.err})") from None
    if image is None:
        raise ImageError(f"OpenCV cannot decode this TIFF: it is damaged, cut short or unusual; {REMEDY} reads more")
    check_size(image.shape[0], image.shape[1], max_pixels)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    samples = Samples(image, 65535 if deep else 255, "grey" if image.ndim == 2 else "rgb")
    return samples, 1, []  # OpenCV has turned it, whatever it was told


def first_tags(data: bytes, max_pixels: int) -> dict[int, list[int]]:
    """Return the tags of the first page that state its size and the form of its samples, read as OpenCV reads them.

    Raises ImageError: too many pixels or bytes, or tags in an unusual form.
    """
    order = "little" if data[:2] == b"II" else "big"

    def number(position: int, width: int) -> int:
        return int.from_bytes(data[position : position + width], order)

    if number(2, 2) == 43:
        raise ImageError(f"BigTIFF needs {REMEDY}")
    tags: dict[int, list[int]] = {}
    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        tag, kind, count = number(entry, 2), number(entry + 2, 2), number(entry + 4, 4)
        if tag not in (256, 257, 258, 259, 262, 274, 277, 284, 322, 323, 338, 339):
            continue
        if kind not in (3, 4) or not 1 <= count <= 8 or tag in tags:
            raise ImageError(f"the TIFF states its tag {tag} in an unusual way; {REMEDY} reads more")
        width = 2 if kind == 3 else 4
        start = entry + 8 if width * count <= 4 else number(entry + 8, 4)
        tags[tag] = [number(start + i * width, width) for i in range(count)]
    if 256 not in tags or 257 not in tags:
        raise ImageError("OpenCV cannot decode this TIFF: its directory states no size; it is damaged or cut short")
    for width, length in ((256, 257), (322, 323)):
        if width in tags:
            check_size(tags.get(length, [0])[0], tags[width][0], max_pixels)
    tags.setdefault(258, [1])
    limit = _BYTES_PER_PIXEL * max_pixels
    if tags[257][0] * tags[256][0] * tags.get(277, [1])[0] * max(tags[258]) > 8 * limit:
        raise ImageError(f"the TIFF decodes to more than {limit} bytes: cut up, shrink or save fewer channels")
    return tags


def _check_plain(tags: dict[int, list[int]]) -> None:
    """Raise ImageError if OpenCV would read the page wrongly."""
    colour, samples, extra = tags.get(262, [1])[0], tags.get(277, [1])[0], tags.get(338, [])
    right = (
        set(tags[258]) in ({1}, {8}, {16})
        and set(tags.get(339, [1])) == {1}
        and tags.get(259, [1])[0] in (1, 5, 7, 8, 32773, 32946)
        and tags.get(284, [1])[0] == 1
        and samples in (1, 3, 4)
        and (samples < 4 or (colour == _RGB and extra in ([_ALPHA_ASSOCIATED], [_ALPHA]) and set(tags[258]) == {8}))
        and (colour in (_GREY, _RGB) or (colour in (_MIN_IS_WHITE, _PALETTE, _YCBCR) and tags[258][0] <= 8))
        and not (colour == _GREY and samples > 1)  # OpenCV exchanges the colours
    )
    if not right:
        raise ImageError(f"this kind of TIFF needs {REMEDY}")


def as_stream(data: bytes) -> BinaryIO:
    """Return the bytes as a file object."""
    return io.BytesIO(data)
