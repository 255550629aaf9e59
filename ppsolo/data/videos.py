"""Reads and writes videos and live streams frame by frame as uint8 RGB arrays, or refuses them with a reason."""

import contextlib
import itertools
import math
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ppsolo.atomic import put_in_place, scratch_folder
from ppsolo.data.codecs import REMEDY, PyavCapture, check_frame_size, codec_name, decoding_error, load_pyav
from ppsolo.data.files import VIDEO_SUFFIXES, check_video_file
from ppsolo.data.pixels import MAX_PIXELS, check_size, checked_array
from ppsolo.errors import ImageError
from ppsolo.text import without_users

__all__ = ["VIDEO_SUFFIXES", "Frame", "VideoFrames", "VideoWriter", "is_video"]

Capture = cv2.VideoCapture | PyavCapture
_SAMPLE = 64  # frames that determine the rate of a drawn video
_LARGEST_TIME_BASE = 65535  # limit of MPEG-4 part 2, in ticks per second
# Repeated frames in a drawn video: for each given frame, and for every video. 100 000 are an hour at 25 per second.
_REPEATS, _REPEATS_OF_ANY = 100, 100_000


class Frame(NamedTuple):
    """A frame: its number from 0, its time in seconds after the first frame, and uint8 [H, W, 3] RGB."""

    number: int
    time: float
    image: np.ndarray


