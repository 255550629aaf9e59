"""Finds the pictures or the video that a path, pattern, list, camera or address names."""

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
_MOST_DIGITS = 9  # of a camera's number: OpenCV takes 32 bits


class Picture(NamedTuple):
    """One picture: its file, or its fetched bytes and a name."""

    path: Path
    content: bytes | None = None


@dataclass(frozen=True)
class Pictures:
    """Pictures to read one by one.

    Attributes:
        items: the pictures.
        left_out: a line for each file that is not a picture, with the reason.
        notes: lines about skipped companions of pictures, such as annotation files.
    """

    items: tuple[Picture, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Video:
    """A video to read frame by frame.

    Attributes:
        source: for `VideoFrames`: a file, the number of a camera, or an address.
        name: the name of its results and its drawing.
    """

    source: Path | int | str
    name: str


FoundSource: TypeAlias = Pictures | Video


def find_source(text: str, *, lines: Iterable[str] = (), network: bool = False) -> FoundSource:
    """Return the pictures or the video that a text names.

    Args:
        text: a file, a folder or a pattern of pictures; a video; a file in LIST_SUFFIXES with one path per line,
            relative to its folder; "-" for the paths in `lines`; the number of a camera; an rtsp:// or http(s)://
            address of a stream, a video or a picture.
        lines: paths, for the text "-".
        network: whether addresses are allowed.

    Raises:
        ImageError: nothing has this name, or addresses are not allowed.

    Example:
        >>> find_source("0")
        Video(source=0, name='camera_0')
    """
    if text == "-":
        return _listed(lines, Path(), "standard input")
    if os.path.lexists(text):
        return _local(text)
    try:
        scheme = urlsplit(text).scheme.lower() if "://" in text else ""
    except ValueError as error:  # a bracket without its partner
        raise ImageError(f"{text}: not an address ({error})") from None
    if scheme:
        return _remote(text, scheme, network)
    if text.isdecimal():
        if len(text) > _MOST_DIGITS:
            raise ImageError(f"{text}: no such file, and no number of a camera: these begin at 0")
        return Video(int(text), f"camera_{int(text)}")
    return _local(text)


def find_listed(file: Path) -> Pictures:
    """Return the pictures that a file names: one path per line, relative to its folder. Raises ImageError."""
    return _listed(_lines_of(file), file.parent, str(file))


def _local(text: str) -> FoundSource:
    path = Path(text)
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        return find_listed(path)
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
    """Return the pictures of a list. Empty lines and lines that begin with # are ignored; a path counts once."""
    texts = [line.strip() for line in lines]
    for number, text in enumerate(texts, start=1):
        if "\0" in text:
            raise ImageError(f"{name}: line {number} holds a zero byte, so it is no list of paths; write one per line")
    paths = dict.fromkeys(folder / text for text in texts if text and not text.startswith("#"))
    if not paths:
        raise ImageError(f"{name}: it has no paths; write one per line")
    videos = [path for path in paths if is_video(path) and path.suffix.lower() not in IMAGE_SUFFIXES]
    left_out = tuple(f"{path}: left out, a video; give it by itself: --source {path}" for path in videos)
    items = tuple(Picture(path) for path in paths if path not in set(videos))
    if not items:
        raise ImageError(f"{name}: it lists only videos; give one at a time")
    return Pictures(items, left_out)


def _remote(address: str, scheme: str, network: bool) -> FoundSource:
    if scheme not in _STREAMS + _PICTURES:
        raise ImageError(f"{address}: {scheme}:// is not supported; use http, https, {', '.join(_STREAMS)}")
    if not network:
        raise ImageError(f"{address}: add --allow_network to fetch over the network")
    path = PurePosixPath(unquote(urlsplit(address).path))
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in path.name).lstrip(".")
    suffix = path.suffix.lower()
    picture = scheme in _PICTURES and (suffix in IMAGE_SUFFIXES or suffix not in VIDEO_SUFFIXES)
    if picture and suffix not in IMAGE_SUFFIXES:
        picture = content_type(address).startswith("image/")
    if picture:
        return Pictures((Picture(Path(name or "picture"), fetch_bytes(address)),))
    return Video(address, name or "stream")
