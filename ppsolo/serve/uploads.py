"""A picture taken from the body of a request, of which no more is held than may be."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator

from fastapi import HTTPException, Request
from starlette.formparsers import MultiPartException, MultiPartParser

MOST_FIELDS = 16  # of a form, beside its one file
WAYS = "as multipart/form-data, or as it is with a Content-Type of image/*"


class Budget:
    """The bytes that all requests may hold together."""

    def __init__(self, total: int):
        self.total = total
        self.held = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yields what takes a number of bytes, or refuses (503); all that was taken is given back at the end."""
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


async def read_upload(request: Request, *, max_bytes: int, take: Callable[[int], None]) -> bytes:
    """The bytes of the picture that a request carries.

    max_bytes: of the whole body. take: called with the number of bytes before each part of the body is kept.

    Raises HTTPException: 413 beyond `max_bytes`, as soon as the length is stated or met; 415 for another type of
    body, 400 for a form that is malformed or has not exactly one file; and what `take` raises.
    Raises starlette's ClientDisconnect where the client goes away.
    """
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = _bounded(request, max_bytes=max_bytes, take=take)
    async with contextlib.aclosing(body):
        if kind == "multipart/form-data":
            return await _file_of_form(request, body)
        if kind.startswith("image/") or kind == "application/octet-stream":
            return b"".join([chunk async for chunk in body])
    raise HTTPException(415, f"the body is of type {kind or 'nothing'}: send the picture {WAYS}")


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


class _FormInMemory(MultiPartParser):
    """Starlette's parser, without its temporary files on disk: the body is bounded already."""

    spool_max_size = 2**40


async def _file_of_form(request: Request, body: AsyncGenerator[bytes, None]) -> bytes:
    try:
        form = await _FormInMemory(request.headers, body, max_files=1, max_fields=MOST_FIELDS).parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read ({error.message}): send one file") from None
    for value in form.values():
        if not isinstance(value, str):
            try:
                return value.file.read()
            finally:
                value.file.close()
    raise HTTPException(400, "the form has no file, or ends before the file does: send one file")
