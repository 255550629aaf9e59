"""The web application: its addresses and their answers."""

import contextlib
import difflib
import functools
import logging
import platform
import sys
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from ppsolo.data.pixels import DEFAULT_SETTINGS, PixelSettings
from ppsolo.data.synthetic import draw_scene
from ppsolo.data.tiles import DEFAULT_OVERLAP, checked_tiling
from ppsolo.errors import ConfigError
from ppsolo.formats.pixel_size import LARGEST_PIXEL
from ppsolo.results.files.catalogue import checked_formats
from ppsolo.results.files.names import FORMAT_NAMES
from ppsolo.serve.access import THIS_MACHINE, AccessRules, CheckSource, CheckToken, client_of
from ppsolo.serve.inference_protocol import add_inference_protocol
from ppsolo.serve.prometheus import CountRequests
from ppsolo.serve.service import AnswerOptions, AnyPredictor, Limits, Service
from ppsolo.text import one_line
from ppsolo.version import __version__

AnswerForm = Literal[
    "json", "polygons", "png", "coco", "labelme", "yolo", "label_map", "masks", "geojson", "imagej", "csv", "parquet"
]
FORMS = {
    "json": "instances with run lengths",
    "polygons": "instances with polygons",
    "png": "the picture with the masks drawn",
    **FORMAT_NAMES,
}

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")
SAMPLE_SEED, SAMPLE_SIZE = 2, (360, 450)  # height, width in pixels
CLIENT_GONE = 499  # only the metrics show it
ADDRESSES = ("/", "/predict", "/health", "/info", "/metrics")
HOW_TO_PREDICT = ": curl -F file=@photo.jpg http://HOST:PORT/predict"
MALFORMED = (400, 413, 415, 422)  # statuses for an error in the request


class Found(BaseModel):
    """One instance, as in COCO results."""

    image_id: int
    category_id: int
    category_name: str
    segmentation: dict[str, Any] | list[list[float]] = Field(description="compressed RLE, or rings of polygons")
    score: float
    bbox: list[float] = Field(description="left, top, width, height in pixels")


class Size(BaseModel):
    """The size of the upright picture, in pixels."""

    height: int
    width: int


class Answer(BaseModel):
    """The instances found, best first."""

    image: Size
    seconds: float
    instances: list[Found]


class Refusal(BaseModel):
    """The reason why there is no answer, in one line."""

    error: str


@functools.cache
def sample_picture() -> bytes:
    """Return a drawn scene as a PNG file."""
    image = draw_scene(np.random.default_rng(SAMPLE_SEED), SAMPLE_SIZE).image
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def create_app(
    predictor: AnyPredictor,
    *,
    model: str,
    limits: Limits,
    access: AccessRules = THIS_MACHINE,
    pixels: PixelSettings = DEFAULT_SETTINGS,
) -> FastAPI:
    """Return the web application; `app.state.service` is its Service.

    predictor: called from one thread with a list of uint8 [H, W, 3] RGB arrays and batch_size; has `class_names`.
    model: its name in /info and in the Open Inference Protocol.
    access: which requests are accepted.
    pixels: how to read pictures with more than 8 bits, several pages, or extra channels.
    """
    service = Service(predictor, limits, pixels)

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
        docs_url=None,  # these pages load scripts from the internet; an offline machine cannot
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header
    )
    app.state.service = service
    if access.token is not None:  # the first one added runs last
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
    add_inference_protocol(app, service, model=model, classes=predictor.class_names)
    return app


def _add_refusals(app: FastAPI) -> None:
    """Answer every refusal as {"error": one line}; log the line for a malformed request."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        reason = one_line(_reason(request, error))  # clients' words in it may be no Unicode
        if error.status_code in MALFORMED:
            logger.warning("%s: refused, %s", client_of(request.scope), reason)
        return JSONResponse({"error": reason}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"error": one_line(f"{first['loc'][-1]}: {first['msg']}")}, 422)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)


def _reason(request: Request, error: StarletteHTTPException) -> str:
    """Return the reason of a refusal; for a wrong address or method, what is there instead."""
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        return f"{path} does not take {request.method}, but {allowed}" + (HOW_TO_PREDICT if path == "/predict" else "")
    if error.status_code == 404 and error.detail == "Not Found":
        return f"{path}: no such address; there are {', '.join(ADDRESSES)}, and more in /openapi.json"
    return str(error.detail)


def refuse_unknown_parameters(request: Request) -> None:
    """Raise HTTPException for a parameter in the address that this route does not have."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise StarletteHTTPException(422, f"{name}: no such parameter; {advice}")


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
        dependencies=[Depends(refuse_unknown_parameters)],
        responses={
            200: {"model": Answer, "content": {"image/png": binary}, "description": "the instances found"},
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
        format: Annotated[AnswerForm, Query(description="; ".join(f"{k}: {v}" for k, v in FORMS.items()))] = "json",
        image_id: Annotated[int, Query(ge=-(2**63), lt=2**63, description="repeated in the answer")] = 0,
        image_name: Annotated[str, Query(max_length=1024, description="repeated in tables and COCO results")] = "",
        pixel_size: Annotated[
            float | None,
            Query(
                gt=0, le=LARGEST_PIXEL, allow_inf_nan=False, description="micrometres per pixel, for csv and parquet"
            ),
        ] = None,
        tile: Annotated[
            int | None, Query(description="cut a large picture into squares of so many pixels, join objects at seams")
        ] = None,
        overlap: Annotated[
            int | None, Query(description=f"pixels that tiles share; default: {DEFAULT_OVERLAP} or half a tile")
        ] = None,
    ) -> Response:
        """Find the instances of a picture, sent as a file of a form or as the body."""
        try:
            checked_formats([format] if format in FORMAT_NAMES else [])
            tiling = checked_tiling(tile, overlap)
        except ConfigError as error:  # a package is missing, or the tiles are impossible
            raise StarletteHTTPException(422, str(error)) from None
        options = AnswerOptions(score_threshold, format, image_id, image_name, pixel_size, tiling)
        return await service.predict(request, options)


def _add_pages(app: FastAPI, service: Service, predictor: AnyPredictor, model: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
    policy += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    @app.get("/", response_class=HTMLResponse)
    async def index() -> Response:
        """A page to try the service."""
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/sample.png", response_class=Response)
    async def sample() -> Response:
        """A drawn picture of circles, rectangles and triangles, to try the service."""
        return Response(sample_picture(), media_type="image/png")

    @app.get("/health", responses={503: {"description": "starting, stopping, or the first prediction failed"}})
    async def health() -> Response:
        """Whether the service answers pictures: 200 after the model has predicted once."""
        return JSONResponse({"status": service.state}, 200 if service.state == "ready" else 503)

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": service.state}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in the text format of Prometheus."""
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
