"""The service: receives pictures, queues them for a predictor, and writes the answers."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from fastapi import HTTPException, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from ppsolo.data.images import ImageReader
from ppsolo.data.pixels import PixelSettings
from ppsolo.data.tiles import Tiling
from ppsolo.errors import ConfigError, ImageError, PpsoloError
from ppsolo.results.files.catalogue import FORMATS
from ppsolo.results.instances import Instances
from ppsolo.serve.answers import WITH_PIXELS, file_answer, json_answer, media_type, picture_answer
from ppsolo.serve.batching import Batcher, Pending, QueueFull, Stopped
from ppsolo.serve.prometheus import Metrics
from ppsolo.serve.tiled import TiledPicture
from ppsolo.serve.uploads import ByteLimit, read_upload

logger = logging.getLogger(__name__)

THREADS = 2  # threads that decode, and as many that write answers
TILED_AT_ONCE = 2  # requests with a whole decoded picture in memory
LEAST_BYTES = 2**28  # bodies held at once; four of the largest bodies if that is more
LONGEST_RETRY = 60

Work = TypeVar("Work")


class AnyPredictor(Protocol):
    """The part of `ppsolo.Predictor` and of exported models that the service needs."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def __call__(self, images: Sequence[Any], /, *, batch_size: int) -> list[Instances]: ...


@dataclass(frozen=True)
class Limits:
    """The limits of the service. Raises ConfigError for values that are not above zero.

    batch_size: images predicted together.
    queue: waiting requests; further ones get 503.
    timeout: seconds to send a picture (408), to wait, estimated or real (503), and to predict (504).
    max_bytes: size of a request's body (413).
    max_pixels: size of a picture (422).
    max_tiles: tiles of a picture that is predicted tile by tile (422).
    """

    batch_size: int = 4
    queue: int = 32
    timeout: float = 30.0
    max_bytes: int = 20 * 2**20
    max_pixels: int = 2**25
    max_tiles: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ConfigError(f"--{field.name} is {value}: give a number above zero")


class AnswerOptions(NamedTuple):
    """What a request asks for.

    form: "json", "polygons", "png", or a format in `ppsolo.results.files.names`. image_id, image_name, pixel_size (in
    micrometres): properties of the picture to repeat or use in the answer. tiling: predict tile by tile.
    """

    score_threshold: float
    form: str
    image_id: int = 0
    image_name: str = ""
    pixel_size: float | None = None
    tiling: Tiling | None = None


