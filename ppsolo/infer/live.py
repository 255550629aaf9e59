"""Frames in batches: of a file one after the other, of a live source the newest, while late ones are skipped."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ppsolo.data.videos import Frame, VideoFrames
from ppsolo.infer.settings import StreamLimits

logger = logging.getLogger(__name__)


class FrameBatches:
    """Batches of frames, read in a thread of its own while others work. Use it in a `with`.

    Of a video file, and of a stream whose length is known, every frame comes. A camera and a live stream do not wait:
    where frames come faster than they are taken, the newest are kept and the others are skipped.

    Attributes:
        skipped: how many frames were skipped.
    """

    def __init__(self, frames: VideoFrames, limits: StreamLimits, *, batch_size: int):
        """frames: not read yet; close them after this."""
        self.skipped = 0
        self._frames, self._limits, self._batch_size = frames, limits, batch_size
        self._newest_only = frames.endless and not limits.every_frame
        self._end = None if limits.seconds is None else time.monotonic() + limits.seconds
        self._changed = threading.Condition()  # guards what follows
        self._newest: deque[Frame] = deque()
        self._ended = self._closing = False
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[list[Frame]]:
        taken = 0
        for batch in self._newest_batches() if self._newest_only else self._all_batches():
            left = len(batch) if self._limits.frames is None else self._limits.frames - taken
            if batch[:left]:
                yield batch[:left]
            taken += len(batch[:left])
            if self._limits.frames is not None and taken >= self._limits.frames:
                return

    def __enter__(self) -> "FrameBatches":
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="video")
        if self._newest_only:
            self._reader.submit(self._keep_newest)
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing = True
        self._reader.shutdown(cancel_futures=True)

    def _in_time(self) -> bool:
        return self._end is None or time.monotonic() < self._end

    def _all_batches(self) -> Iterator[list[Frame]]:
        def next_frames() -> list[Frame]:
            batch: list[Frame] = []
            while len(batch) < self._batch_size and self._in_time() and (frame := self._frames.read()) is not None:
                batch.append(frame)
            return batch

        coming = self._reader.submit(next_frames)
        while batch := coming.result():
            coming = self._reader.submit(next_frames)
            yield batch

    def _newest_batches(self) -> Iterator[list[Frame]]:
        while self._in_time():
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._ended or not self._in_time(), timeout=0.5)
                batch = list(self._newest)
                self._newest.clear()
                ended = self._ended
            if batch:
                yield batch
            elif ended:
                break
        if self._error is not None:
            raise self._error

    def _keep_newest(self) -> None:
        """Read until the end; in a thread of its own."""
        try:
            while not self._closing and (frame := self._frames.read()) is not None:
                with self._changed:
                    if len(self._newest) == self._batch_size:
                        self._newest.popleft()
                        if self.skipped == 0:
                            logger.info("frames come faster than they are predicted: late ones are skipped")
                        self.skipped += 1
                    self._newest.append(frame)
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
