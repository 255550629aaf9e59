"""Headers of picture files that ask for more work than their pixels."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest

from ppsolo.data.decode import decode_image
from ppsolo.data.headers import MOST_SCANS, MOST_SCANS_OF_LARGE, check_jpeg, without_packed_texts
from ppsolo.errors import ImageError

PIL = pytest.importorskip("PIL.Image")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_packed_texts_of_a_png_never_reach_the_decoder(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    plain = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    packed = zlib.compress(bytes(2**20))
    texts = chunk(b"zTXt", b"a\0\0" + packed) + chunk(b"iTXt", b"a\0\1\0\0\0" + packed)
    profile = chunk(b"iCCP", b"a\0\0" + packed)
    data = plain[:33] + profile + texts + plain[33:-12] + chunk(b"tEXt", b"a\0b") + texts + plain[-12:]
    assert without_packed_texts(plain) is plain
    assert without_packed_texts(data) == plain[:-12] + chunk(b"tEXt", b"a\0b") + plain[-12:]
    given = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda array, flags: given.append(array.size) or decode(array, flags))
    assert np.array_equal(decode_image(data, max_pixels=100), image)
    assert given == [len(plain) + len(chunk(b"tEXt", b"a\0b"))]


@pytest.mark.parametrize(("side", "most"), [(5000, MOST_SCANS), (6000, MOST_SCANS_OF_LARGE)])
def test_scans_of_a_jpeg_cost_a_pass_over_its_pixels(side, most):
    stream = io.BytesIO()
    PIL.new("RGB", (8, 8)).save(stream, "JPEG", progressive=True)
    data = bytearray(stream.getvalue())
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    scans, scan = data.count(b"\xff\xda"), bytes(data[data.rindex(b"\xff\xda") : -2])
    check_jpeg(bytes(data[:-2] + scan * (most - scans) + data[-2:]), 2**28)
    with pytest.raises(ImageError, match=f"more than {most} scans"):
        check_jpeg(bytes(data[:-2] + scan * (most - scans + 1) + data[-2:]), 2**28)
