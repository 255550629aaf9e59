"""The forms in which people pass a picture: paths, bytes, open files, pictures of Pillow, tensors."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ppsolo.data import exif
from ppsolo.data.decode import decode_with_notes
from ppsolo.data.files import regular_file
from ppsolo.data.pixels import MAX_PIXELS, PixelSettings, Samples, check_size, checked_array, to_rgb
from ppsolo.errors import ImageError

if TYPE_CHECKING:
    from ppsolo.data.images import PilImage, Tensor

MAX_FILE_BYTES = 2**31 - 1  # OpenCV counts the bytes of a file in 32 bits


def from_bytes(data: bytes, settings: PixelSettings, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    """The content of a file -> the picture, and lines about what the user should know, as from all of these."""
    return decode_with_notes(data, max_pixels=max_pixels, settings=settings)


def from_file(stream: BinaryIO, settings: PixelSettings, max_pixels: int, *, name: str) -> tuple[np.ndarray, list[str]]:
    """Read an open file from its current position. name: its name in errors."""
    data = stream.read(MAX_FILE_BYTES + 1)
    if not isinstance(data, bytes):
        raise ImageError(f"a file opened for text gives {type(data).__name__}: open it with mode 'rb'")
    if not data:
        raise ImageError(f"{name}: nothing is left to read; is the file at its end? seek(0) first")
    try:
        return from_bytes(data, settings, max_pixels)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def from_path(source: str | os.PathLike, settings: PixelSettings, max_pixels: int) -> tuple[np.ndarray, list[str]]:
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


def from_pil(picture: "PilImage", settings: PixelSettings) -> tuple[np.ndarray, list[str]]:
    """Convert a Pillow picture to samples, turned upright, with the same result as from its file."""
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


def from_tensor(tensor: "Tensor") -> np.ndarray:
    """Convert a tensor with channels first or last."""
    values: Any = tensor
    values = values.detach().cpu() if hasattr(values, "detach") else values
    array = np.asarray(values.numpy())
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    return checked_array(array)
