"""The transfer of one file over HTTP, resumed where an earlier one was cut.

It takes Python's own HTTP client and not `httpx`: that comes with Paddle 3 only, and resumes no transfer either.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterator
from typing import IO

from ppsolo.checkpoint.part_file import Version, beside, discard, file_errors, no_link, one_line, resume_point

_CHUNK = 1 << 16
_LEAST_RATE = 1024  # bytes a second: the largest published file would take three days
MOST_BYTES = 1 << 30  # largest accepted file; the largest published one has 282 MB
_PAGE_TYPES = ("text/html", "application/xhtml+xml")


class Cut(Exception):
    """A transfer failed in a way that another attempt may fix."""


class Refusal(Exception):
    """The server gave a final answer other than the file."""


def transfer(url: str, part: pathlib.Path, timeout: float) -> Generator[tuple[int, int | None], None, None]:
    """Start or extend `part` over one connection until it is whole; yield (bytes so far, all bytes)."""
    offset, earlier = resume_point(url, part)
    if earlier is not None and offset == earlier.size:
        return
    headers = {"User-Agent": "ppsolo"}
    if earlier is not None:
        headers["Range"] = f"bytes={offset}-"
        headers["If-Range"] = earlier.validator() or ""
    with _answer(urllib.request.Request(url, headers=headers), part, timeout) as response:
        length = _body_length(response)
        if response.status == 206 and earlier is not None:
            if not _continues(response, offset, earlier):
                discard(part)
                raise Cut("the file on the server changed meanwhile")
            done, version, mode = offset, earlier, "ab"
        elif response.status == 200:
            sent = response.headers
            done, version, mode = 0, Version(url, sent["ETag"], sent["Last-Modified"], length), "wb"
        else:
            raise Refusal(f"it answered {response.status} {response.reason}")
        with file_errors(part), open(part, mode, opener=no_link) as file:
            if version is not earlier:  # the old bytes are gone: only now may the note describe new ones
                with open(beside(part, ".json"), "w", encoding="utf-8", opener=no_link) as note:
                    json.dump(dataclasses.asdict(version), note)
            for chunk in _chunks(response, length, timeout):
                done += len(chunk)
                if done > MOST_BYTES:
                    discard(part)
                    raise Refusal(_too_large("more"))
                file.write(chunk)
                yield done, version.size
            file.flush()
            os.fsync(file.fileno())
    if version.size is not None and done != version.size:
        raise Cut(f"the transfer broke off after {done} of {version.size} bytes")


@contextlib.contextmanager
def _answer(request: urllib.request.Request, part: pathlib.Path, timeout: float) -> Iterator[http.client.HTTPResponse]:
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and request.has_header("Range"):
            discard(part)
            raise Cut("the file on the server changed since the transfer began") from error
        answer = f"it answered {error.code} {one_line(error.reason)}"
        if error.code in (408, 429) or error.code >= 500:
            raise Cut(answer) from error
        raise Refusal(answer) from error
    except (OSError, http.client.HTTPException) as error:
        raise Cut(one_line(error)) from error
    except ValueError:  # such as http://[::1
        raise Refusal("it redirects to an address that cannot be understood") from None
    with response:
        yield response


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to http and https, and never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            raise Refusal(f"it redirects to {newurl}, which is not safe to follow")
        fp.close()  # the redirect's own page is not read, however long it is
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _body_length(response: http.client.HTTPResponse) -> int | None:
    """Return the number of bytes that the answer announces; None for a chunked answer, which marks its own end."""
    headers = response.headers
    if headers.get_content_type() in _PAGE_TYPES:
        raise Refusal("it sent a web page instead of a file")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(f"it sent the file encoded as {headers['Content-Encoding']}, which ppsolo did not ask for")
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        return None
    stated = headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", stated):
        raise Refusal("it does not state the file's length, so an interruption would go unnoticed")
    if int(stated) == 0:
        raise Refusal("it sent an empty file")
    if int(stated) > MOST_BYTES:
        raise Refusal(_too_large(f"{stated} bytes, more"))
    return int(stated)


def _too_large(amount: str) -> str:
    return f"it sends {amount} than the limit of {MOST_BYTES >> 20} MiB for a published file"


def _continues(response: http.client.HTTPResponse, offset: int, earlier: Version) -> bool:
    """Whether a partial answer extends the `offset` bytes of `earlier`.

    Some servers support Range but not If-Range, and would send the tail of a changed file. A partial answer need not
    repeat the date (RFC 9110, section 15.3.7).
    """
    sent = response.headers
    place = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18})", sent.get("Content-Range", ""))
    return (
        place is not None
        and (int(place[1]), int(place[2])) == (offset, earlier.size)
        and sent["ETag"] == earlier.etag
        and sent["Last-Modified"] in (None, earlier.modified)
    )


def _chunks(response: http.client.HTTPResponse, length: int | None, timeout: float) -> Iterator[bytes]:
    """Yield the body as it arrives. Only waiting time counts for the minimum rate."""
    remaining, waited, received = length, 0.0, 0
    while remaining is None or remaining > 0:
        started = time.monotonic()
        try:
            chunk = response.read1(_CHUNK if remaining is None else min(_CHUNK, remaining))
        except (OSError, http.client.HTTPException) as error:
            raise Cut(one_line(error)) from error
        if not chunk:
            return
        waited, received = waited + time.monotonic() - started, received + len(chunk)
        if remaining is not None:
            remaining -= len(chunk)
        yield chunk
        if waited >= timeout:
            if received < _LEAST_RATE * waited:
                raise Refusal(f"it sent {received} bytes in {waited:.0f} seconds; what came is kept, try again later")
            waited, received = 0.0, 0
