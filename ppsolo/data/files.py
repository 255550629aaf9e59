"""Finds and numbers picture files in folders and by patterns, and names the files left out."""

import glob
import itertools
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppsolo.data.headers import is_picture
from ppsolo.errors import ImageError
from ppsolo.text import counted

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".btf"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".gif"),
)
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts"),
    *(".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".mjpg", ".mjpeg", ".y4m", ".gif"),
)
# Annotations and notes that often lie next to pictures: skipped, not reported one by one.
COMPANION_SUFFIXES = (".json", ".jsonl", ".xml", ".txt", ".csv", ".yml", ".yaml", ".md", ".html", ".db", ".ini")

# PNG, BMP, TIFF, WebP, Netpbm, HDR, EXR, DPX, PSD, SGI, Sun, QOI, DDS, JPEG XL
_PICTURE_IN_FFMPEG = re.compile(
    rb"\x89PNG|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|P[1-7FfHh][\s#]|#\?R|v/1\x01|SDPX|XPDS|8BPS|\x01\xda[\0\x01]|Y\xa6j\x95|qoif"
    rb"|DDS |\xff\x0a|\0\0\0\x0cJXL ",
    re.DOTALL,
)


def regular_file(path: Path) -> os.stat_result:
    """Return `stat` of a readable regular file; ImageError for others: a pipe or a device may block forever."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"{str(path)!r}: cannot be read ({error})") from None
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path}: a directory; give a picture in it")
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path}: a pipe, socket or device, expected a regular file")
    if not os.access(path, os.R_OK):
        raise ImageError(f"{path}: cannot be read (Permission denied)")
    return found


def check_video_file(path: Path) -> None:
    """Raise ImageError like `regular_file`, and for what FFmpeg reads although it is no video.

    A list leads to other files or to itself; a picture may have any number of pixels.
    """
    regular_file(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(32)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if start.startswith(b"ffconcat"):
        raise ImageError(f"{path}: a list of videos, not a video; give the videos one by one")
    if _PICTURE_IN_FFMPEG.match(start):
        raise ImageError(f"{path}: a picture, not a video; give it a suffix of pictures, such as .png")


class Found(NamedTuple):
    """The content of a folder or of a pattern.

    images: each once, in natural order. left_out: a line for each visible file that is not a picture, with the reason.
    notes: lines that count the usual companions of pictures: annotation and text files, and inner folders.
    """

    images: list[Path]
    left_out: list[str]
    notes: tuple[str, ...] = ()


def find_images(pattern_or_path: str | os.PathLike) -> Found:
    """Find the images that a file, a directory or a pattern (`*`, `?`, `[a-z]`; `**` for any depth) names.

    An existing file with exactly this name is used as it is, with any suffix. In a directory or a pattern, a picture
    is a file with a suffix in IMAGE_SUFFIXES (in any case), or with the first bytes of a readable format. Hidden
    files, inner folders and files in COMPANION_SUFFIXES are skipped.

    Raises:
        ImageError: there is no such file or directory, or no picture.
    """
    text = os.fspath(pattern_or_path)
    if os.path.isdir(text):
        return _found_in(text)
    if os.path.lexists(text):
        regular_file(Path(text))
        return Found([Path(text)], [])
    if not glob.has_magic(text):
        raise ImageError(f"{text}: no such file or directory")
    matches = glob.glob(text, recursive=True) or glob.glob(text.replace("[", "[[]"), recursive=True)
    found = _sorted_out(map(Path, matches), text)
    if not found.images:
        _refuse_only_links(found, text)
        raise ImageError(f"{text}: matches no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _found_in(directory: str | os.PathLike) -> Found:
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise ImageError(f"{directory}: cannot be listed as a directory ({error.strerror})") from None
    paths = [Path(directory, name) for name in names]
    found = _sorted_out(paths, str(directory))
    if not found.images:
        _refuse_only_links(found, str(directory))
        raise ImageError(f"{directory}: no image in this directory ({', '.join(IMAGE_SUFFIXES)})")
    folders = sum(path.is_dir() and not path.name.startswith(".") for path in paths)
    if folders:
        inside = (
            f"{directory}: {counted(folders, 'folder')} inside not searched; '{Path(directory, '**')}' includes them"
        )
        found = found._replace(notes=(*found.notes, inside))
    return found


def _sorted_out(paths: Iterable[Path], where: str) -> Found:
    images, left_out, companions = [], [], Counter[str]()
    for path in sorted(set(paths), key=_natural_key):
        if path.name.startswith("."):
            continue
        if not os.path.isfile(path):
            link = path.is_symlink() and path.suffix.lower() not in COMPANION_SUFFIXES
            if link and not os.path.exists(path):
                left_out.append(f"{path}: left out, a link to {os.readlink(path)}, which does not exist")
            continue
        if path.suffix.lower() in COMPANION_SUFFIXES:
            companions[path.suffix.lower()] += 1
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            left_out.append(f"{path}: left out, a video; give it by itself: --source {path}")
        elif is_picture(_first_bytes(path)):
            images.append(path)
        else:
            left_out.append(f"{path}: left out, not a picture that can be read")
    if not companions:
        return Found(images, left_out)
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(companions.items()))
    passed = f"{where}: {counted(companions.total(), 'annotation or text file')} skipped ({kinds})"
    return Found(images, left_out, (passed,))


def _refuse_only_links(found: Found, where: str) -> None:
    """Name the first link that leads nowhere: perhaps the disk with the pictures is not mounted."""
    links = [line for line in found.left_out if os.path.islink(line.partition(": left out, a link to ")[0])]
    if links:
        raise ImageError(f"{where}: no image; {links[0]}")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(32)
    except OSError:
        return b""


def _natural_key(path: Path) -> tuple[list[str | int], str]:
    """Compare numbers as numbers and letters without case; equal names by their exact text."""
    parts = re.split(r"([0-9]+)", str(path).casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], str(path)


def image_id_of(path: str | os.PathLike, running: int) -> int:
    """Return the image id in a file name, or `running` if there is none.

    The stem must be a number, with or without COCO's prefix: `000000252219.jpg` is 252219,
    `COCO_val2014_000000000042.jpg` is 42. Numbers from 2**63 on do not count, because ids are int64.
    """
    stated = re.fullmatch(r"(?:COCO_\w+_)?([0-9]{1,100})", Path(path).stem)
    return int(stated[1]) if stated and int(stated[1]) < 2**63 else running


def image_ids(paths: Sequence[str | os.PathLike]) -> list[int]:
    """Give each path a different image id, in order.

    The first path with a number (`image_id_of`) gets this number. Every other path gets the smallest unused number,
    from 0 on, that is not in any path.
    """
    stated = [image_id_of(path, -1) for path in paths]
    running = itertools.filterfalse(set(stated).__contains__, itertools.count())
    ids, taken = [], {-1}
    for number in stated:
        ids.append(next(running) if number in taken else number)
        taken.add(number)
    return ids