class Service:
    """A predictor with its queue, from `start` to `stop`. pixels: how to read pictures with more than 8 bits.

    parsers: a thread that reads forms and JSON, so that none holds up the event loop.
    """

    def __init__(self, predictor: AnyPredictor, limits: Limits, pixels: PixelSettings):
        self.limits = limits
        self._read = ImageReader(pixels, limits.max_pixels)
        self.state = "starting"
        self._predictor = predictor
        self._bytes = ByteLimit(max(LEAST_BYTES, 4 * limits.max_bytes))
        self._batcher: Batcher | None = None
        self._answering = 0  # requests whose picture has arrived
        self._tiled = 0  # requests with tiles
        self.metrics = Metrics(waiting=lambda: self._batcher.waiting() if self._batcher else 0)

    async def start(self) -> None:
        """Start the threads, and a first prediction in the background; `state` is "ready" after it."""
        self._batcher = Batcher(
            prepare=lambda item: item if isinstance(item, np.ndarray) else self._read(item),  # a tile or a file
            answer=lambda images: self._predictor(images, batch_size=self.limits.batch_size),
            batch_size=self.limits.batch_size,
            queue_size=self.limits.queue,
            patience=self.limits.timeout,
            prepare_threads=THREADS,
            on_batch=self.metrics.observe_batch,
        )
        self._writers = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")
        self.parsers = ThreadPoolExecutor(1, thread_name_prefix="form")
        self._cutters = ThreadPoolExecutor(1, thread_name_prefix="tiles")
        self._stopping, self._stopped = (asyncio.get_running_loop().create_future() for _ in range(2))
        self._warming_up = asyncio.create_task(self._warm_up(self._batcher))

    async def stop(self, seconds: float) -> None:
        """Refuse new pictures, answer waiting ones for up to `seconds`, and the rest with 503."""
        if self.state == "stopping" or self._batcher is None:
            return
        self.state = "stopping"
        self._stopping.set_result(None)
        until = time.monotonic() + seconds
        await asyncio.get_running_loop().run_in_executor(None, self._batcher.stop, seconds)
        while self._answering and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self._stopped.set_result(None)
        self._warming_up.cancel()

    def close(self) -> None:
        """End the threads."""
        self._writers.shutdown(wait=False)
        self.parsers.shutdown(wait=False)
        self._cutters.shutdown(wait=False)

    async def _warm_up(self, batcher: Batcher) -> None:
        side = math.isqrt(self.limits.max_pixels)
        noise = np.random.default_rng(0).integers(0, 256, (min(side, 480), min(side, 640), 3), dtype=np.uint8)
        try:
            await asyncio.wrap_future(batcher.submit(cv2.imencode(".png", noise)[1].tobytes()))
        except Exception as error:
            if self.state != "stopping":
                self.state = f"failed: {error}"
                logger.error("the first prediction failed: %s", error)
        else:
            if self.state != "stopping":
                self.state = "ready"

    async def predict(self, request: Request, options: AnswerOptions) -> Response:
        """Answer a request that carries a picture. Raises HTTPException, ClientDisconnect."""

        def receive(take: Callable[[int], None]) -> Awaitable[bytes]:
            return read_upload(request, max_bytes=self.limits.max_bytes, take=take, threads=self.parsers)

        def write(instances: Instances, data: bytes, seconds: float) -> Response:
            content = self._write(instances, data, options, seconds=seconds)
            return Response(content, media_type=media_type(options.form))

        return await self.answer(request, receive=receive, write=write, tiling=options.tiling)

    async def answer(
        self,
        request: Request,
        *,
        receive: Callable[[Callable[[int], None]], Awaitable[bytes]],
        write: Callable[[Instances, bytes, float], Response],
        tiling: Tiling | None = None,
    ) -> Response:
        """Predict on the picture of a request.

        Args:
            request: carries the picture.
            receive: returns the bytes of the picture's file; called with a function that reserves a number of bytes
                before they are stored.
            write: returns the response; called on another thread with the instances, the picture and the seconds so
                far.
            tiling: predict tile by tile.

        Raises HTTPException, ClientDisconnect.
        """
        started = time.perf_counter()
        timeout = self.limits.timeout
        with self._bytes.share() as take, self._share_of_tiled(tiling):
            with self._queue() as queue:
                queue.check_room()  # before the picture is read
            until = time.monotonic() + timeout
            data = await _in_time(
                receive(take),
                until=lambda: until,
                late=lambda: HTTPException(408, f"the picture took more than {timeout:g} s to arrive"),
                ends={self._stopping: _stopping()},
            )
            if not data:
                raise HTTPException(422, "the picture is empty (0 bytes)")
            with self._queue() as queue:
                job = self._tiled_picture(data, tiling) if tiling else queue.submit(data)
            gone = asyncio.ensure_future(_disconnect(request))
            self._answering += 1
            try:
                return await _in_time(
                    self._answer(job, queue, data, write, started),
                    until=lambda: timeout + (job.begun or job.submitted),
                    late=lambda: self._late(job),
                    ends={self._stopped: _stopping(), gone: ClientDisconnect()},
                )
            finally:
                self._answering -= 1
                gone.cancel()

    @contextlib.contextmanager
    def _queue(self) -> Iterator[Batcher]:
        """Yield the queue; answer its refusals with 503."""
        if self._batcher is None or self.state == "stopping":
            raise _stopping()
        try:
            yield self._batcher
        except QueueFull as error:
            raise HTTPException(503, f"{error}: try again", self._retry_after()) from None
        except Stopped as error:
            raise _stopping(str(error)) from None

    @contextlib.contextmanager
    def _share_of_tiled(self, tiling: Tiling | None) -> Iterator[None]:
        """Count a request with tiles while it is answered; one too many is 503."""
        if tiling is None:
            yield
            return
        if self._tiled == TILED_AT_ONCE:
            raise HTTPException(503, f"{TILED_AT_ONCE} pictures are predicted in tiles: try again", self._retry_after())
        self._tiled += 1
        try:
            yield
        finally:
            self._tiled -= 1

    def _tiled_picture(self, data: bytes, tiling: Tiling) -> TiledPicture:
        limits = self.limits
        return TiledPicture(
            data, tiling, read=self._read, most=limits.max_tiles, ahead=limits.batch_size, threads=self._cutters
        )

    def _retry_after(self) -> dict[str, str]:
        wait = self._batcher.expected_wait() if self._batcher else 0.0
        return {"Retry-After": str(max(1, min(LONGEST_RETRY, math.ceil(wait))))}

    def _late(self, job: Pending | TiledPicture) -> HTTPException:
        """Return 504 if the prediction has begun, even at the last moment; else 503, because the service is busy."""
        timeout = self.limits.timeout
        if job.begun is None or time.monotonic() < job.begun + timeout:
            return HTTPException(503, f"the picture waited {timeout:g} s for others: try again", self._retry_after())
        return HTTPException(504, f"the prediction took more than {timeout:g} s", self._retry_after())

    async def _answer(
        self,
        job: Pending | TiledPicture,
        queue: Batcher,
        data: bytes,
        write: Callable[[Instances, bytes, float], Response],
        started: float,
    ) -> Response:
        """Await the prediction, and write the response on another thread."""
        try:
            instances = await (job.instances(queue) if isinstance(job, TiledPicture) else asyncio.wrap_future(job))
        except Stopped as error:
            raise _stopping(str(error)) from None
        except ImageError as error:
            raise HTTPException(422, str(error)) from None
        except PpsoloError as error:
            logger.error("a prediction failed: %s", error)
            raise HTTPException(500, str(error)) from None
        except Exception:
            logger.exception("a prediction failed")
            raise HTTPException(500, "the prediction failed: the log of the service says why") from None
        self.metrics.instances.inc(len(instances))

        def respond() -> Response:
            return write(instances, data, time.perf_counter() - started)

        return await asyncio.get_running_loop().run_in_executor(self._writers, respond)

    def _write(self, instances: Instances, data: bytes, options: AnswerOptions, *, seconds: float) -> bytes:
        """Write the instances in the form that the request asks for."""
        if options.form == "png":
            return picture_answer(self._read(data), instances, score_threshold=options.score_threshold)
        if options.form in FORMATS:
            return file_answer(
                instances,
                options.form,
                image=self._read(data) if options.form in WITH_PIXELS else None,
                score_threshold=options.score_threshold,
                image_id=options.image_id,
                image_name=options.image_name,
                pixel_size=options.pixel_size,
            )
        return json_answer(
            instances,
            image_id=options.image_id,
            score_threshold=options.score_threshold,
            polygons=options.form == "polygons",
            seconds=seconds,
        )


def _stopping(reason: str = "the service is stopping") -> HTTPException:
    return HTTPException(503, reason, {"Connection": "close", "Retry-After": "1"})


async def _in_time(
    work: Awaitable[Work],
    *,
    until: Callable[[], float],
    late: Callable[[], Exception],
    ends: Mapping["asyncio.Future[None]", Exception],
) -> Work:
    """Return the result of the work. Cancel it, and raise the given exception, if an end comes first or time is up.

    until: when time is up, by time.monotonic; asked again at that moment, because it may have moved.
    """
    task = asyncio.ensure_future(work)
    try:
        while not any(one.done() for one in (task, *ends)) and (left := until() - time.monotonic()) > 0:
            await asyncio.wait({task, *ends}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})  # the work ends before the caller learns about it
        raise next((error for end, error in ends.items() if end.done()), None) or late()
    finally:
        task.cancel()


async def _disconnect(request: Request) -> None:
    """Return when the client disconnects; its request must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
