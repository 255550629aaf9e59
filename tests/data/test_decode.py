"""Picture formats against Pillow, on this OpenCV: what is read is what Pillow reads."""

import io
import struct

import cv2
import numpy as np
import pytest
from real_files import case, right_pixels

from ppsolo.data.decode import decode_image, decode_with_notes
from ppsolo.data.images import read_image
from ppsolo.data.pixels import PixelSettings
from ppsolo.errors import ImageError

PIL = pytest.importorskip("PIL.Image")
PIXELS = 2**28


def decode(data: bytes) -> np.ndarray:
    return decode_image(data, max_pixels=PIXELS)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [48, 64, 3] RGB, smooth, without any symmetry."""
    noise = np.random.default_rng(7).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC)


def by_pillow(photo: np.ndarray, form: str, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    PIL.fromarray(photo).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def pillow_reads(data: bytes) -> np.ndarray:
    return np.array(PIL.open(io.BytesIO(data)).convert("RGB"))


def test_the_cases():
    upright = read_image(case("exif_after_xmp", "app0_xmp_exif6.jpg"))
    assert np.array_equal(upright, right_pixels(case("exif_after_xmp", "right.png"))) and upright.shape == (80, 48, 3)
    levels = read_image(case("netpbm_maxval", "maxval15_grey.pgm"))
    right = right_pixels(case("netpbm_maxval", "right_grey.png"))
    assert np.abs(levels.astype(int) - right).max() <= 17 and set(np.unique(levels)) <= set(range(0, 256, 17))


@pytest.mark.parametrize(
    ("form", "mode", "options", "slack"),
    [
        ("JPEG", "RGB", {}, 2),
        ("JPEG", "L", {}, 2),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 2}, 6),
        ("PNG", "RGB", {}, 0),
        ("PNG", "L", {}, 0),
        ("PNG", "P", {}, 0),
        ("PNG", "1", {}, 0),
        ("BMP", "RGB", {}, 0),
        ("BMP", "L", {}, 0),
        ("BMP", "P", {}, 0),
        ("BMP", "1", {}, 0),
        ("TIFF", "RGB", {}, 0),
        ("TIFF", "P", {}, 0),
        ("TIFF", "1", {}, 0),
        ("TIFF", "CMYK", {}, 1),
        ("PPM", "RGB", {}, 0),
        ("PPM", "L", {}, 0),
        ("PPM", "1", {}, 0),
        ("WEBP", "RGB", {"lossless": True}, 0),
        ("WEBP", "RGB", {}, 2),
        ("GIF", "P", {}, 0),
        ("JPEG2000", "RGB", {}, 0),
        ("JPEG2000", "L", {}, 0),
        ("AVIF", "RGB", {}, 0),
        ("MPO", "RGB", {}, 2),
    ],
    ids=str,
)
def test_formats_of_pillow(photo, form, mode, options, slack):
    try:
        data = by_pillow(photo, form, mode, **options)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow cannot write it: {error}")
    # JPEG and lossy WebP: two decoders may round the colours of subsampled blocks differently
    assert np.abs(decode(data).astype(int) - pillow_reads(data)).max() <= slack


@pytest.mark.parametrize("top", [1, 15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_pnm_of_every_largest_value(top, text, channels):
    values = np.random.default_rng(0).integers(0, top + 1, (5, 7, channels))
    kind = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[channels, text]
    header = f"P{kind} # a remark\n7 5\n# another\n{top}\n".encode()
    body = (
        " ".join(map(str, values.ravel())).encode() if text else values.astype(">u2" if top > 255 else "u1").tobytes()
    )
    expected = np.broadcast_to(np.rint(values * (255 / top)), (5, 7, 3))
    assert np.array_equal(decode(header + body), expected)
    if not text:
        with pytest.raises(ImageError, match="cannot decode this PNM"):
            decode((header + body)[:-1])


def test_bits_of_pnm():
    assert decode(b"P1 3 2\n1 0 1\n011").tolist() == [[[0] * 3, [255] * 3, [0] * 3], [[255] * 3, [0] * 3, [0] * 3]]
    assert decode(b"P4\n3 1\n\xa0").tolist() == [[[0] * 3, [255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    "size", [b"0000000000000060000 60000", b"60000 0000000000060000", b"9999999999 1", b"0 5", b"-1 5"]
)
def test_pnm_sizes_that_are_not_understood_are_refused(size):
    with pytest.raises(ImageError):
        decode_image(b"P5\n" + size + b"\n255\n" + bytes(99), max_pixels=2**20)
    assert decode(b"P5\n0002 001\n0255\n\1\2").shape == (1, 2, 3)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_texts_of_pnm_that_are_too_short_for_their_size_take_no_memory(kind):
    with pytest.raises(ImageError, match="cut short: 4 bytes for"):
        decode(b"P%d 16384 16384%s\n1 1 " % (kind, b"" if kind == 1 else b" 255"))
    assert decode(b"P2 2 1 255\n1 2")[0, :, 0].tolist() == [1, 2]


def test_bmp_of_os2(photo):
    rows = b"".join(row[:, ::-1].tobytes() for row in photo[::-1])
    header = struct.pack("<IHHHH", 12, 64, 48, 1, 24)
    data = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows
    assert np.array_equal(decode(data), photo) and np.array_equal(pillow_reads(data), photo)
    large = data[:18] + struct.pack("<HH", 65000, 65000) + data[22:]
    with pytest.raises(ImageError, match="65000 x 65000 pixels are too many"):
        decode(large)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6


@pytest.mark.parametrize(
    "before",
    [
        b"",
        segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200)),
        segment(0xFE, b"a comment, Exif\0\0 in it"),
        segment(0xED, b"Photoshop 3.0\0") + b"\xff",  # a fill byte
    ],
)
def test_exif_after_any_segment(photo, before):
    plain = by_pillow(photo, "JPEG")
    plain = plain[:2] + plain[2 + 18 :]  # without its JFIF segment
    data = plain[:2] + before + segment(0xE1, EXIF) + plain[2:]
    assert np.array_equal(decode(data), np.rot90(decode(plain), -1))


def test_sixteen_bit_png_takes_the_value_range(photo):
    twelve = np.rint(photo * (4095 / 255)).astype(np.uint16)
    data = cv2.imencode(".png", twelve[:, :, ::-1])[1].tobytes()
    settings = PixelSettings(value_range=(0, 4095))
    assert np.array_equal(decode_with_notes(data, max_pixels=PIXELS, settings=settings)[0], photo)
    assert (
        "preprocess.value_range=[0, 4095]" in decode_with_notes(data, max_pixels=PIXELS, settings=PixelSettings())[1][0]
    )


def test_animations_give_their_first_frame_and_say_so(photo):
    frames = [PIL.fromarray(photo), PIL.fromarray(255 - photo)]
    for form in ("GIF", "PNG"):
        stream = io.BytesIO()
        frames[0].save(stream, form, save_all=True, append_images=frames[1:])
        image, notes = decode_with_notes(stream.getvalue(), max_pixels=PIXELS, settings=PixelSettings())
        assert np.array_equal(image, pillow_reads(stream.getvalue()))
        assert "an animation of 2 frames, the first is read" in notes[0]


def test_heic(photo):
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    try:
        heif.from_pillow(PIL.fromarray(photo)).save(stream, quality=95)
    except (OSError, RuntimeError, ValueError) as error:
        pytest.skip(f"this pillow-heif cannot write HEIC: {error}")
    data = stream.getvalue()
    # lossy: 95 of 100, colours at half the resolution
    assert np.abs(decode(data).astype(int) - photo).mean() < 4
    with pytest.raises(ImageError, match="x 64 pixels are too many"):
        decode_image(data, max_pixels=48 * 64 - 1)
    with pytest.raises(ImageError, match="HEIC"):
        decode(data[: len(data) // 2])


def test_missing_packages_are_named(photo, monkeypatch):
    def missing(name: str):
        raise ModuleNotFoundError(name=name)

    gif = by_pillow(photo, "GIF", "P")
    monkeypatch.setattr("ppsolo.data.decode.importlib.import_module", missing)
    with pytest.raises(ImageError, match=r"GIF needs pip install 'ppsolo\[images\]'"):
        decode(gif)
    with pytest.raises(ImageError, match=r"HEIC needs pip install 'ppsolo\[images\]'"):
        decode(b"\0\0\0\x18ftypheic" + bytes(20) + b"ispe" + struct.pack(">III", 0, 4, 4))


@pytest.mark.parametrize("form", ["GIF", "JPEG2000", "AVIF", "WEBP", "PNG", "JPEG", "BMP"])
def test_limits_hold_for_every_format(photo, form):
    try:
        data = by_pillow(photo, form, "P" if form == "GIF" else "RGB")
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow cannot write it: {error}")
    with pytest.raises(ImageError, match="48 x 64 pixels are too many"):
        decode_image(data, max_pixels=48 * 64 - 1)
    for length in (20, len(data) // 2):
        with pytest.raises(ImageError):
            decode(data[:length])
