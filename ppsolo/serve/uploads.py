"""Takes a picture from the body of a request, within limits on its bytes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor

from fastapi import HTTPException, Request

from ppsolo.serve.forms import FormError, boundary_of, file_of_form

WAYS = "as multipart/form-data, or as the body with a Content-Type of image/*"


class ByteLimit:
    """A limit on the bytes that all requests hold together.

    total: the limit. held: the bytes held now.
    """

    def __init__(self, total: int):
        self.total = total
        self.held = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves a number of bytes or raises a 503; all are released at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.held + count > self.total:
                raise HTTPException(503, "too many bytes are being received: try again", {"Retry-After": "1"})
            self.held += count
            taken += count

        try:
            yield take
        finally:
            self.held -= taken


async def read_upload(request: Request, *, max_bytes: int, take: Callable[[int], None], threads: Executor) -> bytes:
    """Return the bytes of the picture that a request carries.

    max_bytes: the limit for the whole body. take: called with a number of bytes before they are stored. threads: they
    parse forms, so that the event loop is not blocked.

    Raises HTTPException: 413 if the stated or the received length exceeds `max_bytes`; 415 for another type of body;
    400 for a malformed form, or one that does not have exactly one file; and the errors of `take`.
    Raises starlette's ClientDisconnect if the client disconnects.
    """
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    if not (is_form or kind.startswith("image/") or kind == "application/octet-stream"):
        fault = f"the body has the type {kind}" if kind else "the request has no Content-Type"
        raise HTTPException(415, f"{fault}: send the picture {WAYS}")
    try:
        boundary = boundary_of(content_type) if is_form else b""
        async with contextlib.aclosing(_bounded(request, max_bytes=max_bytes, take=take)) as chunks:
            body = b"".join([chunk async for chunk in chunks])
        if not is_form:
            return body
        return await asyncio.get_running_loop().run_in_executor(threads, file_of_form, body, boundary)
    except FormError as error:
        raise HTTPException(400, f"the form cannot be read ({error}): send one file") from None


async def read_body(request: Request, *, max_bytes: int, take: Callable[[int], None]) -> bytes:
    """Return the whole body of a request. Arguments and errors are those of `read_upload`."""
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)
    async with contextlib.aclosing(_bounded(request, max_bytes=max_bytes, take=take)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def _bounded(request: Request, *, max_bytes: int, take: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(max_bytes)
        take(len(chunk))
        yield chunk


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body has more than {max_bytes} bytes: shrink the picture")
