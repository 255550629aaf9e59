"""Requests to the HTTP service: bytes of a connection, from the parser to the answer, and the forms by themselves."""

import asyncio
import functools
import json
import logging
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.target import Target, picture
from ppsolo.errors import PpsoloError

ALLOWED = {200, 503, 504}  # beside 4xx
TIMEOUT = 10.0  # seconds, of the service
LOOKS = 20_000  # at the state of a request, half a millisecond apart: a process that stands still does not look
FIT = b"~"  # before a request: its Content-Length is made to fit the body


def _form(data: bytes, folder: Path) -> None:
    from ppsolo.serve.forms import FormError, boundary_of, file_of_form

    head, _, body = data.partition(b"\n")
    try:
        boundary = boundary_of(head.decode("latin-1"))
    except FormError:
        boundary = b"b"
    try:
        file_of_form(body, boundary)
    except FormError as error:
        raise PpsoloError(str(error)) from None


def _form_seeds() -> list[bytes]:
    return [
        b"multipart/form-data; boundary=b\n" + _field() + _file() + b"--b--\r\n",
        b'multipart/form-data; boundary="b"\n' + _file(),
    ]


def _file(content: bytes = b"content") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + content + b"\r\n"


def _field() -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\ntext\r\n'


class _Predictor:
    """Finds the bright pixels of each channel."""

    class_names = ("red", "green", "blue")

    def __call__(self, images: Sequence[Any], /, *, batch_size: int) -> list[Any]:
        from ppsolo.results.instances import Instances

        scores = np.array([0.9, 0.5, 0.1], np.float32)
        labels = np.arange(3)
        return [
            Instances.from_masks(
                image.transpose(2, 0, 1) > 128,
                scores=scores,
                labels=labels,
                class_names=("r", "g", "b"),
                category_ids=(1, 2, 7),
            )
            for image in images
        ]


class _Transport(asyncio.Transport):
    """A connection without a network. sent: what the service answered."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 80)})
        self.sent = bytearray()
        self.max_size = 1 << 18
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


class _Errors(logging.Handler):
    """Keeps what is logged with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.texts.append(self.format(record))


class _Service:
    """The service on an event loop of its own, and connections to it."""

    def __init__(self) -> None:
        from uvicorn.server import ServerState

        from ppsolo.serve.application import create_app
        from ppsolo.serve.server import Server
        from ppsolo.serve.service import Limits

        self._loop = asyncio.new_event_loop()
        limits = Limits(batch_size=2, queue=4, timeout=TIMEOUT, max_bytes=100_000, max_pixels=100_000)
        app = create_app(_Predictor(), model="m", limits=limits)
        self._service = app.state.service
        self.errors = _Errors()
        logging.getLogger().addHandler(self.errors)
        for name in ("ppsolo", "uvicorn"):
            logging.getLogger(name).propagate = True
        self._config = Server(app).config
        for name in ("uvicorn", "uvicorn.error"):
            logging.getLogger(name).handlers[:] = [self.errors]
        self._config.lifespan = "off"
        self._config.load()
        self._state = ServerState()
        self._loop.run_until_complete(self._start())

    async def _start(self) -> None:
        await self._service.start()
        while self._service.state == "starting":
            await asyncio.sleep(0.01)

    def answer(self, data: bytes) -> bytes:
        """What the service answers to the bytes of a connection, which ends after them."""
        return self._loop.run_until_complete(self._answer(data))

    async def _answer(self, data: bytes) -> bytes:
        make: Any = self._config.http_protocol_class
        connection = make(config=self._config, server_state=self._state, app_state={}, _loop=self._loop)
        transport = _Transport()
        connection.connection_made(transport)
        at = 0
        while at < len(data) and not transport.closed:
            step = transport.max_size
            connection.data_received(data[at : at + step])
            at += step
            await asyncio.sleep(0)
        for _ in range(LOOKS):
            if transport.closed or connection.cycle is None:
                break
            body_comes = connection.cycle.more_body and at >= len(data)
            if connection.cycle.response_complete or body_comes:
                break
            await asyncio.sleep(0.0005)
        connection.connection_lost(None)
        for _ in range(LOOKS):
            if not self._state.tasks:
                break
            await asyncio.sleep(0.0005)
        if self._state.tasks:
            raise AssertionError("a request goes on after its client has left")
        return bytes(transport.sent)


