"""Tests of reading, finding, numbering and writing pictures."""

import base64
import errno
import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import weakref
import zlib
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from ppsolo.data import images
from ppsolo.data.decode import decode_image
from ppsolo.data.files import find_images, image_id_of, image_ids
from ppsolo.data.images import read_ahead, read_image, write_image
from ppsolo.data.pixels import PixelSettings
from ppsolo.errors import ImageError

# 16 x 16 CMYK, four 8 x 8 squares of (C, M, Y, K) = (0, 0, 0, 0), (0, 255, 255, 0), (255, 0, 0, 51) and
# (30, 60, 90, 120), row by row, by Pillow 13, which writes Adobe's inverted values:
# PIL.Image.fromarray(array, "CMYK").save(file, "JPEG", quality=100, optimize=True).
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwABAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
    "AQEBAQEBAQEBAQEB/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EABcAAQEBAQAAAAAAAAAAAAAAAAoLAAn/xAAUEAEAAAAAAAAAAAAA"
    "AAAAAAAA/9oADgRDAE0AWQBLAAA/AH8H8H8H8MgDoA7IA6/wv8OM64Q4PiXjrv/Z"
)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAkQBADs=")  # 1 x 1


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [24, 32, 3] RGB, smooth, without any symmetry."""
    noise = np.random.default_rng(7).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(noise, (32, 24), interpolation=cv2.INTER_CUBIC)


def encoded(suffix: str, image: np.ndarray, *parameters: int) -> bytes:
    """`image`: RGB, grey or 16-bit RGB."""
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(suffix, stored, parameters)[1].tobytes()


def opencv(data: bytes) -> np.ndarray:
    """What OpenCV itself makes of the bytes, as RGB."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[:, :, ::-1]


def png(height: int, width: int, depth: int, colour: int, rows: bytes, *, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    end = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + end


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(image: np.ndarray, *, orientation: int = 1) -> bytes:
    """Little-endian, uncompressed, one strip; a fourth channel is unassociated alpha."""
    height, width, channels = image.shape
    bits = 8 + 2 + 12 * 11 + 4
    values = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, bits + 2 * channels),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, image.nbytes),
        (338, 3, 1, 2) if channels == 4 else (339, 3, 1, 3 if image.dtype.kind == "f" else 1),
    ]
    entries = b"".join(struct.pack("<HHII", *value) for value in values)
    header = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)
    return header + struct.pack(f"<{channels}H", *[8 * image.itemsize] * channels) + image.tobytes()


def exif(orientation: int, order: str) -> bytes:
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    other = struct.pack(order + "HHII", 0x0100, 4, 1, 32)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    return start + other + entry + bytes(4)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_lossless(image: np.ndarray) -> bytes:
    """The VP8L chunk's content."""
    simple = encoded(".webp", image, cv2.IMWRITE_WEBP_QUALITY, 101)
    return simple[20 : 20 + int.from_bytes(simple[16:20], "little")]


def webp_header(height: int, width: int, flags: int) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]


def saved(folder: Path, data: bytes, name: str = "image.jpg") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def refusal(source) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_photographs_decode_as_opencv_decodes_them():
    if "PPSOLO_DATA" not in os.environ:
        pytest.skip("PPSOLO_DATA is not set")
    paths = find_images(Path(os.environ["PPSOLO_DATA"]) / "coco_permissive" / "val2017").images
    assert len(paths) == 57
    for path in paths:
        image = read_image(path)
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        assert bgr is not None and np.array_equal(image, bgr[:, :, ::-1])


@pytest.mark.parametrize("name", ["x.png", "a b.png", "Bäckerei №5 写真.png", "wrong suffix.jpg", "none", "%d.png"])
def test_lossless_pixels_come_back_rgb_from_any_name(tmp_path, photo, name):
    path = saved(tmp_path, encoded(".png", photo), name)
    assert np.array_equal(read_image(path), photo)
    assert np.array_equal(read_image(str(path)), photo)


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".ppm"])
def test_other_lossless_formats(tmp_path, photo, suffix):
    assert np.array_equal(read_image(saved(tmp_path, encoded(suffix, photo))), photo)


