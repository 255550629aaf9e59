"""TIFF pictures of every depth and layout, and hostile ones."""

import io
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from real_files import case, right_pixels

from ppsolo.data import tiff
from ppsolo.data.decode import decode_image, decode_with_notes
from ppsolo.data.images import read_image
from ppsolo.data.pixels import PixelSettings
from ppsolo.data.windows import open_windows
from ppsolo.errors import ImageError

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
PIXELS = 2**28


def written(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def read(data: bytes, **settings) -> np.ndarray:
    return decode_with_notes(data, max_pixels=PIXELS, settings=PixelSettings(**settings))[0]


def notes_of(data: bytes, **settings) -> list[str]:
    return decode_with_notes(data, max_pixels=PIXELS, settings=PixelSettings(**settings))[1]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [70, 90, 3] RGB, without any symmetry."""
    y, x = np.mgrid[:70, :90]
    return np.stack([(3 * x + y) % 256, (5 * y) % 256, (x * y) % 256], axis=2).astype(np.uint8)


def test_the_cases():
    for folder, file, right in (
        ("tiff_grey16_tiled", "u16_grey_tiled_deflate.tif", "right_grey.png"),
        ("tiff_bands16", "u16_default.tif", "right.png"),
    ):
        assert np.array_equal(read_image(case(folder, file)), right_pixels(case(folder, right)))


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("layout", [{}, {"tile": (32, 48)}, {"planarconfig": "separate"}, {"rowsperstrip": 9}])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}], ids=str)
def test_layouts(photo, compression, layout, options):
    stored = photo.transpose(2, 0, 1) if "planarconfig" in layout else photo
    data = written(stored, photometric="rgb", compression=compression, **layout, **options)
    assert np.array_equal(read(data), photo)
    deep = written(stored.astype(np.uint16) * 257, photometric="rgb", compression=compression, **layout, **options)
    assert np.array_equal(read(deep), photo)


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("tile", [None, (16, 16), (64, 64)])
def test_grey_of_every_type(photo, dtype, tile, predictor):
    grey = photo[:, :, 0].astype(np.float64)
    top = 1.0 if np.dtype(dtype).kind == "f" else float(np.iinfo(dtype).max)
    stored = np.rint(grey * (top / 255)) if top > 1 else grey / 255
    data = written(stored.astype(dtype), compression="zlib", tile=tile, predictor=predictor)
    values = {"value_range": (0, top)} if np.dtype(dtype) == np.int16 else {}
    assert np.array_equal(read(data, **values)[:, :, 1], photo[:, :, 0])


def test_twelve_bits_and_their_ranges(photo, caplog):
    twelve = np.rint(photo * (4095 / 255)).astype(np.uint16)
    data = written(twelve, photometric="rgb")
    assert read(data).max() < 17
    assert "preprocess.value_range=[0, 4095]" in notes_of(data)[0]
    assert np.array_equal(read(data, value_range=(0, 4095)), photo)
    assert np.array_equal(read(data, value_range="auto"), photo)  # it holds 0 and 255
    assert notes_of(data, value_range=(0, 4095)) == []
    decode_image(data, max_pixels=PIXELS)
    assert "use 16 of 256 levels" in caplog.text


def test_bands_that_are_no_opacity(photo):
    near = np.full((70, 90, 1), 9, np.uint8)
    four = np.concatenate([photo, near], axis=2)
    for options in ({"photometric": "minisblack"}, {"photometric": "rgb", "extrasamples": ["unspecified"]}):
        for stored in (four, four.astype(np.uint16) * 257):
            data = written(stored, planarconfig="contig", **options)
            assert np.array_equal(read(data), photo)
            assert np.array_equal(read(data, channels=(3, 2, 1)), four[:, :, [3, 2, 1]])
            assert "it has 4 channels, the first three are read" in notes_of(data)[0]


def test_opacity_and_ink(photo):
    alpha = np.full((70, 90, 1), 128, np.uint8)
    data = written(np.concatenate([photo, alpha], axis=2), photometric="rgb", extrasamples=["unassalpha"])
    assert np.abs(read(data).astype(int) - photo * (128 / 255)).max() <= 0.5
    data = written(np.concatenate([photo, alpha], axis=2), photometric="rgb", extrasamples=["assocalpha"])
    assert np.array_equal(read(data), photo)
    ink = np.concatenate([255 - photo, np.zeros_like(alpha)], axis=2)
    assert np.array_equal(read(written(ink, photometric="separated")), photo)
    assert np.array_equal(read(written(255 - photo[:, :, 0], photometric="miniswhite"))[:, :, 0], photo[:, :, 0])
    bits = photo[:, :, 0] > 99
    assert np.array_equal(read(written(bits, photometric="minisblack"))[:, :, 2], bits * np.uint8(255))
    palette = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    data = written(photo[:, :, 0], photometric="palette", colormap=palette)
    assert np.array_equal(read(data), (palette.T >> 8).astype(np.uint8)[photo[:, :, 0]])


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {"ome": True, "compression": "zlib"}], ids=str)
def test_stacks_and_channels(photo, options):
    """3 times of 2 channels: time 1, channel 1 holds the photo's green."""
    stack = np.zeros((3, 2, 70, 90), np.uint8)
    stack[1, 1], stack[0, 0], stack[2, 0] = photo[:, :, 1], photo[:, :, 0], photo[:, :, 2]
    axes = {"metadata": {"axes": "TCYX"}}
    data = written(stack, **options, **axes, photometric="minisblack")
    assert np.array_equal(read(data)[:, :, 0], photo[:, :, 0])
    assert "it has 3 pages, the first is read" in notes_of(data)[0]
    assert np.array_equal(read(data, page=1, channels=(1,))[:, :, 0], photo[:, :, 1])
    assert np.array_equal(read(data, page=2, channels=(0, 1, 1))[:, :, 0], photo[:, :, 2])
    with pytest.raises(ImageError, match=r"has 3 pages, but preprocess\.page is 3"):
        read(data, page=3)


def test_pages_of_other_sizes_and_thumbnails(photo):
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(photo, photometric="rgb")
        writer.write(photo[::4, ::4], photometric="rgb", subfiletype=1)
    assert np.array_equal(read(stream.getvalue()), photo) and notes_of(stream.getvalue()) == []
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(photo, photometric="rgb")
        writer.write(photo[:40], photometric="rgb")
    assert "it has 2 pages" in notes_of(stream.getvalue())[0]
    assert np.array_equal(read(stream.getvalue(), page=1), photo[:40])


def test_what_is_cut_short_or_damaged_is_refused(photo):
    for options in ({}, {"compression": "zlib"}, {"compression": "lzw", "tile": (16, 16)}, {"compression": "jpeg"}):
        data = written(photo, photometric="rgb", **options)
        for length in (8, len(data) // 3, len(data) // 2, len(data) - 1):
            with pytest.raises(ImageError, match=r"TIFF|JPEG"):
                read(data[:length])
    data = bytearray(written(photo, photometric="rgb", compression="zlib"))
    middle = tifffile.TiffFile(io.BytesIO(data)).pages[0].dataoffsets[0] + 20
    data[middle : middle + 40] = bytes(40)
    with pytest.raises(ImageError, match="cannot decode this TIFF"):
        read(bytes(data))


def directory(entries: list[tuple[int, int, int, int]]) -> bytes:
    """A little-endian BigTIFF of one directory; entries are (tag, type, count, value)."""
    packed = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", len(entries)) + packed + bytes(8)


@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9, 13, 16, 17, 18])
def test_sizes_of_any_type_are_bounded(kind):
    """A picture of 4e9 pixels, or as many as the type can state, in 300 bytes."""
    side = {1: 255, 6: 127, 3: 65535, 8: 32767}.get(kind, 65000)
    tags = [(256, kind, 1, side), (257, kind, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    data = directory([*tags, (273, 4, 1, 16), (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, 100)])
    with pytest.raises(ImageError):
        decode_image(data, max_pixels=2**15)


def test_hostile_sizes_take_no_memory(tmp_path):
    """A file of 18 KB claims 40000 x 40000 pixels of deflated zeros. It is read in its own process."""
    import zlib

    strip = zlib.compress(bytes(2**24), 9)
    tags = [(256, 16, 1, 40000), (257, 17, 1, 40000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    head = directory([*tags, (273, 16, 1, 300), (277, 3, 1, 1), (278, 16, 1, 40000), (279, 16, 1, len(strip))])
    path = tmp_path / "hostile.tif"
    path.write_bytes(head.ljust(300, b"\0") + strip)
    program = (
        "import resource, sys; from ppsolo.data.images import read_image; from ppsolo.errors import ImageError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(sys.argv[1])\n"
        "except ImageError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    said = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    line, grown = said.stdout.splitlines()
    assert "40000 x 40000 pixels are too many" in line
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(grown) * unit < 200 * 2**20


def test_a_jpeg_in_a_tile_may_not_be_larger_than_its_tile(photo):
    data = bytearray(written(photo, photometric="rgb", compression="jpeg", tile=(32, 32)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(ImageError, match="65000 x 65000 pixels are too many"):
        read(bytes(data))


def test_codecs_with_sizes_of_their_own_are_refused(photo):
    with pytest.raises(ImageError, match=r"compressed by .*: save it with deflate"):
        read(written(photo[:, :, 0], compression="lerc"))


def test_without_tifffile_plain_pictures_are_read_and_others_name_the_extra(photo, monkeypatch):
    def missing(name: str):
        raise ModuleNotFoundError(name=name)

    grey = photo[:, :, 0]
    plain = [written(photo, photometric="rgb", compression=c) for c in (None, "lzw", "zlib")]
    deep = written(grey.astype(np.uint16) * 257, compression="zlib", tile=(64, 64))
    others = [
        written(photo, photometric="rgb", bigtiff=True),
        written(photo.astype(np.uint16), photometric="minisblack", planarconfig="contig"),
        written(grey.astype(np.float32) / 255),
        written(photo, photometric="rgb", compression="zstd"),
    ]
    monkeypatch.setattr(tiff.importlib, "import_module", missing)
    for data in plain:
        assert np.array_equal(read(data), photo)
    assert np.array_equal(read(deep)[:, :, 0], grey)
    for data in others:
        with pytest.raises(ImageError, match=r"needs pip install 'ppsolo\[images\]'"):
            read(data)
    with pytest.raises(ImageError, match="to choose a page of a TIFF needs"):
        read(plain[0], page=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_without_tifffile_a_picture_is_turned_upright_once(photo, monkeypatch, orientation):
    tag = [(274, "H", 1, orientation, True)]
    eight, sixteen = (written(values, photometric="rgb", extratags=tag) for values in (photo, photo.astype("u2") * 257))
    expected = read(eight)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert np.array_equal(read(eight), expected) and np.array_equal(read(sixteen), expected)


def entries(*tags: tuple[int, int, int, int]) -> bytes:
    """A directory without the place of the next one: tag, type, count and value of each entry."""
    return struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)


GREY = ((256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1))
SIZES = ((278, 4, 1, 4), (279, 4, 1, 16))


def overlapping_directories(number: int) -> bytes:
    """A picture of 4 x 4, and then directories of 4,096 tags that begin four bytes after each other."""
    head = struct.pack("<2sHI", b"II", 42, 24) + bytes(16) + entries(*GREY, *SIZES)
    start = len(head) + 4
    region = bytearray(b"\x00\x10" * (4 * number + 24600))
    for i in range(number):
        struct.pack_into("<I", region, 4 * i + 2 + 4096 * 12, start + 4 * (i + 1) if i + 1 < number else 0)
    return head + struct.pack("<I", start) + bytes(region)


def repeated_sub_directory(number: int) -> bytes:
    """A picture of 4 x 4 that names one sub-directory of 4,096 tags again and again."""
    start = 24 + len(entries(*GREY, *SIZES)) + 12 + 4
    sub = entries(*((40000 + i, 3, 1, 1) for i in range(4096))) + bytes(4)
    first = entries(*GREY, *SIZES, (330, 4, number, start + len(sub)))
    head = struct.pack("<2sHI", b"II", 42, 24) + bytes(16) + first + bytes(4)
    return head + sub + struct.pack("<I", start) * number


@pytest.mark.parametrize("data", [overlapping_directories(500), repeated_sub_directory(500)], ids=["chain", "sub"])
def test_directories_that_overlap_are_refused_at_once(data):
    started = time.process_time()
    with pytest.raises(ImageError, match="directories overlap"):
        read(data)
    assert time.process_time() - started < 1  # tifffile alone takes 5 s, and more for a larger file


def test_more_strips_than_bytes_are_refused():
    strips = ((256, 4, 1, 4), (257, 4, 1, 400_000), *GREY[2:], (278, 4, 1, 1), (279, 4, 1, 16))
    with pytest.raises(ImageError, match="more strips or tiles than it has bytes"):
        read(struct.pack("<2sHI", b"II", 42, 24) + bytes(16) + entries(*strips) + bytes(4))


def without_length(place: int) -> bytes:
    """A picture of 4 x 4 in deflate, whose strip has a place and the length 0."""
    tags = (*GREY[:3], (259, 3, 1, 8), GREY[4], (273, 4, 1, place), GREY[6], (278, 4, 1, 4), (279, 4, 1, 0))
    return struct.pack("<2sHI", b"II", 42, 24) + bytes(16) + entries(*tags) + bytes(4)


def test_a_strip_without_length_is_damage_and_an_omitted_one_is_empty(tmp_path):
    (tmp_path / "a.tif").write_bytes(without_length(8))
    with pytest.raises(ImageError, match="a strip or tile has no length"):
        read(without_length(8))
    with pytest.raises(ImageError, match="a strip or tile has no length"), open_windows(tmp_path / "a.tif"):
        pass
    assert not read(without_length(0)).any()


def test_sub_directories_and_many_pages_are_read(photo):
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for page in range(30):
            file.write(photo + np.uint8(page), photometric="rgb", subifds=2, metadata=None)
            for step in (2, 4):
                file.write(photo[::step, ::step], photometric="rgb", subfiletype=1, metadata=None)
    assert np.array_equal(read(stream.getvalue(), page=29), photo + np.uint8(29))
