"""Finds the EXIF orientation in JPEG, PNG and WebP files, and undoes it."""

import numpy as np


def jpeg_orientation(data: bytes) -> int:
    """1..8 from the first EXIF segment before the first scan; 1 without one."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in (0xDA, 0xD9):
            break
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return tiff_orientation(data[at + 10 : at + 2 + size])
        at += 2 + size
    return 1


def png_orientation(data: bytes) -> int:
    """1..8 from the chunk eXIf; 1 without one."""
    at = 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"eXIf":
            return tiff_orientation(data[at + 8 : at + 8 + size])
        at += 12 + size
    return 1


def webp_orientation(data: bytes) -> int:
    """1..8 from the chunk EXIF; 1 without one."""
    if data[12:16] != b"VP8X":  # only the extended layout has EXIF
        return 1
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return tiff_orientation(data[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0"))
        at += 8 + size + size % 2
    return 1


def tiff_orientation(tiff: bytes) -> int:
    """1..8 from the first directory of a TIFF structure, the form of EXIF; 1 if there is none."""
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order = "little" if tiff[:2] == b"II" else "big"

    def number(position: int, width: int) -> int:
        return int.from_bytes(tiff[position : position + width], order)

    directory = number(4, 4)
    for entry in range(directory + 2, min(directory + 2 + 12 * number(directory, 2), len(tiff)), 12):
        if number(entry, 2) == 0x0112:
            orientation = number(entry + 8, 4 if number(entry + 2, 2) == 4 else 2)
            return orientation if 1 <= orientation <= 8 else 1
    return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation of [H, W, ...] (Exif 2.3, tag 0x0112): from 5 on transpose, then mirror the axes."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
