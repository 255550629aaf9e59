"""Counts the picture files that ppsolo reads like Pillow and tifffile, per format, with the installed libraries.

python scripts/picture_formats.py prints a Markdown table, such as the one in docs/pictures.md.
"""

import argparse
import importlib.metadata
import io
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from ppsolo.data.decode import decode_image
from ppsolo.data.exif import upright
from ppsolo.errors import ImageError

SIZE = (48, 64)
PACKAGES = ("opencv-python", "pillow", "tifffile", "imagecodecs", "pillow-heif", "numpy")

# A file, the pixels of another reader, and the tolerated difference of a lossy format in levels.
Trial = tuple[bytes, np.ndarray, int]


def main() -> int:
    """Test every format; return 1 if a file is read wrongly."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    sys.stdout.write(
        f"{versions}\n\n"
        "| format | files tested | equal to the other reader | refused | wrong |\n|---|---|---|---|---|\n"
    )
    wrong_in_all = 0
    for name, trials in FORMATS.items():
        tried = equal = refused = wrong = 0
        for data, expected, slack in trials():
            tried += 1
            try:
                image = decode_image(data, max_pixels=2**20)
            except ImageError:
                refused += 1
                continue
            same = image.shape == expected.shape and np.abs(image.astype(int) - expected).max() <= slack
            equal, wrong = equal + same, wrong + (not same)
        wrong_in_all += wrong
        sys.stdout.write(f"| {name} | {tried} | {equal} | {refused} | {wrong} |\n")
    return 1 if wrong_in_all else 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _photo() -> np.ndarray:
    """Return uint8 [H, W, 3] RGB, smooth, without any symmetry."""
    noise = np.random.default_rng(7).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def _by_pillow(form: str, modes: tuple[str, ...], *options: dict, slack: int = 0) -> Callable[[], Iterator[Trial]]:
    """Files written and read by Pillow, with each EXIF orientation if the format has it."""

    def trials() -> Iterator[Trial]:
        orientations = range(1, 9) if form in ("JPEG", "PNG", "WEBP", "MPO") else (1,)
        for mode, option, orientation in itertools.product(modes, options or ({},), orientations):
            stream = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = orientation
            more = {"exif": exif} if len(orientations) > 1 else {}
            Image.fromarray(_photo()).convert(mode).save(stream, form, **option, **more)
            expected = np.array(Image.open(stream).convert("RGB"))
            yield stream.getvalue(), upright(expected, orientation), slack

    return trials


def _tiff() -> Iterator[Trial]:
    """Files written by tifffile; they are lossless, so they must equal the picture."""
    photo = _photo()
    compressions = (None, "zlib", "lzw", "packbits", "zstd", "lzma")
    layouts: tuple[dict[str, Any], ...] = ({}, {"tile": (16, 32)}, {"rowsperstrip": 5}, {"planarconfig": "separate"})
    kinds: tuple[dict[str, Any], ...] = ({}, {"bigtiff": True}, {"byteorder": ">"})
    for dtype, compression, layout, kind in itertools.product(("u1", "u2", "u4", "f4"), compressions, layouts, kinds):
        top = {"u1": 255, "u2": 65535, "u4": 2**32 - 1, "f4": 1.0}[dtype]
        stored = np.rint(photo * (top / 255)) if top > 1 else photo / 255
        colour = stored.astype(dtype)
        planes = colour.transpose(2, 0, 1) if "planarconfig" in layout else colour
        for values, expected, photometric in (
            (planes, photo, "rgb"),
            (colour[:, :, 0], np.repeat(photo[:, :, :1], 3, axis=2), "minisblack"),
        ):
            stream = io.BytesIO()
            options: dict[str, Any] = (
                layout if photometric == "rgb" else {key: layout[key] for key in layout if key != "planarconfig"}
            )
            tifffile.imwrite(stream, values, photometric=photometric, compression=compression, **options, **kind)
            yield stream.getvalue(), expected, 0


def _pnm() -> Iterator[Trial]:
    """Text and binary files with many largest values; 255 * value / largest is right."""
    generator = np.random.default_rng(0)
    for top, channels, text in itertools.product((1, 3, 15, 100, 255, 256, 1023, 4095, 65535), (1, 3), (False, True)):
        values = generator.integers(0, top + 1, (*SIZE, channels))
        kind = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[channels, text]
        body = (
            " ".join(map(str, values.ravel())).encode()
            if text
            else values.astype(">u2" if top > 255 else "u1").tobytes()
        )
        header = f"P{kind}\n{SIZE[1]} {SIZE[0]}\n{top}\n".encode()
        yield header + body, np.broadcast_to(np.rint(values * (255 / top)), (*SIZE, 3)), 0


FORMATS: dict[str, Callable[[], Iterator[Trial]]] = {
    "JPEG (decoders differ by one or two levels)": _by_pillow(
        "JPEG", ("RGB", "L"), {}, {"progressive": True}, {"subsampling": 0, "quality": 95}, slack=6
    ),
    "MPO": _by_pillow("MPO", ("RGB",), slack=6),
    "PNG": _by_pillow("PNG", ("RGB", "L", "P", "1")),
    "WebP, lossless": _by_pillow("WEBP", ("RGB",), {"lossless": True}),
    "WebP, lossy": _by_pillow("WEBP", ("RGB",), {"quality": 50}, {"quality": 90}, slack=2),
    "BMP": _by_pillow("BMP", ("RGB", "L", "P", "1")),
    "GIF": _by_pillow("GIF", ("P", "L")),
    "TIFF by Pillow": _by_pillow("TIFF", ("RGB", "L", "P", "1"), {}, {"compression": "tiff_lzw"}),
    "TIFF of 8, 16, 32 bits and float": _tiff,
    "PNM": _pnm,
    "JPEG 2000": _by_pillow("JPEG2000", ("RGB", "L")),
    "AVIF": _by_pillow("AVIF", ("RGB",)),
}

if __name__ == "__main__":
    raise SystemExit(main())
