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

from ppsolo.atomic import atomic_writer
from ppsolo.data import exif
from ppsolo.data.decode import DEFAULT_SETTINGS, decode_image, decode_with_notes
from ppsolo.data.files import regular_file
from ppsolo.data.headers import check_size
from ppsolo.data.pixels import PixelSettings, Samples, to_rgb
from ppsolo.errors import ImageError

__all__ = [
    "MAX_PIXELS",
    "ImageReader",
    "Source",
    "checked_array",
    "decode_image",
    "is_source",
    "read_ahead",
    "read_image",
    "write_image",
]

logger = logging.getLogger(__name__)

MAX_PIXELS = 2**28  # 16384 x 16384: 805 MB once decoded
MAX_FILE_BYTES = 2**31 - 1  # OpenCV counts the bytes of a file in 32 bits


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
    - A truncated file is refused, and so is a PNG with a wrong checksum. Damage in the compressed data of a JPEG is
      found only if it leaves an impossible marker.

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


def is_source(value: object) -> TypeGuard[Source]:
    """Whether `read_image` takes a value as one picture and not as a list of pictures."""
    return isinstance(value, str | os.PathLike | np.ndarray | bytes | bytearray | memoryview) or any(
        (callable(getattr(value, "read", None)), _is_pil(value), _is_tensor(value))
    )


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
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_with_notes(bytes(source), max_pixels=max_pixels, settings=settings)
    if isinstance(source, str | os.PathLike):
        return _read_path(source, settings, max_pixels)
    if _is_pil(source):
        return _from_pil(source, settings)
    if _is_tensor(source):
        return _from_tensor(source), []
    if callable(getattr(source, "read", None)):
        data = cast(BinaryIO, source).read(MAX_FILE_BYTES + 1)
        if not isinstance(data, bytes):
            raise ImageError(f"a file opened for text gives {type(data).__name__}: open it with mode 'rb'")
        if not data:
            raise ImageError(f"{_name(source)}: nothing is left to read; is the file at its end? seek(0) first")
        try:
            return decode_with_notes(data, max_pixels=max_pixels, settings=settings)
        except ImageError as error:
            raise ImageError(f"{_name(source)}: {error}") from None
    expected = "a path, bytes, an open file, a uint8 [H, W, 3] RGB array, a Pillow picture or a uint8 tensor"
    raise ImageError(f"expected {expected}, got {type(source).__name__}")


def _read_path(source: str | os.PathLike, settings: PixelSettings, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        raise ImageError(
            f"{source}: an address, not a path: ppsolo.fetch_image(address) reads pictures over the network"
        )
    path = Path(source)
    size = regular_file(path).st_size
    if size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes)")
    try:
        with path.open("rb") as stream:
            if stream.read(4)[:4] in (
                b"II*\0",
                b"MM\0*",
                b"II+\0",
                b"MM\0+",
            ):  # may be larger than memory
                from ppsolo.data.tiff import decode_tiff

                stream.seek(0)
                samples, orientation, notes = decode_tiff(stream, max_pixels=max_pixels, settings=settings)
                image, more = to_rgb(samples, settings)
                return exif.upright(image, orientation), notes + more
            if size > MAX_FILE_BYTES:
                raise ImageError(f"{size} bytes are too many for an image (at most {MAX_FILE_BYTES})")
            stream.seek(0)
            return decode_with_notes(stream.read(), max_pixels=max_pixels, settings=settings)
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


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


def _from_pil(picture: PilImage, settings: PixelSettings) -> tuple[np.ndarray, list[str]]:
    """Convert to samples, upright, like the same file."""
    check_size(picture.size[1], picture.size[0], MAX_PIXELS)
    image: Any = picture
    orientation = image.getexif().get(0x0112, 1)
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        values = np.asarray(image)
        kind = np.dtype(np.uint16) if image.mode.startswith("I;") else values.dtype
        top = {"u": 65535, "i": 2**31 - 1}.get(kind.kind)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:  # 16 bits in old versions of Pillow
            kind, top = np.dtype(np.uint16), 65535
        image, notes = to_rgb(Samples(values.astype(kind), top, "grey"), settings)
    else:
        image, notes = to_rgb(Samples(np.array(image.convert("RGB")), 255), settings)
    return exif.upright(image, orientation if orientation in range(1, 9) else 1), notes


def _from_tensor(tensor: Tensor) -> np.ndarray:
    """Convert a tensor with channels first or last."""
    values: Any = tensor
    values = values.detach().cpu() if hasattr(values, "detach") else values
    array = np.asarray(values.numpy())
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    return checked_array(array)


def checked_array(image: np.ndarray) -> np.ndarray:
    """Return the array itself, or a copy if it is not C-contiguous; ImageError if it is not uint8 [H, W, 3]."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0:
        check_size(image.shape[0], image.shape[1], MAX_PIXELS)
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
    elif image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1:
        remedy = "values 0..1: multiply by 255, (image * 255).round().astype(numpy.uint8)"
    else:
        remedy = "values 0..255, rounded and clipped, then image.astype(numpy.uint8)"
    expected = f"expected uint8 [H, W, 3] RGB ({remedy})"
    raise ImageError(f"image array of dtype {image.dtype} and shape {list(image.shape)}: {expected}")


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
