"""The event loop: no request holds it for long, whatever its content."""

import asyncio.events
import time

import pytest
from servers import connect, picture, png, served

MOST_SECONDS = 0.05  # of the loop's own thread, for one step
SIZE = 20_000_000
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
IMAGE = b"Content-Type: image/png\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


def sized(kind: bytes, body: bytes) -> bytes:
    return HEAD + kind + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(kind: bytes, body: bytes) -> bytes:
    return HEAD + kind + b"Transfer-Encoding: chunked\r\n\r\n" + body


def infer(body: bytes) -> bytes:
    head = b"POST /v2/models/a%20model/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


REQUESTS = {
    "repeated boundaries": sized(FORM, (b"--b\r\n" * (SIZE // 5))),
    "boundaries in a file": sized(FORM, PART + b"\r\n--\r\n--" * (SIZE // 8)),
    "nearly boundaries": sized(FORM, PART + b"\r\n--c" * (SIZE // 5) + b"\r\n--b--\r\n"),
    "parts without end": sized(FORM, (PART + b"\r\n") * 300_000),
    "one long header": sized(FORM, b"--b\r\nX: " + b"y" * SIZE),
    "a form in small chunks": chunked(FORM, b"1\r\n-\r\n" * 300_000 + b"0\r\n\r\n"),
    "a picture in small chunks": chunked(IMAGE, b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n"),
    "chunk extensions": chunked(IMAGE, (b"1;" + b"a" * 900 + b"\r\nx\r\n") * 5_000 + b"0\r\n\r\n"),
    "requests one after the other": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000,
    "many headers": HEAD + b"a: b\r\n" * 9_000 + b"\r\n",
    "a long address": b"GET /predict?" + b"a=b&" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "pixels in JSON": infer(
        b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2000, 1500, 3], "data": [%s1]}]}'
        % (b"1," * (SIZE // 2 - 100))
    ),
    "one long list": infer(b"[" + b"[1]," * (SIZE // 4) + b"1]"),
    "a whole picture": sized(IMAGE, png(picture(0, 400, 600))),
}


@pytest.fixture
def steps(monkeypatch):
    """The seconds that each step of an event loop took its thread."""
    seconds, run = [], asyncio.events.Handle._run

    def timed(handle):
        started = time.thread_time()
        run(handle)
        seconds.append(time.thread_time() - started)

    monkeypatch.setattr(asyncio.events.Handle, "_run", timed)
    return seconds


@pytest.mark.parametrize("name", list(REQUESTS))
def test_no_request_holds_the_loop(predictor, steps, name):
    with served(predictor) as server:
        del steps[:]
        connection = connect(server.port)
        connection.settimeout(0.2)
        sent, request = 0, memoryview(REQUESTS[name])
        until = time.monotonic() + 2.0
        try:
            while sent < len(request) and time.monotonic() < until:
                sent += connection.send(request[sent : sent + 1_000_000])
            while time.monotonic() < until and connection.recv(1_000_000):
                pass
        except (TimeoutError, ConnectionError):
            pass  # a refusal ends the connection
        connection.close()
        assert server.client.get("/health").status_code == 200
        assert steps and max(steps) < MOST_SECONDS, f"{max(steps):.3f} s"
