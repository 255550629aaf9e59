"""Reads pictures of every kind into uint8 RGB arrays, and writes them."""

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeGuard, TypeVar, cast

import cv2
import numpy as np

from ppsolo.data.pixels import DEFAULT_SETTINGS, MAX_PIXELS, PixelSettings, checked_array
from ppsolo.errors import ImageError

logger = logging.getLogger(__name__)


class PilImage(Protocol):
    """A Pillow picture (`PIL.Image.Image`)."""

    mode: str
    size: tuple[int, int]

    def getexif(self) -> Any: ...


class Tensor(Protocol):
    """A tensor of torch or Paddle."""

    def numpy(self) -> np.ndarray: ...


Source: TypeAlias = str | os.PathLike | np.ndarray | bytes | bytearray | memoryview | BinaryIO | PilImage | Tensor
SourceType = TypeVar("SourceType", bound=Source)


def read_image(source: Source, *, settings: PixelSettings = DEFAULT_SETTINGS) -> np.ndarray:
    """Read a picture as uint8 [H, W, 3], RGB, 0..255, C-contiguous.

    The content decides the format, not the suffix: JPEG, PNG, WebP, BMP, TIFF, PNM, GIF, JPEG 2000, AVIF, HEIC. The
    EXIF orientation is applied. docs/pictures.md lists the package for each format.

    - Grey and palette become RGB. CMYK in a JPEG is read as Adobe writes it, inverted, without a colour profile.
    - More than 8 bits become 8 by `settings.value_range`; by default, 16 bits become v / 257, rounded.
    - Opacity is dropped and the stored colour kept; only TIFF gives colour times opacity, as on a black background.
    - Of an animation, the first frame is read; of several pages, `settings.page`.
    - A truncated file is refused, and so is a PNG with a wrong checksum. Of a JPEG with
      damage in its compressed data, the rest is read; commands report the damage.

    Args:
        source: a path; the bytes of a file, or an open binary file; a uint8 [H, W, 3] RGB array, which is returned
            unchanged if it is C-contiguous; a Pillow picture; a uint8 tensor of torch or Paddle, [3, H, W] or
            [H, W, 3]. BGR arrays, as OpenCV reads them, look like RGB: convert them first.
        settings: how to read more than 8 bits, several pages and several channels.

    Raises:
        ImageError: one line with the problem and the reason.

    Example:
        >>> import numpy
        >>> read_image(numpy.zeros([48, 64, 3], numpy.uint8)).shape
        (48, 64, 3)
    """
    image, notes = _read(source, settings, MAX_PIXELS)
    for note in notes:
        logger.warning("%s: %s", _name(source), note)
    return image


@dataclass
class ImageReader:
    """Reads pictures of at most `max_pixels` with fixed settings, and logs each kind of note once.

    Example:
        >>> reader = ImageReader(PixelSettings(value_range=(0, 4095)))
        >>> images = [reader(path) for path in []]
    """

    settings: PixelSettings = DEFAULT_SETTINGS
    max_pixels: int = MAX_PIXELS
    _told: set[str] = field(default_factory=set, repr=False, compare=False)

    def __call__(self, source: Source) -> np.ndarray:
        """Read a picture like `read_image`. A note is logged only for the first picture of its kind."""
        image, notes = _read(source, self.settings, self.max_pixels)
        for note in notes:
            kind = "".join(letter for letter in note if not letter.isdigit())
            if kind not in self._told:
                self._told.add(kind)
                logger.warning("%s: %s; further pictures of this kind are not named", _name(source), note)
        return image


def _read(source: Source, settings: PixelSettings, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    if isinstance(source, np.ndarray):
        return checked_array(source), []
    from ppsolo.data import picture_forms as forms  # with the decoders, which an array needs none of

    if isinstance(source, bytes | bytearray | memoryview):
        return forms.from_bytes(bytes(source), settings, max_pixels)
    if isinstance(source, str | os.PathLike):
        return forms.from_path(source, settings, max_pixels)
    if _is_pil(source):
        return forms.from_pil(source, settings)
    if _is_tensor(source):
        return forms.from_tensor(source), []
    if callable(getattr(source, "read", None)):
        return forms.from_file(cast(BinaryIO, source), settings, max_pixels, name=_name(source))
    expected = "a path, bytes, an open file, a uint8 [H, W, 3] RGB array, a Pillow picture or a uint8 tensor"
    raise ImageError(f"a picture is {expected}; got {type(source).__name__}")


def _name(source: Source) -> str:
    """Return the source's name in messages."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source) if isinstance(os.fspath(source), str) else repr(source)
    return str(getattr(source, "name", None) or getattr(source, "filename", None) or "a picture")


def _is_pil(value: object) -> TypeGuard[PilImage]:
    module = sys.modules.get("PIL.Image")  # it must be imported if such a picture exists
    return module is not None and isinstance(value, module.Image)


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    torch, paddle = sys.modules.get("torch"), sys.modules.get("paddle")
    kinds = (getattr(torch, "Tensor", None), getattr(paddle, "Tensor", None))
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


def read_ahead(
    sources: Iterable[SourceType],
    *,
    depth: int = 4,
    read: Callable[[SourceType], np.ndarray] | None = None,
    threads: int = 1,
) -> Generator[tuple[SourceType, np.ndarray | ImageError], None, None]:
    """Yield (source, its picture or ImageError) in the order of `sources`.

    Background threads read at most `depth` (>= 1) images ahead of the last yielded one, so at most depth + 1 images
    are in memory. Closing the generator ends the threads. Other exceptions are raised here.

    Args:
        sources: the sources to read.
        depth: number of images to read ahead.
        read: the function that reads one; default: `read_image`.
        threads: number of images to read at the same time.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    ahead = deque()
    executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="read_ahead")
    try:
        for source in sources:
            ready = _first_of(ahead) if len(ahead) == depth else None
            ahead.append((source, executor.submit(_image_or_error, source, read or read_image)))
            if ready is not None:
                yield ready
        while ahead:
            yield _first_of(ahead)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _first_of(ahead: deque[tuple[SourceType, Future]]) -> tuple[SourceType, np.ndarray | ImageError]:
    source, future = ahead.popleft()
    return source, future.result()


def _image_or_error(source: SourceType, read: Callable[[SourceType], np.ndarray]) -> np.ndarray | ImageError:
    try:
        return read(source)
    except ImageError as error:
        return ImageError(str(error))  # drop the traceback, because it keeps the file's bytes in memory


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] RGB as .png or as .jpg / .jpeg (quality 95), by suffix.

    The file appears whole or not at all. Raises ImageError for another suffix or array, or if the file cannot be
    written.

    >>> import numpy, ppsolo
    >>> ppsolo.write_image("black.png", numpy.zeros([48, 64, 3], numpy.uint8))
    >>> ppsolo.read_image("black.png").shape
    (48, 64, 3)
    """
    from ppsolo.atomic import atomic_writer

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
