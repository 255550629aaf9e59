"""The service: pictures in over HTTP, instances out, from a predictor of either kind."""

import asyncio
import contextlib
import logging
import math
import platform
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from ppsolo.data.images import decode_image
from ppsolo.errors import ConfigError, ImageError, PpsoloError
from ppsolo.results.instances import Instances
from ppsolo.serve.access import THIS_MACHINE, AccessRules, CheckSource, CheckToken, client_of
from ppsolo.serve.answers import json_answer, picture_answer
from ppsolo.serve.batching import Batcher, Pending, QueueFull, Stopped
from ppsolo.serve.prometheus import CountRequests, Metrics
from ppsolo.serve.uploads import ByteLimit, read_upload
from ppsolo.text import one_line
from ppsolo.version import __version__

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")
THREADS = 2  # that decode, and as many that write answers
LEAST_BYTES = 2**28  # of bodies held at once, or four of the largest bodies if that is more
CLIENT_GONE = 499  # nobody sees it but the metrics
LONGEST_RETRY = 60
MALFORMED = (400, 413, 415, 422)  # statuses that say what is wrong with the request

Work = TypeVar("Work")


class AnyPredictor(Protocol):
    """What the service needs of `ppsolo.Predictor` or of an exported model."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def __call__(self, images: Sequence[Any], /, *, batch_size: int) -> list[Instances]: ...


@dataclass(frozen=True)
class Limits:
    """What the service holds and waits for at most. Raises ConfigError for what is not above zero.

    batch_size: images predicted together.
    queue: requests that wait; further ones get 503.
    timeout: seconds for sending a picture (408), for waiting, foreseen or real (503), and for a prediction (504).
    max_bytes: of the body of a request (413).
    max_pixels: of a picture (422).
    """

    batch_size: int = 4
    queue: int = 32
    timeout: float = 30.0
    max_bytes: int = 20 * 2**20
    max_pixels: int = 2**25

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ConfigError(f"--{field.name} is {value}, give a number above zero")


class AnswerOptions(NamedTuple):
    """What a request asks for: which instances, and in which form."""

    score_threshold: float
    form: Literal["json", "polygons", "png"]
    image_id: int


class Found(BaseModel):
    """One instance, as in COCO results."""

    image_id: int
    category_id: int
    category_name: str
    segmentation: dict[str, Any] | list[list[float]] = Field(description="compressed RLE, or rings of polygons")
    score: float
    bbox: list[float] = Field(description="left, top, width, height in pixels")


class Size(BaseModel):
    """Of the picture, upright, in pixels."""

    height: int
    width: int


class Answer(BaseModel):
    """What was found, best first."""

    image: Size
    seconds: float
    instances: list[Found]


class Refusal(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class Service:
    """A predictor behind a queue, from `start` to `stop`."""

    def __init__(self, predictor: AnyPredictor, limits: Limits):
        self.limits = limits
        self.state = "starting"
        self._predictor = predictor
        self._bytes = ByteLimit(max(LEAST_BYTES, 4 * limits.max_bytes))
        self._batcher: Batcher | None = None
        self._answering = 0  # requests whose picture has arrived
        self.metrics = Metrics(waiting=lambda: self._batcher.waiting() if self._batcher else 0)

    async def start(self) -> None:
        """Start the threads and, in the background, a first prediction; `state` is "ready" after it."""
        self._batcher = Batcher(
            prepare=lambda data: decode_image(data, max_pixels=self.limits.max_pixels),
            answer=lambda images: self._predictor(images, batch_size=self.limits.batch_size),
            batch_size=self.limits.batch_size,
            queue_size=self.limits.queue,
            patience=self.limits.timeout,
            prepare_threads=THREADS,
            on_batch=self.metrics.observe_batch,
        )
        self._writers = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")
        self._parsers = ThreadPoolExecutor(1, thread_name_prefix="form")
        self._stopping, self._stopped = (asyncio.get_running_loop().create_future() for _ in range(2))
        self._warming_up = asyncio.create_task(self._warm_up(self._batcher))

    async def stop(self, seconds: float) -> None:
        """Take no pictures any more, answer those that wait for up to `seconds`, and the rest with 503."""
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
        """Let the threads go."""
        self._writers.shutdown(wait=False)
        self._parsers.shutdown(wait=False)

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
        """The answer to a request that carries a picture. Raises HTTPException, ClientDisconnect."""
        started = time.perf_counter()
        timeout = self.limits.timeout
        with self._bytes.share() as take:
            with self._queue() as queue:
                queue.check_room()  # before anything of the picture is read
            until = time.monotonic() + timeout
            data = await _in_time(
                read_upload(request, max_bytes=self.limits.max_bytes, take=take, threads=self._parsers),
                until=lambda: until,
                late=lambda: HTTPException(408, f"the picture took more than {timeout:g} s to arrive"),
                ends={self._stopping: _stopping()},
            )
            if not data:
                raise HTTPException(422, "the picture is empty (0 bytes)")
            with self._queue() as queue:
                job = queue.submit(data)
            gone = asyncio.ensure_future(_disconnect(request))
            self._answering += 1
            try:
                return await _in_time(
                    self._answer(job, data, options, started),
                    until=lambda: timeout + (job.begun or job.submitted),
                    late=lambda: self._late(job),
                    ends={self._stopped: _stopping(), gone: ClientDisconnect()},
                )
            finally:
                self._answering -= 1
                gone.cancel()

    @contextlib.contextmanager
    def _queue(self) -> Iterator[Batcher]:
        """Yields the queue; what it refuses is 503."""
        if self._batcher is None or self.state == "stopping":
            raise _stopping()
        try:
            yield self._batcher
        except QueueFull as error:
            raise HTTPException(503, f"{error}: try again", self._retry_after()) from None
        except Stopped as error:
            raise _stopping(str(error)) from None

    def _retry_after(self) -> dict[str, str]:
        wait = self._batcher.expected_wait() if self._batcher else 0.0
        return {"Retry-After": str(max(1, min(LONGEST_RETRY, math.ceil(wait))))}

    def _late(self, job: Pending) -> HTTPException:
        """Too slow is a prediction that has begun, be it at the last moment; else the service is too busy."""
        timeout = self.limits.timeout
        if job.begun is None or time.monotonic() < job.begun + timeout:
            return HTTPException(503, f"others were answered for {timeout:g} s: try again", self._retry_after())
        return HTTPException(504, f"the prediction was not done within {timeout:g} s", self._retry_after())

    async def _answer(self, job: Pending, data: bytes, options: AnswerOptions, started: float) -> Response:
        """Await the prediction, and write the response on another thread."""
        try:
            instances = await asyncio.wrap_future(job)
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

        def write() -> bytes:
            if options.form == "png":
                return picture_answer(
                    data, instances, score_threshold=options.score_threshold, max_pixels=self.limits.max_pixels
                )
            return json_answer(
                instances,
                image_id=options.image_id,
                score_threshold=options.score_threshold,
                polygons=options.form == "polygons",
                seconds=time.perf_counter() - started,
            )

        content = await asyncio.get_running_loop().run_in_executor(self._writers, write)
        return Response(content, media_type="image/png" if options.form == "png" else "application/json")


def _stopping(reason: str = "the service is stopping") -> HTTPException:
    return HTTPException(503, reason, {"Connection": "close", "Retry-After": "1"})


async def _in_time(
    work: Awaitable[Work],
    *,
    until: Callable[[], float],
    late: Callable[[], Exception],
    ends: Mapping["asyncio.Future[None]", Exception],
) -> Work:
    """What the work comes to. It is cancelled, and the exception raised, where an end comes first, or it is late.

    until: when it is late, by time.monotonic; asked anew once that time has come, in case it has been put off.
    """
    task = asyncio.ensure_future(work)
    try:
        while not any(one.done() for one in (task, *ends)) and (left := until() - time.monotonic()) > 0:
            await asyncio.wait({task, *ends}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})  # what it waited for is given up before anybody is told
        raise next((error for end, error in ends.items() if end.done()), None) or late()
    finally:
        task.cancel()


async def _disconnect(request: Request) -> None:
    """Returns when the client, whose request has been read, goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(
    predictor: AnyPredictor, *, model: str, limits: Limits = Limits(), access: AccessRules = THIS_MACHINE
) -> FastAPI:
    """The web application; `app.state.service` is its Service.

    predictor: called with a list of uint8 [H, W, 3] RGB arrays and batch_size, from one thread; has `class_names`.
    model: its name in /info.
    access: which requests are answered.
    """
    service = Service(predictor, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop(0.0)
        service.close()

    app = FastAPI(
        title="ppsolo",
        version=__version__,
        description="Instances of a picture: masks, classes and scores, by SOLOv2.",
        lifespan=lifespan,
        docs_url=None,  # these pages load their scripts from elsewhere, which an offline machine cannot
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header
    )
    app.state.service = service
    if access.token is not None:  # the first that is added comes last
        app.add_middleware(CheckToken, token=access.token)
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.lower() for origin in access.origins],
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(CheckSource, rules=access)
    app.add_middleware(CountRequests, metrics=service.metrics)
    _add_refusals(app)
    _add_predict(app, service)
    _add_pages(app, service, predictor, model)
    return app