@functools.cache
def _service() -> _Service:
    return _Service()


def _request(data: bytes, folder: Path) -> None:
    if data.startswith(FIT):
        head, gap, body = data[1:].partition(b"\r\n\r\n")
        data = re.sub(rb"(?i)\r\ncontent-length: *\d*", b"\r\nContent-Length: %d" % len(body), head) + gap + body
    service = _service()
    service.errors.texts.clear()
    sent = service.answer(data)
    if service.errors.texts:
        raise AssertionError(f"logged: {service.errors.texts[0][-600:]}")
    for status in map(int, re.findall(rb"(?:^|(?<=\n)|(?<=\}))HTTP/1\.1 (\d\d\d) ", sent)):
        if not (status in ALLOWED or 400 <= status < 500):
            raise AssertionError(f"status {status}: {sent[-300:]!r}")


def _request_seeds() -> list[bytes]:
    host = b" HTTP/1.1\r\nHost: localhost\r\n"
    gets = [b"/", b"/health", b"/health/live", b"/metrics", b"/info", b"/sample.png", b"/openapi.json", b"/v2"]
    gets += [b"/v2/health/ready", b"/v2/models/m", b"/v2/models/m/versions/1/ready", b"/nothing"]
    seeds = [b"GET " + path + host + b"\r\n" for path in gets]
    seeds += [b"OPTIONS /predict" + host + b"Origin: http://localhost\r\n\r\n", b"HEAD /" + host + b"\r\n"]

    def post(path: bytes, kind: bytes, body: bytes, more: bytes = b"") -> bytes:
        start = b"POST " + path + host + b"Content-Type: " + kind + b"\r\n" + more
        return FIT + start + b"Content-Length: 0\r\n\r\n" + body

    for query in (
        b"",
        b"?format=polygons",
        b"?format=png&score_threshold=0.5",
        b"?format=csv&pixel_size=0.5&image_id=7",
    ):
        seeds.append(post(b"/predict" + query, b"image/png", picture()))
    for form in (b"labelme", b"yolo", b"label_map", b"masks", b"geojson", b"imagej", b"parquet", b"coco"):
        seeds.append(post(b"/predict?image_name=a.png&format=" + form, b"image/jpeg", picture(".jpg")))
    seeds.append(post(b"/predict", b"multipart/form-data; boundary=b", _field() + _file(picture()) + b"--b--\r\n"))
    chunks = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in (picture()[:100], picture()[100:]))
    chunked = b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    seeds.append(b"POST /predict" + host + chunked + chunks + b"0\r\n\r\n")
    infer = b"/v2/models/m/infer"
    pixels = {"name": "image", "datatype": "UINT8", "shape": [2, 2, 3], "data": list(range(12))}
    named = {"id": "1", "inputs": [pixels], "outputs": [{"name": "masks"}, {"name": "boxes"}]}
    seeds += [
        post(infer, b"application/json", json.dumps(content).encode()) for content in ({"inputs": [pixels]}, named)
    ]
    encoded = struct.pack("<I", len(picture())) + picture()
    binary = {
        "name": "encoded_image",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": len(encoded)},
    }
    text = json.dumps({"inputs": [binary], "parameters": {"binary_data_output": True}}).encode()
    length = b"Inference-Header-Content-Length: %d\r\n" % len(text)
    seeds.append(post(infer, b"application/octet-stream", text + encoded, length))
    return seeds


TARGETS = {"form": Target(_form, _form_seeds), "request": Target(_request, _request_seeds)}