@pytest.mark.parametrize(
    "options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)], ids=str
)
def test_jpeg_kinds_and_trailing_bytes(tmp_path, photo, options):
    data = encoded(".jpg", photo, *options)
    expected = opencv(data)
    assert np.array_equal(read_image(saved(tmp_path, data)), expected)
    assert np.array_equal(read_image(saved(tmp_path, data + b"\0\xff\xd8 a camera's trailer")), expected)


def test_marker_bytes_inside_a_comment_are_not_markers(tmp_path, photo):
    data = encoded(".jpg", photo)
    comment = b"\xff\xfe" + struct.pack(">H", 8) + b"\xff\xd9\xff\x45\xff\xd8"
    commented = data[:2] + comment + data[2:]
    assert np.array_equal(read_image(saved(tmp_path, commented)), read_image(saved(tmp_path, data, "plain")))


@pytest.mark.parametrize("size", [(1, 1), (10, 20000)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
def test_extreme_shapes(tmp_path, size, suffix):
    image = np.full((*size, 3), 128, np.uint8)  # grey 128 is exact in JPEG too
    assert np.array_equal(read_image(saved(tmp_path, encoded(suffix, image))), image)


def test_cmyk_jpeg(tmp_path):
    expected = [[[255, 255, 255], [255, 0, 0]], [[0, 204, 204], [119, 103, 87]]]  # (255 - C) (255 - K) / 255
    image = read_image(saved(tmp_path, CMYK_JPEG))
    # one level: OpenCV converts in whole numbers
    assert np.abs(image[4::8, 4::8].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm"])
def test_sixteen_bits_become_eight(tmp_path, suffix):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for stored in (ramp, np.dstack([ramp, ramp.T, ramp[::-1]])):
        image = read_image(
            saved(tmp_path, encoded(".pgm" if stored.ndim == 2 and suffix == ".ppm" else suffix, stored))
        )
        exact = np.broadcast_to(stored[..., None] if stored.ndim == 2 else stored, (256, 256, 3)) / 257
        # PNG and PNM drop the low byte, TIFF rounds: never a level away
        assert np.abs(image - exact).max() < 1


def test_float_tiff_is_read_in_its_range_and_refused_outside(tmp_path):
    pytest.importorskip("tifffile")
    ramp = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
    assert np.array_equal(read_image(saved(tmp_path, tiff(ramp))), np.rint(ramp.astype(np.float64) * 255))
    assert "are not in 0..1: set preprocess.value_range" in refusal(saved(tmp_path, tiff(ramp * 2)))


def test_png_colour_types(tmp_path):
    grey = png(2, 2, 8, 0, b"\0\x05\xff\0\x07\x08")
    assert read_image(saved(tmp_path, grey)).tolist() == [[[5] * 3, [255] * 3], [[7] * 3, [8] * 3]]
    bits = png(1, 3, 1, 0, b"\0\xa0")
    assert read_image(saved(tmp_path, bits)).tolist() == [[[255] * 3, [0] * 3, [255] * 3]]
    palette = png_chunk(b"PLTE", bytes([1, 2, 3, 250, 100, 50])) + png_chunk(b"tRNS", b"\0")
    indexed = png(1, 2, 8, 3, b"\0\x01\x00", extra=palette)
    assert read_image(saved(tmp_path, indexed)).tolist() == [[[250, 100, 50], [1, 2, 3]]]


def test_alpha_is_dropped_and_the_colour_is_as_stored(tmp_path, photo):
    grey_alpha = png(1, 2, 8, 4, b"\0\x09\x00\x0a\xff")
    assert read_image(saved(tmp_path, grey_alpha)).tolist() == [[[9] * 3, [10] * 3]]
    alpha = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32, 1)
    rgba = np.concatenate([photo, alpha], axis=2)
    stored = cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA)
    assert np.array_equal(read_image(saved(tmp_path, cv2.imencode(".png", stored)[1].tobytes())), photo)


def test_tiff_colour_is_multiplied_by_its_alpha(tmp_path, photo):
    alpha = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32, 1)
    image = read_image(saved(tmp_path, tiff(np.concatenate([photo, alpha], axis=2))))
    # half a level: libtiff rounds to whole numbers
    assert np.abs(image - photo * (alpha / 255.0)).max() <= 0.5


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_the_picture_upright(tmp_path, photo, orientation, order):
    block = exif(orientation, order)
    plain = encoded(".jpg", photo)
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(block)) + b"Exif\0\0" + block
    image = read_image(saved(tmp_path, plain[:2] + segment + plain[2:]))
    assert np.array_equal(image, UPRIGHT[orientation](opencv(plain))) and image.flags.c_contiguous

    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    image = read_image(saved(tmp_path, png(24, 32, 8, 2, rows, extra=png_chunk(b"eXIf", block))))
    assert np.array_equal(image, UPRIGHT[orientation](photo))
    image = read_image(saved(tmp_path, tiff(photo, orientation=orientation)))
    assert np.array_equal(image, UPRIGHT[orientation](photo))


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_a_webp_upright(tmp_path, photo, orientation, prefix):
    header, content = webp_header(24, 32, 0x08), (b"VP8L", webp_lossless(photo))
    for order in "<>":
        data = riff(header, content, (b"EXIF", prefix + exif(orientation, order)))
        image = read_image(saved(tmp_path, data))
        assert np.array_equal(image, UPRIGHT[orientation](photo)) and image.flags.c_contiguous
    assert np.array_equal(read_image(saved(tmp_path, riff(content))), photo)
    assert np.array_equal(read_image(saved(tmp_path, riff(header, content, (b"EXIF", b"nonsense")))), photo)


