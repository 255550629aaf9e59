"""A large picture of a request, predicted tile by tile; its tiles share the queue with all other pictures."""

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

ROOM_SECONDS = 0.05  # wait before a full queue is tried again


class TiledPicture:
    """The prediction of one large picture. At most one batch of its tiles is in the queue.

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
        """data: the file. read: decodes it. most: largest number of tiles. ahead: tiles in the queue at the same time.

        threads: they decode the picture and join its objects.
        """
        self.submitted = time.monotonic()
        self._data, self._tiling, self._read = data, tiling, read
        self._most, self._ahead, self._threads = most, ahead, threads
        self._first: Pending | None = None

    @property
    def begun(self) -> float | None:
        """When the first tile began, None before."""
        return None if self._first is None else self._first.begun

    async def instances(self, queue: Batcher) -> Instances:
        """Return the instances of the picture. If this is cancelled, its tiles leave the queue.

        Raises ImageError for a picture that cannot be read or has too many tiles; Stopped; and errors of the
        prediction.
        """
        image = await self._in_thread(partial(self._read, self._data))
        places = deque(self._tiling.places((image.shape[0], image.shape[1])))
        if len(places) > self._most:
            raise ImageError(
                f"the picture has {len(places)} tiles, more than the limit of {self._most}: give a larger tile"
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
