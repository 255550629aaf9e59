"""Downloads published files: fetches each file once and whole, and checks it against its checksum from then on.

Files next to a destination NAME:
    NAME.sha256      the checksum, recorded when NAME was first seen; `sha256sum -c` reads it
    NAME.part        the bytes of an interrupted transfer, to be resumed
    NAME.part.json   the version of the remote file that these bytes belong to
    NAME.lock        held by the process that downloads
"""

import contextlib
import dataclasses
import hashlib
import http.client
import json
import logging
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator

from ppsolo.atomic import atomic_writer
from ppsolo.checkpoint.lock import sole_holder
from ppsolo.checkpoint.zoo import zoo_entry
from ppsolo.errors import DownloadError, UnavailableError

Progress = Callable[[int, int | None], None]
"""Called as progress(done, total) in bytes; total is None if the server does not state the size."""

_CHUNK = 1 << 16
_LEAST_RATE = 1024  # bytes a second: the largest published file would take three days
_MOST_BYTES = 1 << 30  # largest accepted file; the largest published one has 282 MB
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_PAGE_STARTS = (b"<!doctype html", b"<html")

logger = logging.getLogger(__name__)


class _Cut(Exception):
    """A transfer failed in a way that another attempt may fix."""


class _Refusal(Exception):
    """The server gave a final answer other than the file."""