def test_of_an_animated_webp_the_first_frame(tmp_path, photo):
    place = bytes(6) + struct.pack("<I", 31)[:3] + struct.pack("<I", 23)[:3] + b"\x64\0\0" + b"\x02"
    frames = [
        (b"ANMF", place + b"VP8L" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2))
        for content in (webp_lossless(photo), webp_lossless(255 - photo))
    ]
    animation = riff(webp_header(24, 32, 0x02), (b"ANIM", bytes(6)), *frames)
    file = saved(tmp_path, animation)
    if tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 11):
        with pytest.raises(ImageError, match=r"this WebP: animations need OpenCV 4\.11 or newer"):
            read_image(file)
    else:
        assert np.array_equal(read_image(file), photo)


@pytest.mark.parametrize(
    ("name", "suffix", "options"),
    [
        ("JPEG", ".jpg", ()),
        ("JPEG", ".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        ("PNG", ".png", ()),
        ("WebP", ".webp", ()),
        ("WebP", ".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
    ],
    ids=str,
)
def test_a_file_cut_short_is_named_so_and_nothing_is_printed(tmp_path, photo, capfd, name, suffix, options):
    data = encoded(suffix, photo, *options)
    for length in (16, 40, len(data) // 2, len(data) - 20, len(data) - 3, len(data) - 1):
        path = saved(tmp_path, data[:length])
        assert refusal(path).startswith(f"{path}: the {name} is cut short")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".ppm"])
def test_other_formats_cut_short_are_refused(tmp_path, photo, suffix):
    data = encoded(suffix, photo)
    for length in (12, len(data) // 2, len(data) - 1):
        assert "cannot decode this" in refusal(saved(tmp_path, data[:length]))


@pytest.mark.parametrize("chunk", [b"IHDR", b"eXIf", b"IDAT"])
def test_a_damaged_png_is_refused_without_noise(tmp_path, capfd, chunk):
    extra = png_chunk(b"eXIf", exif(6, "<"))
    data = bytearray(png(2, 2, 8, 0, b"\0\x05\xff\0\x07\x08", extra=extra))
    data[data.index(chunk) + 8] ^= 1
    assert f"wrong checksum of the chunk at byte {data.index(chunk) - 4}" in refusal(saved(tmp_path, bytes(data)))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("chunk", [b"acTL", b"fcTL", b"fdAT"])
def test_an_animated_png_is_refused(tmp_path, chunk):
    data = png(2, 2, 8, 0, b"\0\x05\xff\0\x07\x08", extra=png_chunk(chunk, bytes(8)))
    assert "animated PNG" in refusal(saved(tmp_path, data))


def test_an_impossible_marker_in_jpeg_data_is_refused(tmp_path, photo):
    data = encoded(".jpg", photo)
    position = len(data) - 60
    damaged = data[:position] + b"\xff\x45" + data[position + 2 :]
    assert f"impossible marker 0x45 at byte {position + 1}" in refusal(saved(tmp_path, damaged))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, this is\ntext", "HEIC)"),
        (b"8BPS, a picture of Photoshop", "HEIC)"),
        (b"\xff\xd8\xff\xd9", "cannot decode this JPEG"),
        (b"BM", "cannot decode this BMP"),
    ],
    ids=["empty", "text", "photoshop", "jpeg of nothing", "bmp of nothing"],
)
def test_what_is_no_image_is_refused_by_path_and_reason(tmp_path, data, reason):
    path = saved(tmp_path, data)
    assert refusal(path).startswith(f"{path}: ")
    assert reason in refusal(path) and "hello" not in refusal(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, photo):
    assert "50000 x 40000 pixels are too many" in refusal(saved(tmp_path, png(50000, 40000, 8, 2, bytes(99))))
    jpeg = bytearray(encoded(".jpg", photo))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 64000)
    assert "65000 x 64000 pixels are too many" in refusal(saved(tmp_path, bytes(jpeg)))
    bmp = bytearray(encoded(".bmp", photo))
    bmp[18:26] = struct.pack("<ii", 40000, -41000)  # rows from the top
    assert "41000 x 40000 pixels are too many" in refusal(saved(tmp_path, bytes(bmp)))
    page = bytearray(tiff(photo))
    page[18:22], page[30:34] = struct.pack("<I", 32000), struct.pack("<I", 31000)
    assert "31000 x 32000 pixels are too many" in refusal(saved(tmp_path, bytes(page)))
    assert "31000 x 32000 pixels are too many" in refusal(saved(tmp_path, b"P4 #\n# a 1\n32000\n31000\n" + bytes(99)))


