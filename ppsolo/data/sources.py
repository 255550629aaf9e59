"""Sources of pictures: what a path, a pattern, a list, a camera or an address names."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from ppsolo.data.addresses import content_type, fetch_bytes
from ppsolo.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_images, regular_file
from ppsolo.data.videos import is_video
from ppsolo.errors import ImageError

LIST_SUFFIXES = (".txt", ".lst", ".list")
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt")
_PICTURES = ("http", "https")


class Picture(NamedTuple):
    """One picture: its file; or the bytes that were fetched, and a name to call them by."""

    path: Path
    content: bytes | None = None


@dataclass(frozen=True)
class Pictures:
    """Pictures to be read one by one.

    Attributes:
        items: the pictures.
        left_out: a line for each file that is no picture, with the reason.
        notes: lines on what is expected beside pictures, and was passed over.
    """

    items: tuple[Picture, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Video:
    """A video to be read frame by frame.

    Attributes:
        source: what `VideoFrames` opens: a file, the number of a camera, or an address.
        name: what its results and its drawing are called.
    """

    source: Path | int | str
    name: str


FoundSource: TypeAlias = Pictures | Video


def find_source(text: str, *, lines: Iterable[str] = (), network: bool = False) -> FoundSource:
    """What a user means by the text.

    Args:
        text: a file, a folder or a pattern of pictures; a video; a file in LIST_SUFFIXES with a path on each line,
            relative to its folder; "-" for paths in `lines`; the number of a camera; an rtsp:// or http(s):// address
            of a stream, a video or a picture.
        lines: paths, one each, for the text "-".
        network: whether addresses are allowed.

    Raises:
        ImageError: there is nothing of the kind, or an address is not allowed.

    Example:
        >>> find_source("0")
        Video(source=0, name='camera_0')
    """
    if text == "-":
        return _listed(lines, Path(), "standard input")
    if os.path.lexists(text):
        return _local(text)
    scheme = urlsplit(text).scheme.lower() if "://" in text else ""
    if scheme:
        return _remote(text, scheme, network)
    if text.isdecimal():
        return Video(int(text), f"camera_{int(text)}")
    return _local(text)


def _local(text: str) -> FoundSource:
    path = Path(text)
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        return _listed(_lines_of(path), path.parent, text)
    if path.is_file() and is_video(path):
        return Video(path, path.name)
    found = find_images(text)
    return Pictures(tuple(Picture(image) for image in found.images), tuple(found.left_out), found.notes)


def _lines_of(path: Path) -> list[str]:
    regular_file(path)
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: cannot be read as a list of paths ({error})") from None


def _listed(lines: Iterable[str], folder: Path, name: str) -> Pictures:
    """The pictures of a list: empty lines and those that begin with # are comments; a path counts once."""
    texts = [line.strip() for line in lines]
    paths = dict.fromkeys(folder / text for text in texts if text and not text.startswith("#"))
    if not paths:
        raise ImageError(f"{name}: there is no path in it, expected one on each line")
    videos = [path for path in paths if is_video(path) and path.suffix.lower() not in IMAGE_SUFFIXES]
    left_out = tuple(f"{path}: left out, a video; give it by itself: --source {path}" for path in videos)
    items = tuple(Picture(path) for path in paths if path not in set(videos))
    if not items:
        raise ImageError(f"{name}: it lists videos only; give one at a time")
    return Pictures(items, left_out)


def _remote(address: str, scheme: str, network: bool) -> FoundSource:
    if scheme not in _STREAMS + _PICTURES:
        raise ImageError(f"{address}: {scheme}:// is not read; http, https and {', '.join(_STREAMS)} are")
    if not network:
        raise ImageError(f"{address}: nothing is fetched over the network unless --allow_network is given")
    path = PurePosixPath(unquote(urlsplit(address).path))
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in path.name).lstrip(".")
    suffix = path.suffix.lower()
    picture = scheme in _PICTURES and (suffix in IMAGE_SUFFIXES or suffix not in VIDEO_SUFFIXES)
    if picture and suffix not in IMAGE_SUFFIXES:
        picture = content_type(address).startswith("image/")
    if picture:
        return Pictures((Picture(Path(name or "picture"), fetch_bytes(address)),))
    return Video(address, name or "stream")
