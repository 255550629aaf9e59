"""JPEG 2000 files whose headers ask for far more memory than their pixels."""

import struct

import pytest

from ppsolo.data.decode import decode_image
from ppsolo.data.jpeg2000 import check_jpeg2000
from ppsolo.errors import ImageError


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def size(side: int, tile: int, channels: int) -> bytes:
    fields = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile, tile, 0, 0, channels)
    return segment(0x51, fields + b"\x07\x01\x01" * channels)


def coding(precincts: bytes = b"", block: int = 4) -> bytes:
    return segment(
        0x52, bytes([bool(precincts), 0, 0, 1, 0, max(len(precincts) - 1, 0), block, block, 0, 1]) + precincts
    )


def picture(*headers: bytes, of_tile: bytes = b"", claimed: int | None = None) -> bytes:
    part = 14 + len(of_tile) if claimed is None else claimed
    tile = segment(0x90, struct.pack(">HIBB", 0, part, 0, 1)) + of_tile + b"\xff\x93"
    return b"\xff\x4f" + b"".join(headers) + segment(0x5C, b"\x40\x40") + tile + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (picture(size(4000, 4000, 1), coding(b"\x00")), "precincts or code blocks of 1 pixels"),
        (picture(size(4000, 4000, 3), coding(block=0)), "precincts or code blocks of 16 pixels"),
        (picture(size(4000, 4000, 1), coding(), segment(0x53, b"\0\1\0\4\4\0\1\0")), "blocks of 1 pixels"),
        (picture(size(4000, 4000, 1), coding(), of_tile=coding(b"\x11")), "blocks of 4 pixels"),
        (picture(size(64, 1, 1000), coding()), "4096 tiles in 1000 channels"),
        (picture(size(64, 0, 1), coding()), "no tiles"),
        (picture(size(64, 64, 0), coding()), "no channels"),
        (picture(size(64, 64, 1), b"\xff\x30", coding()), "impossible header"),
        (picture(size(64, 64, 1), coding(), claimed=12), "impossible header"),
        (picture(size(64, 64, 1), coding()[:2] + b"\0\4\0\0"), "cut short"),
    ],
)
def test_parts_that_cost_more_than_pixels_are_refused(data, fault):
    with pytest.raises(ImageError, match=fault):
        decode_image(data, max_pixels=2**28)


def test_usual_and_small_parts_are_accepted():
    check_jpeg2000(picture(size(16384, 1024, 3), coding()), 2**28)
    check_jpeg2000(picture(size(4000, 256, 3), coding(b"\x44\x55\x66\x77\x88\x88")), 2**28)
    check_jpeg2000(picture(size(100, 100, 3), coding(b"\x00"), of_tile=coding(block=0)), 2**28)
    check_jpeg2000(picture(size(4000, 4000, 1), coding(), claimed=0) + coding(b"\x00"), 2**28)