def test_limits_are_inclusive(tmp_path, photo, monkeypatch):
    for suffix in (".jpg", ".png", ".webp", ".bmp"):
        path = saved(tmp_path, encoded(suffix, photo))
        monkeypatch.setattr(images, "MAX_PIXELS", 24 * 32)
        assert read_image(path).shape == (24, 32, 3)
        monkeypatch.setattr(images, "MAX_PIXELS", 24 * 32 - 1)
        assert "24 x 32 pixels are too many" in refusal(path)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *((suffix, []) for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".pgm")),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    ],
)
def test_a_limit_of_ones_own_holds_before_anything_is_decoded(monkeypatch, photo, suffix, options):
    data = encoded(suffix, photo[..., 0] if suffix == ".pgm" else photo, *options)
    np.testing.assert_array_equal(decode_image(data, max_pixels=24 * 32), opencv(data))
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="24 x 32 pixels are too many"):
        decode_image(data, max_pixels=24 * 32 - 1)


def test_the_tiles_of_a_tiff_are_measured_too(photo):
    data = tiff(photo)
    entry = data.index(struct.pack("<HHII", 278, 4, 1, 24))
    tiles = struct.pack("<HHIIHHIHH", 322, 4, 1, 40000, 323, 3, 1, 50000, 0)
    with pytest.raises(ImageError, match="50000 x 40000 pixels are too many"):
        decode_image(data[:entry] + tiles + data[entry + len(tiles) :], max_pixels=2**28)


