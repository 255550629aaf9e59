"""Access to the service: accepted host names, permitted web pages, and the token."""

import hmac
import ipaddress
import logging
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ppsolo.errors import ConfigError
from ppsolo.text import one_line

logger = logging.getLogger(__name__)

SHORTEST_TOKEN, LONGEST_TOKEN = 16, 1024  # characters
# Addresses that need no token: the page asks the user for it, and health checks have none.
OPEN_PATHS = ("/", "/health", "/health/live", "/v2/health/live", "/v2/health/ready")

_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:.]+")


@dataclass(frozen=True)
class AccessRules:
    """Rules that accept or refuse requests. By default only requests to a name of this machine, not from other sites.

    hosts: more names or addresses to accept in the Host header, such as "solo.example", "*.example" or "*".
    origins: other web sites that may use the service, such as "https://app.example", or "*".
    token: required in the header `Authorization: Bearer TOKEN`; None: not required.

    Raises ConfigError for an invalid host, origin or token.

    >>> AccessRules(hosts=["solo.example"], origins=["https://app.example"]).origins
    ['https://app.example']
    """

    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    token: str | None = None

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not _HOST.fullmatch(host.lower()):
                raise ConfigError(f"--allow_host {host}: give a name or an address without port, such as solo.example")
        for origin in self.origins:
            if origin != "*" and not _is_origin(origin):
                raise ConfigError(f"--allow_origin {origin}: give scheme and host alone, such as https://app.example")
        if self.token is not None and not (
            SHORTEST_TOKEN <= len(self.token) <= LONGEST_TOKEN and re.fullmatch(r"[!-~]+", self.token)
        ):
            raise ConfigError(
                f"the token must have {SHORTEST_TOKEN} to {LONGEST_TOKEN} printable ASCII characters and no space"
            )

    def refusal(self, scope: Scope) -> str | None:
        """Why the Host, Origin or Sec-Fetch-Site header forbids a request; None if it is allowed."""
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
        host = next((value for key, value in headers if key == "host"), None)
        # Only HTTP/1.0 programs omit Host; browsers never do.
        if host is not None and not self._is_own(_hostname(host), scope):
            return f"{host} is not a name of this service: use its own name, or start it with --allow_host"
        origins = [value for key, value in headers if key == "origin"]
        for origin in origins:
            if not self._permits(origin, host):
                return f"pages of {origin} may not use this service: start it with --allow_origin to permit them"
        if not origins and ("sec-fetch-site", "cross-site") in headers and not _is_followed_link(scope, headers):
            return "pages of other sites may not use this service"
        return None

    def _is_own(self, host: str | None, scope: Scope) -> bool:
        if "*" in self.hosts:
            return True
        if host is None:
            return False
        address = _address(host)
        arrived_at = _address((scope.get("server") or ("",))[0])
        if host == "localhost" or (address is not None and (address.is_loopback or address == arrived_at)):
            return True
        allowed = [name.lower().rstrip(".") for name in self.hosts]
        if address is not None:
            return any(_address(name) == address for name in allowed)
        return host in allowed or any(host.endswith(name[1:]) for name in allowed if name.startswith("*."))

    def _permits(self, origin: str, host: str | None) -> bool:
        if "*" in self.origins or origin.lower() in [allowed.lower() for allowed in self.origins]:
            return True
        return _is_origin(origin) and host is not None and urlsplit(origin).netloc.lower() == host.lower()


THIS_MACHINE = AccessRules()


def read_token(path: str | os.PathLike[str]) -> str:
    """Read the token from a file with one line. Raises ConfigError if there is none."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ConfigError("not a regular file; give a file with the token as its only line")
        with Path(path).open("rb") as stream:
            content = stream.read(LONGEST_TOKEN + 3)
        token = content.decode("ascii").removesuffix("\n").removesuffix("\r")
        AccessRules(token=token)
    except (OSError, UnicodeDecodeError, ConfigError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--token_file {path}: {reason}") from None
    return token


class CheckSource:
    """ASGI middleware: answers 403 if the rules refuse the headers of a request."""

    def __init__(self, app: ASGIApp, *, rules: AccessRules):
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._rules.refusal(scope) if scope["type"] == "http" else None
        if reason is None:
            await self._app(scope, receive, send)
            return
        reason = one_line(reason)
        logger.warning("%s: refused, %s", client_of(scope), reason)
        await JSONResponse({"error": reason}, 403)(scope, receive, send)


class CheckToken:
    """ASGI middleware: answers 401 if the token is missing or wrong, except on `OPEN_PATHS`."""

    def __init__(self, app: ASGIApp, *, token: str):
        self._app = app
        self._expected = token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._has_token(scope):
            await self._app(scope, receive, send)
            return
        answer = JSONResponse(
            {"error": "the token is missing or wrong: send the header 'Authorization: Bearer TOKEN'"},
            401,
            {"WWW-Authenticate": "Bearer"},
        )
        await answer(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        given = [value for key, value in scope["headers"] if key == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._expected)


def client_of(scope: Scope) -> str:
    """Return the address of the client, for the log."""
    return (scope.get("client") or ("a client",))[0]


def _is_origin(text: str) -> bool:
    return (
        re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", text.lower()) is not None
        and _hostname(text.partition("://")[2]) is not None
    )


def _hostname(host: str) -> str | None:
    """Return the name in `name:port` in lower case, without brackets and final dot; None if there is none."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.netloc != host or parts.username is not None or (parts.port or 0) < 0:
            return None
    except ValueError:
        return None
    return (parts.hostname or "").rstrip(".") or None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address


def _is_followed_link(scope: Scope, headers: list[tuple[str, str]]) -> bool:
    """Whether the request opens the page itself through a link; other sites may link to it."""
    opened = {("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")} <= set(headers)
    return opened and scope["method"] == "GET" and scope["path"] == "/"
