"""Windows of a large picture: reads only the wanted part if the file allows it."""

import contextlib
import importlib
import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ppsolo.data.files import regular_file
from ppsolo.data.images import Source, read_image
from ppsolo.data.pixels import DEFAULT_SETTINGS, PixelSettings, to_rgb
from ppsolo.data.tiff import check_chain, check_directory, check_page, check_segments, colours
from ppsolo.errors import ImageError

MAX_WINDOWED_PIXELS = 2**31 - 1  # run lengths are 32-bit numbers
_MAX_SEGMENT_BYTES = 2**26  # limit of a strip or tile, which is decoded as a whole
_CACHE_BYTES = 2**27  # decoded strips and tiles kept for the next windows
_CONTIGUOUS = 1  # PlanarConfiguration


class Windows(Protocol):
    """A picture that can be read in parts. size: (height, width) in pixels."""

    size: tuple[int, int]

    def read(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Return uint8 [bottom - top, right - left, 3] RGB. Raises ImageError if this part is damaged."""
        ...


class ArrayWindows:
    """Windows of a picture in memory."""

    def __init__(self, image: np.ndarray):
        """image: uint8 [H, W, 3] RGB."""
        self._image = image
        self.size = (image.shape[0], image.shape[1])

    def read(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """See `Windows`."""
        return self._image[top:bottom, left:right]


class TiffWindows:
    """Windows of a TIFF whose strips or tiles tifffile decodes one by one."""

    def __init__(self, page: Any, settings: PixelSettings):
        """page: from tifffile, checked by `_windowed_page`."""
        self.size = (int(page.imagelength), int(page.imagewidth))
        self._page, self._settings = page, settings
        self._chunk = (int(page.chunks[0]), int(page.chunks[1]))
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached = 0

    def read(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """See `Windows`."""
        rows, columns = self._chunk
        across = math.ceil(self.size[1] / columns)
        window: np.ndarray | None = None
        for i in range(top // rows, math.ceil(bottom / rows)):
            for j in range(left // columns, math.ceil(right / columns)):
                segment = self._segment(i * across + j)
                y, x = i * rows, j * columns
                y1, y2 = max(top, y), min(bottom, y + segment.shape[0])
                x1, x2 = max(left, x), min(right, x + segment.shape[1])
                if window is None:
                    window = np.zeros((bottom - top, right - left, *segment.shape[2:]), segment.dtype)
                window[y1 - top : y2 - top, x1 - left : x2 - left] = segment[y1 - y : y2 - y, x1 - x : x2 - x]
        if window is None:
            return np.zeros((0, 0, 3), np.uint8)
        samples = colours(window, self._page, keep_all=bool(self._settings.channels))
        return to_rgb(samples, self._settings)[0]

    def _segment(self, index: int) -> np.ndarray:
        """One strip or tile, [h, w] or [h, w, C]."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        page = self._page
        offset, length = page.dataoffsets[index], page.databytecounts[index]
        shape = (*self._chunk, *page.chunks[2:])
        if length == 0:  # a tile that the file omits
            segment = np.full(shape, page.nodata, page.dtype)
        else:
            try:
                decode, tables = page.decode, page.jpegtables  # for JPEG, the first use of `decode` reads from the file
                page.parent.filehandle.seek(offset)
                decoded, _, kept = decode(page.parent.filehandle.read(length), index, jpegtables=tables)
            except Exception as error:  # for a damaged file, a parser may raise anything
                raise ImageError(f"strip or tile {index} of the TIFF is damaged ({type(error).__name__})") from None
            segment = decoded[0, : kept[1], : kept[2]]
            segment = segment[:, :, 0] if segment.shape[2] == 1 else segment
        self._cache[index] = segment
        self._cached += segment.nbytes
        while self._cached > _CACHE_BYTES and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return segment


@contextlib.contextmanager
def open_windows(source: Source, *, settings: PixelSettings = DEFAULT_SETTINGS) -> Iterator[Windows]:
    """Yield the windows of a picture. A TIFF in strips or tiles is read part by part, any other file as a whole.

    For this, tifffile must be installed, the pixels must be stored upright, and `settings.value_range` must not depend
    on the whole picture. The TIFF may have up to 2**31 - 1 pixels.

    Raises ImageError like `ppsolo.read_image`.
    """
    if isinstance(source, str | os.PathLike) and not str(source).lower().startswith(("http://", "https://")):
        path = Path(source)
        regular_file(path)
        with contextlib.ExitStack() as stack:
            page = _windowed_page(path, settings, stack)
            if page is not None:
                yield TiffWindows(page, settings)
                return
    yield ArrayWindows(read_image(source, settings=settings))


def _windowed_page(path: Path, settings: PixelSettings, stack: contextlib.ExitStack) -> Any:
    """Return the only page of a TIFF that can be read part by part, with its file open; None for other files."""
    fixed = settings.value_range == "dtype" or all(isinstance(bound, float | int) for bound in settings.value_range)
    if not fixed or settings.page or not _is_tiff(path):
        return None
    try:
        tifffile = importlib.import_module("tifffile")
        tif = stack.enter_context(tifffile.TiffFile(path, _multifile=False))
        check_chain(tif)
        if len(tif.series) != 1 or len(tif.series[0].pages) != 1:
            return None
        page: Any = tif.series[0].keyframe
        orientation = page.tags.get(274)
        if (
            int(page.planarconfig or _CONTIGUOUS) != _CONTIGUOUS
            or (orientation is not None and orientation.value != 1)
            or page.imagedepth > 1
            or math.prod(page.chunks) * page.dtype.itemsize > _MAX_SEGMENT_BYTES
            or len(page.dataoffsets) != math.prod(page.chunked)
        ):
            return None
        _check(tif, page, path)
    except ImageError:
        raise
    except Exception:  # the reader of whole pictures will report the fault
        return None
    return page


def _check(tif: Any, page: Any, path: Path) -> None:
    check_directory(tif, page)
    check_page(page, MAX_WINDOWED_PIXELS)
    if max(a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True)) > path.stat().st_size:
        raise ImageError(f"{path}: the TIFF is cut short")
    check_segments(tif, page)


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