def _add_refusals(app: FastAPI) -> None:
    """Every refusal is {"error": one line}; one of a malformed request is a line in the log too."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        if error.status_code in MALFORMED:
            logger.warning("%s: refused, %s", client_of(request.scope), one_line(str(error.detail)))
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)


def _add_predict(app: FastAPI, service: Service) -> None:
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": ["file"], "properties": {"file": binary["schema"]}}
    statuses = {
        400: "the form is malformed",
        408: "the picture did not arrive in time",
        413: "too many bytes",
        415: "the body is neither a form nor a picture",
        422: "the picture cannot be read, has too many pixels, or a parameter is wrong",
        500: "the prediction failed",
        503: "too many requests, or the service is stopping: try again after Retry-After seconds",
        504: "the prediction took too long",
    }

    @app.post(
        "/predict",
        response_class=Response,
        responses={
            200: {"model": Answer, "content": {"image/png": binary}, "description": "what was found"},
            **{status: {"model": Refusal, "description": text} for status, text in statuses.items()},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"image/*": binary, "multipart/form-data": {"schema": form}},
            }
        },
    )
    async def predict(
        request: Request,
        score_threshold: Annotated[float, Query(ge=0, le=1, description="least score")] = 0.0,
        format: Annotated[
            Literal["json", "polygons", "png"],
            Query(description="run lengths or polygons in JSON, or the picture with the masks drawn"),
        ] = "json",
        image_id: Annotated[int, Query(description="repeated in the answer")] = 0,
    ) -> Response:
        """The instances of a picture, sent as a form's file or as it is."""
        return await service.predict(request, AnswerOptions(score_threshold, format, image_id))


def _add_pages(app: FastAPI, service: Service, predictor: AnyPredictor, model: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
    policy += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    @app.get("/", response_class=HTMLResponse)
    async def index() -> Response:
        """A page to try the service with."""
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/health", responses={503: {"description": "starting, stopping, or the first prediction failed"}})
    async def health() -> Response:
        """Whether pictures are answered: 200 once the model has answered a first one of its own."""
        return JSONResponse({"status": service.state}, 200 if service.state == "ready" else 503)

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": service.state}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus's text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """The model, its classes, the limits, and the versions."""
        limits = service.limits
        versions = {"ppsolo": __version__, "python": platform.python_version()}
        if (paddle := sys.modules.get("paddle")) is not None:
            versions["paddle"] = paddle.version.full_version
        return {
            "model": model,
            "classes": list(predictor.class_names),
            "limits": {field.name: getattr(limits, field.name) for field in fields(limits)},
            "versions": versions,
        }