def test_a_huge_file_is_not_loaded(tmp_path):
    path = saved(tmp_path, b"\xff\xd8\xff")
    os.truncate(path, 2**31)  # sparse
    assert "2147483648 bytes are too many" in refusal(path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert "no such file" in refusal(tmp_path / "missing.jpg")
    assert "a directory" in refusal(tmp_path)
    assert "a pipe, socket or device" in refusal(tmp_path / "pipe.jpg")
    assert "a pipe, socket or device" in refusal("/dev/zero")
    assert "cannot be read" in refusal(tmp_path / "loop.jpg")
    assert "cannot be read" in refusal("x" * 5000)
    assert "cannot be read" in refusal("a\0b.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_refused(tmp_path, photo):
    path = saved(tmp_path, encoded(".png", photo))
    path.chmod(0)
    assert "cannot be read (Permission denied)" in refusal(path)


def test_an_array_is_handed_back(photo):
    assert read_image(photo) is photo
    mirrored = read_image(photo[:, ::-1])
    assert mirrored.flags.c_contiguous and np.array_equal(mirrored, np.fliplr(photo))


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        (np.zeros((2, 4, 3), np.float32), "astype"),
        (np.zeros((2, 4, 3), np.int8), "astype"),
        (np.zeros((2, 4), np.uint8), "GRAY2RGB"),
        (np.zeros((2, 4, 1), np.uint8), "GRAY2RGB"),
        (np.zeros((2, 4, 4), np.uint8), "BGRA2RGB"),
        (np.zeros((3, 2, 5), np.uint8), "transpose(1, 2, 0)"),
        (np.zeros((1, 2, 4, 3), np.uint8), "one image at a time"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros(7, np.uint8), "channels come last"),
        (np.broadcast_to(np.uint8(0), (20000, 20000, 3)), "at most 268435456 pixels: cut it up or shrink it"),
    ],
    ids=lambda value: str(value.shape) + str(value.dtype) if isinstance(value, np.ndarray) else value,
)
def test_another_array_is_refused_with_the_remedy(image, remedy):
    message = refusal(image)
    assert f"dtype {image.dtype} and shape {list(image.shape)}: expected uint8 [H, W, 3] RGB" in message
    assert remedy in message


def test_another_type_is_refused():
    assert "got list" in refusal([[1, 2, 3]])


def test_the_images_of_a_directory(tmp_path):
    for name in (
        "b10.JPG",
        "b2.jpeg",
        "B1.png",
        "a.TIFF",
        "notes.txt",
        ".hidden.jpg",
        "jpg",
        "x.webp",
        "y.bmp",
        "z.tif",
    ):
        saved(tmp_path, b"", name)
    (tmp_path / "folder.jpg").mkdir()
    names = [path.name for path in find_images(tmp_path).images]
    assert names == ["a.TIFF", "B1.png", "b2.jpeg", "b10.JPG", "x.webp", "y.bmp", "z.tif"]
    assert find_images(str(tmp_path)) == find_images(tmp_path)


def test_a_directory_without_images_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=r"no image in this directory \(\.jpg, "):
        find_images(tmp_path)
    monkeypatch.setattr(os, "listdir", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(ImageError, match=r"cannot be listed as a directory \(Permission denied\)"):
        find_images(tmp_path)


def test_the_images_of_a_pattern(tmp_path):
    for name in (
        "2.jpg",
        "10.jpg",
        "note.txt",
        "[1].jpg",
        "1.jpg",
        "sub/3.png",
        "sub/.4.png",
        "set[7]/5.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        saved(tmp_path, b"", name)

    def names(pattern: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_images(f"{tmp_path}/{pattern}").images]

    assert names("2.jpg") == ["2.jpg"]
    assert names("note.txt") == ["note.txt"]
    assert names("[1].jpg") == ["[1].jpg"]
    assert names("[12].jpg") == ["1.jpg", "2.jpg"]
    assert names("") == ["1.jpg", "2.jpg", "10.jpg", "[1].jpg"]
    assert names("*") == names("*.jpg") == names("")
    assert names("sub") == names("s?b/*") == ["sub/3.png"]
    assert names("set[7]/*.png") == ["set[7]/5.png"]
    assert sorted(names("**/*")) == sorted([*names(""), "sub/3.png", "set[7]/5.png"])
    assert find_images(tmp_path / "2.jpg").images == [tmp_path / "2.jpg"]


def test_a_pattern_without_images_is_refused(tmp_path):
    saved(tmp_path, b"", "note.txt")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="no such file or directory"):
        find_images(f"{tmp_path}/missing.jpg")
    with pytest.raises(ImageError, match="matches no image"):
        find_images(f"{tmp_path}/*.jpg")
    with pytest.raises(ImageError, match="pipe"):
        find_images(f"{tmp_path}/pipe.jpg")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("000000252219.jpg", 252219),
        ("dir/7.png", 7),
        ("0.jpg", 0),
        ("COCO_val2014_000000000042.jpg", 42),
        ("COCO_train_x_2.jpg", 2),
        ("9223372036854775807.jpg", 2**63 - 1),
        ("9223372036854775808.jpg", None),
        ("frame_0012.jpg", None),
        ("12a.jpg", None),
        ("-5.jpg", None),
        ("1.5.jpg", None),
        ("٣.jpg", None),
        ("cat.jpg", None),
    ],
)
def test_image_id_of(name, number):
    assert image_id_of(name, 1234) == (1234 if number is None else number)
    assert image_id_of(Path(name), 1234) == image_id_of(name, 1234)


