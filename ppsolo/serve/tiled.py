"""A large picture of a request, predicted tile by tile: its tiles wait in the queue among all other pictures."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, cast

import numpy as np

from ppsolo.data.tiles import Tiling
from ppsolo.errors import ImageError
from ppsolo.results.instances import Instances
from ppsolo.results.seams import SeamJoiner
from ppsolo.serve.batching import Batcher, Pending, QueueFull

ROOM_SECONDS = 0.05  # until a full queue is asked again


class TiledPicture:
    """The prediction of one large picture. Never more than one batch of its tiles is in the queue.

    submitted: when it came, by time.monotonic.
    """

    def __init__(
        self,
        data: bytes,
        tiling: Tiling,
        *,
        read: Callable[[bytes], np.ndarray],
        most: int,
        ahead: int,
        threads: Executor,
    ):
        """data: the file. read: decodes it. most: tiles that are predicted. ahead: tiles in the queue at once.

        threads: where the picture is decoded and its objects are joined.
        """
        self.submitted = time.monotonic()
        self._data, self._tiling, self._read = data, tiling, read
        self._most, self._ahead, self._threads = most, ahead, threads
        self._first: Pending | None = None

    @property
    def begun(self) -> float | None:
        """When the first tile was begun, None until then."""
        return None if self._first is None else self._first.begun

    async def instances(self, queue: Batcher) -> Instances:
        """What is in the picture. When this is cancelled, its tiles leave the queue.

        Raises ImageError for a picture that cannot be read or makes too many tiles; Stopped; what a prediction raises.
        """
        image = await self._in_thread(partial(self._read, self._data))
        places = deque(self._tiling.places((image.shape[0], image.shape[1])))
        if len(places) > self._most:
            raise ImageError(
                f"the picture makes {len(places)} tiles, at most {self._most} are taken: give a larger tile"
            )
        joiner: SeamJoiner | None = None
        coming: deque[tuple[tuple[int, int], Pending]] = deque()
        try:
            while places or coming:
                while places and len(coming) < self._ahead:
                    top, left, bottom, right = places[0]
                    try:
                        job = queue.submit(np.ascontiguousarray(image[top:bottom, left:right]))
                    except QueueFull:
                        break
                    self._first = self._first or job
                    coming.append(((top, left), job))
                    places.popleft()
                if not coming:
                    await asyncio.sleep(ROOM_SECONDS)
                    continue
                (top, left), job = coming[0]
                found: Instances = await asyncio.wrap_future(job)
                coming.popleft()
                if joiner is None:
                    size = (image.shape[0], image.shape[1])
                    joiner = SeamJoiner(size, class_names=found.class_names, category_ids=found.category_ids)
                await self._in_thread(partial(joiner.add, found, top=top, left=left))
        finally:
            for _, job in coming:
                job.cancel()
        return await self._in_thread(cast(SeamJoiner, joiner).instances)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
