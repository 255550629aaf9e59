"""Fetches pictures from http(s) addresses, within limits of size and time."""

import base64
import http.client
import socket
import time
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import unquote, urlsplit

import numpy as np

from ppsolo.data.decode import decode_with_notes
from ppsolo.data.pixels import DEFAULT_SETTINGS, MAX_PIXELS, PixelSettings
from ppsolo.errors import ImageError

MAX_BYTES = 2**26  # 64 MiB
_MOST_DIGITS = 18  # of a length that is believed
_PIECE = 2**16  # bytes read between two checks of the time


def fetch_image(
    address: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout: float = 30.0,
    settings: PixelSettings = DEFAULT_SETTINGS,
) -> np.ndarray:
    """Fetch the picture at an http(s) address as uint8 [H, W, 3] RGB, decoded like `ppsolo.read_image`.

    This is the only function of ppsolo that fetches a picture over the network.

    Args:
        address: it begins with http:// or https://, perhaps with a user: https://me:secret@example.org/street.jpg.
            Redirections to other such addresses are followed, without the user.
        max_bytes: a longer answer is refused.
        timeout: seconds for everything, from the connection to the last byte.
        settings: see `ppsolo.read_image`.

    Raises:
        ImageError: the address is unreachable, too slow, or answers with an error, too many bytes, or no picture.

    Example:
        >>> image = fetch_image("https://example.org/street.jpg")  # doctest: +SKIP
    """
    data = fetch_bytes(address, max_bytes=max_bytes, timeout=timeout)
    try:
        return decode_with_notes(data, max_pixels=MAX_PIXELS, settings=settings)[0]
    except ImageError as error:
        raise ImageError(f"{address}: {error}") from None


def fetch_bytes(address: str, *, max_bytes: int = MAX_BYTES, timeout: float = 30.0) -> bytes:
    """Fetch the content at an http(s) address. Raises ImageError like `fetch_image`."""
    deadline = time.monotonic() + timeout
    too_slow = ImageError(f"{address}: no complete answer within {timeout:g} seconds")
    pieces, size = [], 0
    try:
        with _open(address, timeout) as response:
            stated = response.headers.get("Content-Length", "")[:_MOST_DIGITS]
            if stated.isdecimal() and int(stated) > max_bytes:
                raise ImageError(f"{address}: {stated} bytes are too many (at most {max_bytes})")
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes:
                    raise ImageError(f"{address}: more than {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise too_slow
    except TimeoutError:
        raise too_slow from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"{address}: cannot be fetched ({_reason(error)})") from None
    if stated.isdecimal() and size < int(stated):
        raise ImageError(f"{address}: the connection broke off after {size} of {stated} bytes")
    return b"".join(pieces)


def content_type(address: str) -> str:
    """Return the media type of an http(s) address, such as "image/jpeg". Raises ImageError like `fetch_image`."""
    try:
        with _open(address, 30.0) as response:
            return response.headers.get_content_type()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"{address}: cannot be fetched ({_reason(error)})") from None


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https only."""

    def redirect_request(  # the signature of urllib
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow a redirection as urllib does; refuse other schemes."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise ValueError(f"it redirects to {newurl}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, timeout: float) -> http.client.HTTPResponse:
    if urlsplit(address).scheme.lower() not in ("http", "https"):
        raise ValueError("expected an address that begins with http:// or https://")
    address, user = _apart(address)
    request = urllib.request.Request(address, headers={"User-Agent": "ppsolo"})
    if user is not None:
        code = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    return urllib.request.build_opener(_HttpOnly).open(request, timeout=timeout)


def _apart(address: str) -> tuple[str, str | None]:
    """Return the address without its user, and "user:password", which urllib would take for the host's port."""
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    return (parts._replace(netloc=host).geturl(), user) if at else (address, None)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        inner = error.reason
        if isinstance(inner, socket.timeout | TimeoutError):
            return "no answer in time"
        return str(getattr(inner, "strerror", None) or inner)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