def test_image_ids_are_unique_and_stated_numbers_come_first():
    assert image_ids(["cat.jpg", "0.jpg", "dog.jpg", "2.jpg", "COCO_val2014_2.jpg", "x/0.png"]) == [
        1,
        0,
        3,
        2,
        4,
        5,
    ]
    assert image_ids(["b.jpg", "a.jpg", "b.jpg"]) == [0, 1, 2]
    assert image_ids([Path("5.jpg"), Path("05.jpg"), Path("4.jpg")]) == [5, 0, 4]
    assert image_ids([]) == []
    assert image_ids(["9" * 5000 + ".jpg", "7.jpg"]) == [0, 7]  # more digits than Python reads


def test_write_image(tmp_path, photo):
    write_image(tmp_path / "a.PNG", photo[:, ::-1])
    assert np.array_equal(read_image(tmp_path / "a.PNG"), np.fliplr(photo))
    write_image(str(tmp_path / "ä b.jpg"), photo)
    assert np.array_equal(read_image(tmp_path / "ä b.jpg"), opencv(encoded(".jpg", photo)))
    write_image(tmp_path / "ä b.jpg", 255 - photo)
    assert sorted(os.listdir(tmp_path)) == ["a.PNG", "ä b.jpg"]


def test_write_image_refuses_and_leaves_nothing(tmp_path, photo):
    (tmp_path / "folder.png").mkdir()
    saved(tmp_path, b"", "file")
    too_wide = np.zeros((1, 70000, 3), np.uint8)  # a JPEG side has 16 bits
    for name, image, reason in (
        ("a.gif", photo, "not as '.gif'"),
        ("a.png", photo / 255.0, "dtype float64"),
        ("missing/a.png", photo, "No such file"),
        ("folder.png", photo, "cannot be written"),
        ("file/a.png", photo, "Not a directory"),
        ("wide.jpg", too_wide, "cannot encode"),
    ):
        with pytest.raises(ImageError, match=reason):
            write_image(tmp_path / name, image)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


@pytest.mark.parametrize("depth", [1, 2, 4, 9])
def test_read_ahead_keeps_the_order_and_yields_errors(tmp_path, photo, depth):
    good = saved(tmp_path, encoded(".png", photo), "good.png")
    sources = [good, photo, tmp_path / "missing.png", str(good)] * 2
    results = list(read_ahead(iter(sources), depth=depth))
    assert [source is given for (source, _), given in zip(results, sources, strict=True)] == [True] * 8
    for index, (_, image) in enumerate(results):
        if index % 4 == 2:
            assert isinstance(image, ImageError) and "no such file" in str(image)
            assert image.__traceback__ is None and image.__context__ is None
        else:
            assert isinstance(image, np.ndarray) and np.array_equal(image, photo)
    assert list(read_ahead([], depth=depth)) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_read_ahead_holds_a_bounded_number_of_images(monkeypatch, depth):
    alive = weakref.WeakSet()
    most = 0

    class Image:
        pass

    def fake(source):
        nonlocal most
        image = Image()
        alive.add(image)
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(images, "read_image", fake)
    pulled = []

    def sources():
        for index in range(20):
            pulled.append(index)
            yield str(index)

    for index, (source, _) in enumerate(read_ahead(sources(), depth=depth)):
        assert source == str(index)
        assert len(pulled) == min(index + 1 + depth, 20)
    assert most == depth + 1


def test_closing_read_ahead_ends_its_thread(photo):
    ahead = read_ahead(itertools.repeat(photo), depth=2)
    next(ahead)
    assert any(thread.name.startswith("read_ahead") for thread in threading.enumerate())
    ahead.close()
    assert not any(thread.name.startswith("read_ahead") for thread in threading.enumerate())


