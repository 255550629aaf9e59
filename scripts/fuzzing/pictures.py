"""Pictures and videos."""

import io
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from fuzzing.target import Target, picture

MOST_PIXELS = 10**6
MOST_FRAMES = 8


def _image(data: bytes, folder: Path) -> None:
    from ppsolo.data.decode import decode_image

    decode_image(data, max_pixels=MOST_PIXELS)


def _image_seeds() -> list[bytes]:
    suffixes = (".jpg", ".png", ".tif", ".webp", ".bmp", ".ppm", ".pgm", ".jp2", ".gif", ".avif")
    seeds = [b"P5 0000000008 8 255\n" + bytes(64)]
    for suffix in suffixes:
        try:
            seeds.append(picture(suffix, *((64, 64) if suffix == ".jp2" else ())))
        except (cv2.error, AttributeError):  # this OpenCV cannot write it
            continue
    return [*seeds, *_pillow_seeds(), *_tiff_seeds()]


def _pillow_seeds() -> list[bytes]:
    """An animation, a JPEG in four colours, one in steps, and a picture of 16 bits; none without Pillow."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return []
    plain = Image.open(io.BytesIO(picture()))
    seeds = []
    for kind, image, options in (
        ("PNG", plain, {"save_all": True, "append_images": [plain.rotate(90), plain.rotate(180)]}),
        ("GIF", plain, {"save_all": True, "append_images": [plain.rotate(180)]}),
        ("JPEG", plain.convert("CMYK"), {}),
        (
            "JPEG",
            plain,
            {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"},
        ),
        ("PNG", Image.fromarray(np.arange(192, dtype=np.uint16).reshape(12, 16) * 300), {}),
        ("PNG", plain.convert("P"), {}),
    ):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        seeds.append(stream.getvalue())
    return seeds


def _tiff_seeds() -> list[bytes]:
    """Stacks, tiles, palettes and compressions; none without tifffile."""
    try:
        import tifffile
    except ModuleNotFoundError:
        return []
    chance, seeds = np.random.default_rng(0), []
    kinds: tuple[tuple[tuple[int, ...], type, dict[str, Any]], ...] = (
        ((3, 12, 16), np.uint16, {"photometric": "minisblack"}),
        ((32, 32, 3), np.uint8, {"tile": (16, 16), "compression": "zlib"}),
        ((12, 16, 5), np.uint8, {"photometric": "minisblack", "planarconfig": "contig"}),
        ((12, 16), np.float32, {"bigtiff": True}),
        ((2, 3, 12, 16), np.uint8, {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        ((12, 16, 3), np.uint8, {"compression": "jpeg"}),
    )
    for shape, kind, options in kinds:
        stream = io.BytesIO()
        values = (chance.random(shape) * 200).astype(kind)
        try:
            tifffile.imwrite(stream, values, **options)
        except (ImportError, ValueError):  # a codec is missing
            continue
        seeds.append(stream.getvalue())
    return seeds


def _windows(data: bytes, folder: Path) -> None:
    from ppsolo.data import images
    from ppsolo.data.windows import open_windows

    (folder / "x.tif").write_bytes(data)
    with mock.patch.object(images, "MAX_PIXELS", MOST_PIXELS), open_windows(folder / "x.tif") as windows:
        height, width = windows.size
        windows.read(0, 0, min(height, 64), min(width, 64))
        windows.read(max(height - 20, 0), max(width - 20, 0), height, width)


def _video(data: bytes, folder: Path) -> None:
    from ppsolo.data.videos import VideoFrames

    (folder / "x.mp4").write_bytes(data)
    with VideoFrames(folder / "x.mp4") as video:
        for _ in range(MOST_FRAMES):
            if video.read() is None:
                break
        video.drawing_rate()


def _video_seeds() -> list[bytes]:
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, letters in (("mp4", "mp4v"), ("avi", "MJPG"), ("avi", "XVID"), ("mkv", "mp4v"), ("webm", "VP80")):
            path = Path(folder, f"x.{suffix}")
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*letters), 10, (16, 16))
            for number in range(4):
                writer.write(np.full((16, 16, 3), 60 * number, np.uint8))
            writer.release()
            if path.exists() and path.stat().st_size:
                seeds.append(path.read_bytes())
    y4m = b"YUV4MPEG2 W16 H16 F10:1 C420jpeg\n" + (b"FRAME\n" + bytes(384)) * 3
    return [*seeds, y4m, *_pillow_seeds()[1:2]]


TARGETS = {
    "image": Target(_image, _image_seeds),
    "windows": Target(_windows, _tiff_seeds),
    "video": Target(_video, _video_seeds),
}
