"""Videos with PyAV, if installed: it has codecs that OpenCV lacks, and finds damage."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from ppsolo.data.pixels import MAX_PIXELS
from ppsolo.errors import ImageError

REMEDY = "pip install 'ppsolo[video]' (PyAV), or convert it: ffmpeg -i VIDEO -c:v libx264 out.mp4"


def load_pyav() -> ModuleType | None:
    """Return the package `av`; None if it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError:
        return None


def _opened(av: ModuleType, path: Path) -> Any:
    """Open the container; frames of too many pixels are damage, bytes of its titles that are not UTF-8 are replaced."""
    limits = {"max_pixels": str(MAX_PIXELS)}
    container = av.open(f"file:{path.absolute()}", metadata_errors="replace", options=limits)
    for context in _contexts(container):
        context.options = limits
    return container


def check_frame_size(path: Path) -> None:
    """Raise ImageError for a video whose frames have too many pixels; without PyAV, do nothing.

    OpenCV decodes a frame when it opens a video, whatever its size. With a limit, FFmpeg leaves the size at 0.
    """
    av = load_pyav()
    if av is None:
        return
    try:
        with _opened(av, path) as container:
            sizes = [context.width * context.height for context in _contexts(container)]
    except av.FFmpegError:  # the reader will say why
        return
    if sizes and not any(sizes):
        raise ImageError(f"{path}: it states no size of frames, or more than {MAX_PIXELS} pixels: cut up or shrink")


def _contexts(container: Any) -> list[Any]:
    return [stream.codec_context for stream in container.streams.video if stream.codec_context is not None]


class PyavCapture:
    """Reads a video's frames with PyAV; has the methods of `cv2.VideoCapture` that `VideoFrames` needs."""

    def __init__(self, av: ModuleType, path: Path):
        """Raises ValueError if the file has no video that PyAV can decode."""
        self._error: type[Exception] = av.FFmpegError
        self._frames: Iterator[Any] | None = None
        try:
            self._container: Any = _opened(av, path)
        except self._error as error:
            raise ValueError(str(error)) from None
        try:
            self._stream = self._container.streams.video[0]
            self._stream.thread_type = "AUTO"
            self._frames = self._container.decode(self._stream)
        except (self._error, IndexError) as error:
            self._container.close()
            raise ValueError(f"there is no video in it that can be decoded ({error})") from None
        self._time = 0.0

    def isOpened(self) -> bool:
        return self._frames is not None

    def get(self, name: int) -> float:
        """Return rate, number of frames, or time of the last frame in milliseconds; 0 for other properties."""
        if name == cv2.CAP_PROP_FPS:
            return float(self._stream.average_rate or 0)
        if name == cv2.CAP_PROP_FRAME_COUNT:
            return float(self._stream.frames)
        return self._time * 1000 if name == cv2.CAP_PROP_POS_MSEC else 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        """Return (True, uint8 [H, W, 3] BGR upright), or (False, None) at the end. Raises ValueError for damage."""
        try:
            frame = next(self._frames, None) if self._frames is not None else None
        except self._error as error:
            raise ValueError(str(error)) from None
        if frame is None:
            return False, None
        self._time = float(frame.time or 0.0)
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return True, np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), turns))

    def release(self) -> None:
        if self._frames is not None:
            self._frames = None
            self._container.close()


def codec_name(path: Path, fourcc: int) -> str | None:
    """Return PyAV's name of a video's codec, or else its four letters; None if unknown."""
    av = load_pyav()
    if av is not None:
        try:
            with _opened(av, path) as container:
                context = container.streams.video[0].codec_context
                return None if context is None else context.name
        except (av.FFmpegError, IndexError):
            return None
    letters = max(fourcc, 0).to_bytes(4, "little").strip(b"\0 ")
    return letters.decode() if letters.isalnum() else None


def decoding_error(path: Path) -> str | None:
    """Decode a whole video with PyAV and return its first error; None if there is none or PyAV is not installed."""
    av = load_pyav()
    if av is None:
        return None
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines:
            found = _first_error(av, path)
    finally:
        av.logging.set_level(level)
    # For Matroska, FFmpeg reports this only in its log.
    early = any("ended prematurely" in line[2] for line in lines)
    return found or ("the file ends too early" if early else None)


def _first_error(av: ModuleType, path: Path) -> str | None:
    try:
        with _opened(av, path) as container:
            stream = container.streams.video[0]
            # No FFmpeg threads: they wait for Python's lock to log an error, and closing the file waits for them.
            stream.thread_type = "NONE"
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    return "a packet is cut short"
                if any(frame.is_corrupt for frame in packet.decode()):
                    return "a frame is damaged"
    except av.FFmpegError as error:
        return str(error.strerror)
    return None