def test_closing_read_ahead_drops_what_has_not_begun(monkeypatch):
    begun, gate = [], threading.Event()

    def fake(source):
        begun.append(source)
        assert source == "0" or gate.wait(timeout=30)

    monkeypatch.setattr(images, "read_image", fake)
    ahead = read_ahead(map(str, range(9)), depth=8)
    next(ahead)
    threading.Timer(0.05, gate.set).start()
    ahead.close()
    assert begun in (["0"], ["0", "1"])


def test_other_exceptions_come_through_read_ahead(monkeypatch, photo):
    def fake(source):
        raise MemoryError("no more")

    monkeypatch.setattr(images, "read_image", fake)
    with pytest.raises(MemoryError, match="no more"):
        next(read_ahead([photo]))
    with pytest.raises(ValueError, match="depth must be at least 1"):
        next(read_ahead([photo], depth=0))


def test_pictures_from_memory(photo):
    data = encoded(".png", photo)
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert np.array_equal(read_image(source), photo)
    assert "nothing is left to read" in refusal(io.BytesIO(b""))
    assert "open it with mode 'rb'" in refusal(io.StringIO("text"))
    assert "a picture is a path, bytes, an open file" in refusal(7)
    for head in (b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI LIST"):
        assert "a video, not a picture: `ppsolo infer --source` reads videos" in refusal(head + bytes(40))
    assert "ppsolo.fetch_image(address)" in refusal("https://example.org/a.png")


def test_an_open_file_is_named(tmp_path, photo):
    path = saved(tmp_path, b"no picture", "a.png")
    with path.open("rb") as stream:
        assert refusal(stream).startswith(f"{path}: not an image")


def test_pictures_of_pillow_lie_as_their_files_do(tmp_path, photo):
    pillow = pytest.importorskip("PIL.Image")
    plain = encoded(".jpg", photo)
    block = exif(6, "<")
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(block)) + b"Exif\0\0" + block + plain[2:]
    opened = pillow.open(io.BytesIO(data))
    # two JPEG decoders round differently
    assert np.abs(read_image(opened).astype(int) - read_image(data)).max() <= 3 and read_image(opened).shape[:2] == (
        32,
        24,
    )
    for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK", "LA"):
        picture = pillow.fromarray(photo).convert(mode)
        assert np.array_equal(read_image(picture), np.array(picture.convert("RGB")))
    deep = pillow.fromarray(photo[:, :, 0].astype(np.uint16) * 257)
    assert np.array_equal(read_image(deep)[:, :, 2], photo[:, :, 0])


def test_tensors(photo):
    paddle = pytest.importorskip("paddle")
    assert np.array_equal(read_image(paddle.to_tensor(photo)), photo)
    assert np.array_equal(read_image(paddle.to_tensor(photo.transpose(2, 0, 1).copy())), photo)
    assert "multiply by 255" in refusal(paddle.to_tensor((photo / 255).astype(np.float32)))
    assert "multiply by 255" in refusal((photo / 255).astype(np.float32))


def test_none_of_these_packages_is_imported():
    program = (
        "import sys, numpy, ppsolo; ppsolo.read_image(numpy.zeros([4, 4, 3], numpy.uint8))\n"
        "print([name for name in ('torch', 'paddle', 'PIL', 'tifffile', 'av') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_reader_says_each_kind_of_note_once(caplog):
    values = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    first, second = (encoded(".png", part) for part in (values, values[::-1]))
    reader = images.ImageReader()
    for data in (first, second, first):
        reader(data)
    assert len(caplog.records) == 1 and "further pictures of this kind are not named" in caplog.text


def test_nuclei_in_twelve_bits_are_the_8_bit_pictures(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    if "PPSOLO_DATA" not in os.environ:
        pytest.skip("PPSOLO_DATA is not set")
    reader = images.ImageReader(PixelSettings(value_range=(0, 4095)))
    paths = find_images(Path(os.environ["PPSOLO_DATA"]) / "dsb2018_360" / "val").images
    assert len(paths) == 23
    for path in paths:
        image = read_image(path)
        twelve = np.rint(image * (4095 / 255)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "twelve.tif", twelve, photometric="rgb", compression="zlib", tile=(128, 128))
        assert np.array_equal(reader(tmp_path / "twelve.tif"), image)