@dataclasses.dataclass(frozen=True)
class _Version:
    """The version of a remote file: its address, its validators as sent, its size in bytes."""

    url: str
    etag: str | None
    modified: str | None
    size: int | None

    def validator(self) -> str | None:
        """The value for If-Range: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def fetch_published(
    name: str, directory: str | pathlib.Path | None = None, *, progress: Progress | None = None
) -> pathlib.Path:
    """Return the local file of the published checkpoint `name`; download it if it is missing.

    Args:
        name: A name in `ppsolo.checkpoint.zoo.ZOO`.
        directory: The folder of NAME.pdparams; `weights_directory()` if None.
        progress: Called with (bytes so far, all bytes); not called for a file that is present.

    Raises:
        ConfigError: No published checkpoint has this name.
        DownloadError: See `download`.
    """
    entry = zoo_entry(name)
    folder = weights_directory() if directory is None else pathlib.Path(directory)
    return download(entry.url, folder / f"{entry.name}.pdparams", progress=progress)


def weights_directory() -> pathlib.Path:
    """Return the default folder of published files.

    It is the first of: PPSOLO_WEIGHTS in the environment; ./weights if the current directory is a checkout of
    ppsolo; ppsolo/weights under XDG_CACHE_HOME (if absolute); ~/.cache/ppsolo/weights.
    """
    try:
        if chosen := os.environ.get("PPSOLO_WEIGHTS"):
            return pathlib.Path(chosen).expanduser()
        here = pathlib.Path.cwd()
        if (here / "weights" / "README.md").is_file() and (here / "ppsolo" / "__init__.py").is_file():
            return here / "weights"
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (cache if cache.is_absolute() else pathlib.Path.home() / ".cache") / "ppsolo" / "weights"
    except (OSError, RuntimeError) as error:  # no current directory, no home directory
        raise UnavailableError(f"no place for weights: {error}; set PPSOLO_WEIGHTS to a directory") from None


def download(
    url: str,
    destination: str | pathlib.Path,
    *,
    progress: Progress | None = None,
    timeout: float = 20.0,
    attempts: int = 4,
    backoff: float = 0.5,
    sha256: str | None = None,
    remedy: str = "",
) -> pathlib.Path:
    """Fetch `url` to `destination` unless the file is already there; return its absolute path.

    An incomplete file never stands at `destination`. An interrupted transfer is resumed, also by a later call, if the
    server still has the same version of the file. Of several processes one downloads, and the others wait for it.
    The SHA-256 is recorded in NAME.sha256 when the file is first seen, even if another program put it there, and
    enforced from then on.

    Args:
        url: An http or https address.
        destination: The file to write; missing folders are created.
        progress: Called with (bytes so far, all bytes).
        timeout: Seconds to connect, to wait for the next byte, and for every 1024 bytes a second. A slower transfer
            is given up; its bytes are kept for another call.
        attempts: Number of failures in a row without new bytes before giving up.
        backoff: Seconds before the second attempt; doubled before each further one.
        sha256: The required checksum, in hexadecimal; None: the recorded one.
        remedy: Another way out for the user if the file cannot be fetched; ends the error message.

    Raises:
        UnavailableError: The address cannot be fetched.
        DownloadError: The file is not a file, does not have the required checksum, or cannot be written. One line
            with the remedy.
    """
    _check_address(url)
    destination = pathlib.Path(os.path.abspath(pathlib.Path(destination).expanduser()))
    if not os.path.exists(destination):
        with contextlib.ExitStack() as stack:
            with _file_errors(destination.parent):
                destination.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(sole_holder(_beside(destination, ".lock")))
            if not os.path.exists(destination):
                _fetch(url, destination, progress, timeout, attempts, backoff, sha256, remedy)
                return destination
    _accept(destination, destination, str(destination), sha256)
    return destination


def _fetch(
    url: str,
    destination: pathlib.Path,
    progress: Progress | None,
    timeout: float,
    attempts: int,
    backoff: float,
    sha256: str | None,
    remedy: str,
) -> None:
    """Fetch the whole file to `destination`; the caller holds the lock."""
    logger.info("downloading %s to %s", url, destination)
    part = _beside(destination, ".part")
    by_hand = f"put the file by hand at {destination}" + (f", {remedy}" if remedy else "")
    try:
        _transfer_with_retries(url, part, progress, timeout, attempts, backoff)
    except _Cut as cut:
        raise UnavailableError(
            f"cannot download {url}: {cut}; try again when the connection works, or {by_hand}"
        ) from None
    except _Refusal as refusal:
        raise UnavailableError(f"cannot download {url}: {refusal}; {by_hand}") from None
    try:
        _accept(part, destination, f"what {url} delivers", sha256)
    except DownloadError:
        _discard(part)
        raise
    with _file_errors(destination):
        os.replace(part, destination)
    _discard(part)


def _transfer_with_retries(
    url: str, part: pathlib.Path, progress: Progress | None, timeout: float, attempts: int, backoff: float
) -> None:
    failures, furthest = 0, _size(part)
    while True:
        try:
            with contextlib.closing(_transfer(url, part, timeout)) as steps:
                for done, total in steps:
                    if progress is not None:
                        progress(done, total)
            return
        except _Cut as cut:
            reached = _size(part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= attempts:
                raise
            delay = backoff * 2 ** (failures - 1)
            logger.warning("%s: %s; trying again in %g s", url, cut, delay)
            time.sleep(delay)


def _transfer(url: str, part: pathlib.Path, timeout: float) -> Generator[tuple[int, int | None], None, None]:
    """Start or extend `part` over one connection until it is whole; yield (bytes so far, all bytes)."""
    offset, earlier = _resume_point(url, part)
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
                _discard(part)
                raise _Cut("the file on the server changed meanwhile")
            done, version, mode = offset, earlier, "ab"
        elif response.status == 200:
            sent = response.headers
            done, version, mode = 0, _Version(url, sent["ETag"], sent["Last-Modified"], length), "wb"
        else:
            raise _Refusal(f"it answered {response.status} {response.reason}")
        with _file_errors(part), open(part, mode, opener=_no_link) as file:
            if version is not earlier:  # the old bytes are gone: only now may the note describe new ones
                with open(_beside(part, ".json"), "w", encoding="utf-8", opener=_no_link) as note:
                    json.dump(dataclasses.asdict(version), note)
            for chunk in _chunks(response, length, timeout):
                done += len(chunk)
                if done > _MOST_BYTES:
                    _discard(part)
                    raise _Refusal(_too_large("more"))
                file.write(chunk)
                yield done, version.size
            file.flush()
            os.fsync(file.fileno())
    if version.size is not None and done != version.size:
        raise _Cut(f"the transfer broke off after {done} of {version.size} bytes")


@contextlib.contextmanager
def _answer(request: urllib.request.Request, part: pathlib.Path, timeout: float) -> Iterator[http.client.HTTPResponse]:
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and request.has_header("Range"):
            _discard(part)
            raise _Cut("the file on the server changed since the transfer began") from error
        answer = f"it answered {error.code} {_one_line(error.reason)}"
        if error.code in (408, 429) or error.code >= 500:
            raise _Cut(answer) from error
        raise _Refusal(answer) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(_one_line(error)) from error
    except ValueError:  # such as http://[::1
        raise _Refusal("it redirects to an address that cannot be understood") from None
    with response:
        yield response


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to http and https, and never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            raise _Refusal(f"it redirects to {newurl}, which is not safe to follow")
        fp.close()  # the redirect's own page is not read, however long it is
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _body_length(response: http.client.HTTPResponse) -> int | None:
    """Return the number of bytes that the answer announces; None for a chunked answer, which marks its own end."""
    headers = response.headers
    if headers.get_content_type() in _PAGE_TYPES:
        raise _Refusal("it sent a web page instead of a file")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Refusal(f"it sent the file encoded as {headers['Content-Encoding']}, which ppsolo did not ask for")
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        return None
    stated = headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", stated):
        raise _Refusal("it does not state the file's length, so an interruption would go unnoticed")
    if int(stated) == 0:
        raise _Refusal("it sent an empty file")
    if int(stated) > _MOST_BYTES:
        raise _Refusal(_too_large(f"{stated} bytes, more"))
    return int(stated)


def _too_large(amount: str) -> str:
    return f"it sends {amount} than the limit of {_MOST_BYTES >> 20} MiB for a published file"


def _continues(response: http.client.HTTPResponse, offset: int, earlier: _Version) -> bool:
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
            raise _Cut(_one_line(error)) from error
        if not chunk:
            return
        waited, received = waited + time.monotonic() - started, received + len(chunk)
        if remaining is not None:
            remaining -= len(chunk)
        yield chunk
        if waited >= timeout:
            if received < _LEAST_RATE * waited:
                raise _Refusal(f"it sent {received} bytes in {waited:.0f} seconds; what came is kept, try again later")
            waited, received = 0.0, 0


def _resume_point(url: str, part: pathlib.Path) -> tuple[int, _Version | None]:
    """Return how many bytes of `part` can be kept, and of which version; (0, None) to start again."""
    size = _size(part)
    try:
        note = json.loads(_beside(part, ".json").read_text(encoding="utf-8"))
        version = _Version(note["url"], note["etag"], note["modified"], note["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None
    known = version.url == url and version.validator() is not None
    fits = isinstance(version.size, int) and 0 < size <= version.size
    return (size, version) if known and fits else (0, None)


def _accept(path: pathlib.Path, destination: pathlib.Path, subject: str, sha256: str | None = None) -> None:
    """Check the file at `path` against `sha256` and the checksum recorded for `destination`; record a new one."""
    digest = hashlib.sha256()
    with _file_errors(path), open(path, "rb") as file:
        start = file.read(_CHUNK)
        chunk = start
        while chunk:
            digest.update(chunk)
            chunk = file.read(1 << 20)
    if not start:
        raise DownloadError(f"{subject} is empty: delete {destination} and fetch it again")
    if start.lstrip().lower().startswith(_PAGE_STARTS):
        raise DownloadError(f"{subject} is a web page, not weights: put the real file at {destination}")
    if sha256 is not None and sha256.lower() != digest.hexdigest():
        raise DownloadError(
            f"{subject} has the SHA-256 {digest.hexdigest()}, but you gave {sha256.lower()}: check the address and the "
            "checksum"
        )
    record = _beside(destination, ".sha256")
    known = _recorded(record)
    if known is None:
        _record(record, f"{digest.hexdigest()}  {destination.name}\n")
    elif known != digest.hexdigest():
        raise DownloadError(
            f"{subject} is not the file seen before: SHA-256 {digest.hexdigest()}, recorded {known}; "
            f"delete both {destination} and {record.name} to accept a new one"
        )


def _recorded(record: pathlib.Path) -> str | None:
    with _file_errors(record):
        if not record.exists():
            return None
        words = record.read_bytes().split()
    if not words or not re.fullmatch(b"[0-9a-fA-F]{64}", words[0]):
        raise DownloadError(f"{record} holds no SHA-256: delete it to record the file's checksum again")
    return words[0].decode("ascii").lower()


def _record(record: pathlib.Path, line: str) -> None:
    """Write the record in one step, so that readers never see half of it; in a read-only folder, only warn."""
    try:
        with atomic_writer(record, "w") as stream:
            stream.write(line)
    except OSError as error:
        logger.warning("%s cannot be written, so the file is not checked: %s", record, _one_line(error))


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch("[!-~]+", url):
        raise DownloadError(f"cannot download {url!r}: only http and https addresses can be fetched")


def _beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    return path.with_name(path.name + suffix)


def _no_link(path: str, flags: int) -> int:
    """Open a file for `open`; OSError for a link, because it could lead to a file of someone else."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _size(path: pathlib.Path) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _discard(part: pathlib.Path) -> None:
    with _file_errors(part):
        part.unlink(missing_ok=True)
        _beside(part, ".json").unlink(missing_ok=True)


@contextlib.contextmanager
def _file_errors(path: pathlib.Path) -> Iterator[None]:
    """Turn errors of the disk into one line."""
    try:
        yield
    except OSError as error:
        why = _one_line(error)
        raise DownloadError(
            f"cannot use {path}: {why}; solve that, or set PPSOLO_WEIGHTS to another directory"
        ) from None


def _one_line(error: object) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())
