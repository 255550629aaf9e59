"""Videos: read and written frame by frame as uint8 RGB arrays, or refused with a reason."""

import math
import os
from pathlib import Path

import cv2
import numpy as np

from ppsolo.atomic import discard, put_in_place, temporary_name
from ppsolo.data.images import checked_array, regular_file
from ppsolo.errors import ImageError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
_ESTIMATING = (
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
)  # containers without a count of frames: OpenCV takes rate times duration


def is_video(path: str | os.PathLike) -> bool:
    """Whether the suffix is one of VIDEO_SUFFIXES, in any case; the file need not exist."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _check_name(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # OpenCV crashes on it
        raise ImageError(f"{path!r}: videos need a path that is valid UTF-8; rename it") from None


class VideoFrames:
    """Iterates once over the frames of a video, each uint8 [H, W, 3] RGB, decoded when it is asked for.

    `size` is (height, width) of all frames; `fps` (frames per second) and `frame_count` are what the container
    says, None where it does not. A video that is damaged ends early: `damage`, None before, then says in one
    line what is wrong. Damage that the codec conceals is not noticed.

    Close it, or use it in a `with`. Raises ImageError if the file holds no frame that OpenCV can decode.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        regular_file(self._path)
        _check_name(self._path)
        self._capture = cv2.VideoCapture(str(self._path.absolute()))  # FFmpeg takes "a:b.mp4" for an address
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps: float | None = fps if math.isfinite(fps) and fps > 0 else None
        self.frame_count: int | None = int(count) if math.isfinite(count) and count > 0 else None
        self.damage: str | None = None
        self._first = self._decode()
        if self._first is None:
            self._capture.release()
            reason = "OpenCV finds no video frame in it (damaged, cut short, unknown codec?)"
            raise ImageError(self.damage or f"{path}: {reason}")
        self.size: tuple[int, int] = (self._first.shape[0], self._first.shape[1])
        self._frames_read = 0

    def __iter__(self) -> "VideoFrames":
        return self

    def __next__(self) -> np.ndarray:
        frame, self._first = self._first, None
        if frame is None and self._capture.isOpened():
            frame = self._decode()
            if frame is None:
                self._check_count()
            elif frame.shape[:2] != self.size:
                self.damage = f"{self._path}: frame {self._frames_read} has another size than those before it"
                frame = None
        if frame is None:
            self.close()
            raise StopIteration
        self._frames_read += 1
        return frame

    def _decode(self) -> np.ndarray | None:
        """The next frame; None at the end, and where OpenCV gives up."""
        try:
            decoded, frame = self._capture.read()
            return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame) if decoded else None
        except cv2.error as error:
            self.damage = f"{self._path}: OpenCV cannot decode a frame ({error.err})"
            return None

    def _check_count(self) -> None:
        """Notice at the end whether frames are missing."""
        said = self.frame_count or 0
        slack = max(2, said // 50) if self._path.suffix.lower() in _ESTIMATING else 0
        if self.damage is None and self._frames_read < said - slack:
            self.damage = f"{self._path}: damaged or cut short, {self._frames_read} of {said} frames could be read"

    def close(self) -> None:
        self._first = None
        self._capture.release()

    def __enter__(self) -> "VideoFrames":
        return self

    def __exit__(self, exception_type, exception, traceback) -> None:
        self.close()


class VideoWriter:
    """Writes frames of one size, uint8 [H, W, 3] RGB, to an .mp4 file (MPEG-4 part 2, `mp4v`).

    `size` is (height, width), at least 2 x 2; where one is odd, the last row or column is lost: the codec
    knows even sizes only. `fps` is frames per second. The file appears under its name, complete, when `close`
    or the `with` ends well; after an exception in the `with`, not at all. ImageError if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, *, fps: float, size: tuple[int, int]):
        self._path, self._frames_written = Path(path), 0
        self._size = height, width = int(size[0]), int(size[1])
        if self._path.suffix.lower() != ".mp4":
            raise ImageError(f"{path}: videos are written as .mp4, not as {self._path.suffix!r}")
        _check_name(self._path.absolute())
        if not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise ImageError(f"{path}: its directory does not exist or cannot be written to")
        self._temporary = temporary_name(self._path.absolute(), suffix=self._path.suffix)
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), fourcc, float(fps), (width, height))
        if not self._writer.isOpened():
            self.discard()
            asked = f"{height} x {width} pixels at {fps} frames per second"
            raise ImageError(f"{path}: OpenCV cannot write mp4v of {asked} (at least 2 x 2; FFmpeg is needed)")

    def write(self, image: np.ndarray) -> None:
        """Appends a frame. Raises ImageError for one of another size, or once the video is closed."""
        frame = checked_array(image)
        if frame.shape[:2] != self._size:
            raise ImageError(f"{self._path}: a frame of {frame.shape[:2]} pixels, expected {self._size}")
        if not self._writer.isOpened():
            raise ImageError(f"{self._path}: the video is closed already")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._frames_written += 1

    def close(self) -> None:
        """Finishes the file, counts its frames and gives it its name; does nothing the second time."""
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
            raise ImageError(f"{self._path}: not written, {count} of {self._frames_written} frames stored")
        try:
            put_in_place(self._temporary, self._path)
        except OSError as error:
            raise ImageError(f"{self._path}: cannot be written ({error.strerror})") from None

    def discard(self) -> None:
        """Gives up what was written so far; an earlier file of that name stays."""
        self._writer.release()
        discard(self._temporary)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, exception_type, exception, traceback) -> None:
        if exception_type is None:
            self.close()
        else:
            self.discard()
