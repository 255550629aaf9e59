"""Decodes the bytes of a picture file to uint8 RGB pixels, or refuses them with a reason."""

import importlib
import io
import logging
import warnings
from typing import Any

import cv2
import numpy as np

from ppsolo.data import exif
from ppsolo.data.decoder_lines import decoder_lines
from ppsolo.data.headers import format_of, is_animated_png, without_packed_texts
from ppsolo.data.pixels import DEFAULT_SETTINGS, PixelSettings, Samples, check_size, to_rgb
from ppsolo.errors import ImageError

logger = logging.getLogger(__name__)

_PILLOW_REMEDY = "pip install 'ppsolo[images]' (Pillow 11.3 or newer)"
_UNUSUAL = "it is damaged, cut short or of an unusual kind"
_HEIC_REMEDY = "pip install 'ppsolo[images]' (pillow-heif)"


def decode_image(data: bytes, *, max_pixels: int, settings: PixelSettings = DEFAULT_SETTINGS) -> np.ndarray:
    """Decode the bytes of a picture file to uint8 [H, W, 3] RGB, like `read_image`.

    The size in the header is checked before any pixel is decoded.

    Raises:
        ImageError: more than `max_pixels` pixels, damage, or an unknown format; the message lacks the file's name.
    """
    image, notes = decode_with_notes(data, max_pixels=max_pixels, settings=settings)
    for note in notes:
        logger.warning("a picture: %s", note)
    return image


def decode_with_notes(data: bytes, *, max_pixels: int, settings: PixelSettings) -> tuple[np.ndarray, list[str]]:
    """Like `decode_image`, plus lines for the user: pages left out, few levels used."""
    known = format_of(data)
    if known.check is not None:
        known.check(data, max_pixels)
    orientation, notes = 1, []
    if known.name == "TIFF":
        from ppsolo.data.tiff import as_stream, decode_tiff

        samples, orientation, notes = decode_tiff(as_stream(data), max_pixels=max_pixels, settings=settings)
    elif known.name == "PNM":
        from ppsolo.data.pnm import decode_pnm

        samples = decode_pnm(data)
    elif known.name == "HEIC":
        samples = _by_pillow_heif(data, max_pixels)
    elif known.name in ("GIF", "AVIF") or (known.name == "PNG" and is_animated_png(data)):
        samples, notes = _by_pillow(data, known.name, max_pixels)
    else:
        samples, notes = _by_opencv(data, known.name, max_pixels)
        orientation = _orientation(data, known.name)
    image, more = to_rgb(samples, settings)
    return exif.upright(image, orientation), notes + more


def _orientation(data: bytes, name: str) -> int:
    """Read the orientation ourselves: OpenCV 4.11 misses it in WebP and in some JPEGs, OpenCV 5 does not."""
    if name == "JPEG":
        return exif.jpeg_orientation(data)
    if name == "PNG":
        return exif.png_orientation(data)
    return exif.webp_orientation(data) if name == "WebP" else 1


def _by_opencv(data: bytes, name: str, max_pixels: int) -> tuple[Samples, list[str]]:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if name == "JPEG 2000" or (name == "PNG" and data[24:25] == b"\x10"):
        flags |= cv2.IMREAD_ANYDEPTH
    data = without_packed_texts(data) if name == "PNG" else data
    try:
        with decoder_lines() as lines:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"OpenCV cannot decode this {name} ({error.err})") from None
    if image is None:
        animated = name == "WebP" and data[12:16] == b"VP8X" and data[20] & 2
        reason = "animations need OpenCV 4.11 or newer, or it is damaged" if animated else _UNUSUAL
        raise ImageError(f"OpenCV cannot decode this {name}: {reason}")
    check_size(image.shape[0], image.shape[1], max_pixels)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    notes = [f"the {name} is damaged, what can be decoded is taken ({lines[0]})"] if lines else []
    return Samples(image, 255 if image.dtype == np.uint8 else 65535), notes


def _by_pillow(data: bytes, name: str, max_pixels: int) -> tuple[Samples, list[str]]:
    """Decode the first frame, upright, without opacity."""
    try:
        pillow = importlib.import_module("PIL.Image")
        turn = importlib.import_module("PIL.ImageOps").exif_transpose
    except ModuleNotFoundError:
        raise ImageError(f"{name} needs {_PILLOW_REMEDY}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = pillow.open(io.BytesIO(data))
            check_size(opened.height, opened.width, max_pixels)
            frames = getattr(opened, "n_frames", 1)
            if name == "PNG" and frames < 2:
                raise ValueError("its animation is damaged")
            notes = [f"it is an animation of {frames} frames, the first is read"] if frames > 1 else []
            return Samples(np.array(turn(opened).convert("RGB")), 255), notes
    except ImageError:
        raise
    except Exception as error:  # for a damaged file, a decoder may raise anything
        if name == "PNG":
            raise ImageError(
                f"an animated PNG that Pillow cannot decode ({_said(error)}): save one frame as an image"
            ) from None
        remedy = f"; {_PILLOW_REMEDY} reads it" if name == "AVIF" and _lacks_avif() else ""
        raise ImageError(
            f"Pillow cannot decode this {name}: it is damaged or cut short ({_said(error)}){remedy}"
        ) from None


def _lacks_avif() -> bool:
    features: Any = importlib.import_module("PIL.features")
    return "avif" not in features.modules or not features.check("avif")


def _by_pillow_heif(data: bytes, max_pixels: int) -> Samples:
    try:
        heif = importlib.import_module("pillow_heif")
    except ModuleNotFoundError:
        raise ImageError(f"HEIC needs {_HEIC_REMEDY}") from None
    try:
        opened = heif.open_heif(data, convert_hdr_to_8bit=True)
        check_size(opened.size[1], opened.size[0], max_pixels)
        return Samples(np.array(opened.to_pillow().convert("RGB")), 255)
    except ImageError:
        raise
    except Exception as error:  # for a damaged file, a decoder may raise anything
        raise ImageError(f"pillow-heif cannot decode this HEIC: it is damaged or cut short ({_said(error)})") from None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