def is_video(path: str | os.PathLike) -> bool:
    """Whether the suffix is in VIDEO_SUFFIXES, in any case; the file need not exist."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _check_name(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # OpenCV crashes on it
        raise ImageError(f"{path!r}: videos need a path that is valid UTF-8; rename it") from None


class VideoFrames:
    """Reads the frames of a video file or a live stream, one at a time, once.

    Iterate for the images, uint8 [H, W, 3] RGB, or call `read` for images with numbers and times. Frames are turned
    upright if the file says so. Close it, or use it in a `with`.

    Attributes:
        size: (height, width) of all frames.
        fps: frames per second in the container, or None; times come from the frames.
        frame_count: number of frames in the container, or None. Cuts and pauses make it too large.
        damage: None, or a line about the damage, once the last frame was read. Missing frames are damage only if PyAV
            (`ppsolo[video]`) finds an error. Damage that a codec conceals is not noticed.
        note: None, or a line about frames that the container counts but that could not be read.

    Example:
        >>> with VideoFrames("missing.mp4") as video:  # doctest: +SKIP
        ...     for image in video:
        ...         print(image.shape)
    """

    def __init__(self, source: str | os.PathLike | int, *, timeout: float = 10.0, reconnect: int = 0):
        """Open a video or a stream.

        Args:
            source: a file, the number of a camera, or the address of a stream (rtsp://, http://, ...).
            timeout: seconds to wait for a stream to open, and for each of its frames.
            reconnect: how many times in a row to open a broken stream again, after 1, 2, 4, ... seconds.

        Raises:
            ImageError: the source cannot be opened, or has no frame that can be decoded.
        """
        self._name = without_users(str(source))
        self._path = None if isinstance(source, int) or "://" in self._name else Path(source)
        self._source, self._timeout, self._reconnect = source, timeout, reconnect
        self._capture: Capture = self._open()
        fps, count = self._stated(cv2.CAP_PROP_FPS), self._stated(cv2.CAP_PROP_FRAME_COUNT)
        self.fps: float | None = fps
        self._length = count
        self.frame_count: int | None = int(count) if count and self._path is not None else None
        self._fourcc = int(self._stated(cv2.CAP_PROP_FOURCC) or 0)
        self.damage: str | None = None
        self.note: str | None = None
        self._frames_read, self._start, self._time = 0, 0.0, -1.0
        self._check_stated_size()
        self._first = self._decode()
        if self._first is None and self._path is not None:
            self._first = self._decode_by_pyav(self._path)
        if self._first is None:
            self._capture.release()
            raise ImageError(self.damage or f"{self._name}: {self._reason()}")
        self.size: tuple[int, int] = (self._first.shape[0], self._first.shape[1])

    @property
    def live(self) -> bool:
        """Whether this is a camera or a stream, which may never end."""
        return self._path is None

    @property
    def endless(self) -> bool:
        """Whether frames come at their own time: from a camera, or from a stream that states no length."""
        return self.live and self._length is None

    def read(self) -> Frame | None:
        """Return the next frame, None at the end."""
        image, self._first = self._first, None
        if image is None and self._capture.isOpened():
            image = self._decode()
            if image is None and self.live and self.damage is None:
                image = self._decode_again()
            if image is None:
                self._compare_count()
            elif image.shape[:2] != self.size:
                self.damage = f"{self._name}: frame {self._frames_read} has another size than the frames before it"
                image = None
        if image is None:
            self.close()
            return None
        self._time = self._time_of_frame()
        self._frames_read += 1
        return Frame(self._frames_read - 1, self._time, image)

    def drawing_rate(self) -> float:
        """Constant frames per second for a copy of this video that shows nearly all frames at the right time.

        It is derived from the times of the first frames; the container's rate is used if they agree with it.
        """
        stated = self.fps if self.fps is not None and 1 <= self.fps <= 240 else 25.0
        if self._path is None or isinstance(self._capture, PyavCapture):
            return stated
        sample = cv2.VideoCapture(str(self._path.absolute()))
        times = []
        while len(times) < _SAMPLE and sample.grab():
            times.append(sample.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        sample.release()
        distances = sorted(after - before for before, after in itertools.pairwise(times) if after > before)
        if not distances:
            return stated
        rate = 1 / distances[len(distances) // 4]  # the lower quartile: few frames are closer together
        if abs(rate - stated) < 0.02 * stated or abs(1 / statistics.fmean(distances) - stated) < 0.02 * stated:
            return stated
        return min(max(rate, 1.0), 120.0)

    def _open(self) -> Capture:
        if self._path is not None:
            check_video_file(self._path)
            _check_name(self._path)
            check_frame_size(self._path)
            return cv2.VideoCapture(str(self._path.absolute()))  # FFmpeg would take "a:b.mp4" for an address
        if isinstance(self._source, int):
            return cv2.VideoCapture(self._source)
        milliseconds = round(min(self._timeout * 1000, 2**31 - 1))  # OpenCV takes 32 bits
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        return cv2.VideoCapture(str(self._source), cv2.CAP_FFMPEG, limits)

    def _check_stated_size(self) -> None:
        """Refuse too many pixels before a frame is decoded."""
        height, width = (self._stated(name) or 1 for name in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        try:
            check_size(int(height), int(width), MAX_PIXELS)
        except ImageError as error:
            self._capture.release()
            raise ImageError(f"{self._name}: {error}") from None

    def _stated(self, name: int) -> float | None:
        value = self._capture.get(name)
        return value if math.isfinite(value) and value > 0 else None

    def _decode(self) -> np.ndarray | None:
        """Return the next image; None at the end, or if the decoder gives up."""
        try:
            decoded, frame = self._capture.read()
            return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame) if decoded and frame is not None else None
        except cv2.error as error:
            self.damage = f"{self._name}: OpenCV cannot decode a frame ({error.err})"
        except ValueError as error:  # from PyAV
            self.damage = f"{self._name}: PyAV cannot decode a frame ({error})"
        return None

    def _decode_by_pyav(self, path: Path) -> np.ndarray | None:
        """Decode the first image with PyAV, for codecs that OpenCV lacks."""
        av = load_pyav()
        if av is None:
            return None
        try:
            capture = PyavCapture(av, path)
        except ValueError:
            return None
        self._capture.release()
        self._capture = capture
        self.fps = self._stated(cv2.CAP_PROP_FPS)
        count = self._stated(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if count else None
        first, self.damage = self._decode(), None
        return first

    def _decode_again(self) -> np.ndarray | None:
        """Open a broken stream again and return its next image; None if that fails."""
        for attempt in range(self._reconnect):
            self._capture.release()
            time.sleep(min(2**attempt, 30))
            self._capture = self._open()
            image = self._decode()
            if image is not None:
                self._start = self._time + self._distance() - self._position()
                return image
        if self._reconnect:
            self.damage = (
                f"{self._name}: broke off after {self._frames_read} frames, {self._reconnect} new tries failed"
            )
        return None

    def _position(self) -> float:
        """Seconds of the last frame according to the decoder."""
        position = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return position if math.isfinite(position) else 0.0

    def _distance(self) -> float:
        return 1 / self.fps if self.fps else 0.04

    def _time_of_frame(self) -> float:
        """Seconds after the first frame. Without a time from the decoder: one distance after the frame before."""
        if self._frames_read == 0:
            self._start = -self._position()
            return 0.0
        stated = self._start + self._position()
        return stated if stated > self._time else self._time + self._distance()

    def _compare_count(self) -> None:
        """At the end, find out whether frames are missing because of an error."""
        if self.damage is not None or self._path is None or self._frames_read >= (self.frame_count or 0):
            return
        found = f"{self._frames_read} of {self.frame_count} frames could be read"
        if decoding_error(self._path) is not None:
            self.damage = f"{self._name}: damaged or cut short, {found}"
        elif load_pyav() is None:
            self.note = (
                f"{self._name}: {self._frames_read} frames read, its container counts {self.frame_count}; "
                "pip install 'ppsolo[video]' to learn why"
            )

    def _reason(self) -> str:
        """Say why there is no frame."""
        if isinstance(self._source, int):
            return "no such camera, or another program uses it"
        if self._path is None:
            return f"the stream cannot be opened, or gave no frame within {self._timeout:g} seconds"
        codec = codec_name(self._path, self._fourcc)
        if codec is not None:
            return f"no video frame of it can be decoded: OpenCV lacks its codec {codec}, or it is damaged; {REMEDY}"
        return "there is no video frame in it that can be decoded (damaged, cut short, unknown codec?)"

    def __iter__(self) -> "VideoFrames":
        return self

    def __next__(self) -> np.ndarray:
        frame = self.read()
        if frame is None:
            raise StopIteration
        return frame.image

    def close(self) -> None:
        """Stop reading; further reads return None."""
        self._first = None
        self._capture.release()

    def __enter__(self) -> "VideoFrames":
        return self

    def __exit__(
        self, exception_type: type[BaseException] | None, exception: BaseException | None, traceback: object
    ) -> None:
        self.close()


def _writable_rate(fps: float) -> float:
    """Return the nearest rate whose ticks per second MPEG-4 can store: 66.667 becomes 66.67."""
    for digits in (3, 2, 1, 0):
        if round(fps, digits) * 10**digits <= _LARGEST_TIME_BASE:
            return round(fps, digits)
    return float(_LARGEST_TIME_BASE)


class VideoWriter:
    """Writes frames of one size, uint8 [H, W, 3] RGB, to an .mp4 file (MPEG-4 part 2, `mp4v`).

    `size` is (height, width), at least 2 x 2. The codec has only even sizes: an odd size loses its last row or column.
    `fps`: frames per second, rounded to a rate that the codec can store. The file appears whole when `close` or the
    `with` block succeeds; after an exception in the block it does not appear. Raises ImageError if it cannot be
    written.
    """

    def __init__(self, path: str | os.PathLike, *, fps: float, size: tuple[int, int]):
        self._path, self._frames_written, self._frames_given = Path(path), 0, 0
        self._last: np.ndarray | None = None
        self.fps = _writable_rate(fps)
        self._size = height, width = int(size[0]), int(size[1])
        if self._path.suffix.lower() != ".mp4":
            raise ImageError(f"{path}: videos are written as .mp4, not as {self._path.suffix!r}")
        _check_name(self._path.absolute())
        if not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise ImageError(f"{path}: its directory does not exist or is not writable")
        self._draft = contextlib.ExitStack()  # a folder, because the draft's name must end with .mp4
        try:
            self._temporary = self._draft.enter_context(scratch_folder(self._path.absolute())) / "draft.mp4"
        except OSError as error:
            raise ImageError(f"{path}: cannot be written ({error.strerror})") from None
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), fourcc, self.fps, (width, height))
        if not self._writer.isOpened():
            self.discard()
            asked = f"{height} x {width} pixels at {self.fps} frames per second"
            raise ImageError(f"{path}: OpenCV cannot write mp4v of {asked} (at least 2 x 2; FFmpeg is needed)")

    def write(self, image: np.ndarray) -> None:
        """Append a frame. Raises ImageError if it has another size, or if the video is closed."""
        frame = checked_array(image)
        if frame.shape[:2] != self._size:
            raise ImageError(f"{self._path}: a frame of {frame.shape[:2]} pixels, expected {self._size}")
        if not self._writer.isOpened():
            raise ImageError(f"{self._path}: the video is already closed")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._frames_written += 1

    def write_at(self, image: np.ndarray, seconds: float) -> None:
        """Append a frame shown from `seconds` after the first frame; repeat the frame before it until then.

        A frame at the same tick as the one before is dropped. Raises ImageError like `write`, and for a time so late
        that nearly all frames would be repeated ones.
        """
        place = round(seconds * self.fps)
        self._frames_given += 1
        if place > _REPEATS_OF_ANY + _REPEATS * self._frames_given:
            raise ImageError(
                f"{self._path}: frame {self._frames_given} is at {seconds:.0f} seconds, too late for a drawing at "
                f"{self.fps:g} frames per second; correct the times: ffmpeg -i VIDEO -vf setpts=N/25/TB out.mp4"
            )
        while self._last is not None and self._frames_written < place:
            self.write(self._last)
        if self._frames_written <= place:
            self.write(image)
        self._last = image

    def close(self) -> None:
        """Finish the file, count its frames and give it its name; a second call does nothing."""
        if not self._writer.isOpened():
            return
        self._writer.release()
        stored = cv2.VideoCapture(str(self._temporary))
        count = int(stored.get(cv2.CAP_PROP_FRAME_COUNT))
        stored.release()
        if not self._frames_written:
            self.discard()
            raise ImageError(f"{self._path}: no frame was written to this video")
        if count != self._frames_written:
            self.discard()
            stored_frames = f"{max(count, 0)} of {self._frames_written} frames were stored"
            raise ImageError(f"{self._path}: not written, {stored_frames}; make room if the disk is full")
        try:
            put_in_place(self._temporary, self._path)
        except OSError as error:
            raise ImageError(f"{self._path}: cannot be written ({error.strerror})") from None
        finally:
            self._draft.close()

    def discard(self) -> None:
        """Delete the unfinished file; an earlier file of this name stays."""
        self._writer.release()
        self._draft.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, exception_type: type[BaseException] | None, exception: BaseException | None, traceback: object
    ) -> None:
        if exception_type is None:
            self.close()
        else:
            self.discard()
