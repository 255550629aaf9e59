"""Downloads published files: fetches each file once and whole, and checks it against its checksum from then on.

Files next to a destination NAME:
    NAME.sha256      the checksum, recorded when NAME was first seen; `sha256sum -c` reads it
    NAME.part        the bytes of an interrupted transfer, to be resumed
    NAME.part.json   the version of the remote file that these bytes belong to
    NAME.lock        held by the process that downloads
"""

import contextlib
import logging
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request

from ppsolo.checkpoint.checksum import accept_file
from ppsolo.checkpoint.lock import sole_holder
from ppsolo.checkpoint.part_file import beside, discard, file_errors, size_of
from ppsolo.checkpoint.transfer import Cut, Refusal, transfer
from ppsolo.checkpoint.zoo import zoo_entry
from ppsolo.errors import DownloadError, UnavailableError
from ppsolo.progress import Progress

logger = logging.getLogger(__name__)


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
        timeout: Most seconds to connect, and most seconds to wait for the next byte. A transfer below 1024 bytes a
            second, over that time, is given up; its bytes are kept for another call.
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
            with file_errors(destination.parent):
                destination.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(sole_holder(beside(destination, ".lock")))
            if not os.path.exists(destination):
                _fetch(url, destination, progress, timeout, attempts, backoff, sha256, remedy)
                return destination
    accept_file(destination, destination, str(destination), sha256)
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
    part = beside(destination, ".part")
    by_hand = f"put the file by hand at {destination}" + (f", {remedy}" if remedy else "")
    try:
        _transfer_with_retries(url, part, progress, timeout, attempts, backoff)
    except Cut as cut:
        raise UnavailableError(
            f"cannot download {url}: {cut}; try again when the connection works, or {by_hand}"
        ) from None
    except Refusal as refusal:
        raise UnavailableError(f"cannot download {url}: {refusal}; {by_hand}") from None
    try:
        accept_file(part, destination, f"what {url} delivers", sha256)
    except DownloadError:
        discard(part)
        raise
    with file_errors(destination):
        os.replace(part, destination)
    discard(part)


def _transfer_with_retries(
    url: str, part: pathlib.Path, progress: Progress | None, timeout: float, attempts: int, backoff: float
) -> None:
    failures, furthest = 0, size_of(part)
    while True:
        try:
            with contextlib.closing(transfer(url, part, timeout)) as steps:
                for done, total in steps:
                    if progress is not None:
                        progress(done, total)
            return
        except Cut as cut:
            reached = size_of(part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= attempts:
                raise
            delay = backoff * 2 ** (failures - 1)
            logger.warning("%s: %s; trying again in %g s", url, cut, delay)
            time.sleep(delay)


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch("[!-~]+", url):
        raise DownloadError(f"cannot download {url!r}: only http and https addresses can be fetched")
