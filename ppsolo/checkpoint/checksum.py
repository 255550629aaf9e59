"""The checksum of a fetched file: recorded next to it when first seen, and enforced from then on."""

import hashlib
import logging
import pathlib
import re

from ppsolo.atomic import atomic_writer
from ppsolo.checkpoint.part_file import beside, file_errors, one_line
from ppsolo.errors import DownloadError

_CHUNK = 1 << 16
_PAGE_STARTS = (b"<!doctype html", b"<html")

logger = logging.getLogger(__name__)


def accept_file(path: pathlib.Path, destination: pathlib.Path, subject: str, sha256: str | None = None) -> None:
    """Check the file at `path` against `sha256` and the checksum recorded for `destination`; record a new one."""
    digest = hashlib.sha256()
    with file_errors(path), open(path, "rb") as file:
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
    record = beside(destination, ".sha256")
    known = _recorded(record)
    if known is None:
        _record(record, f"{digest.hexdigest()}  {destination.name}\n")
    elif known != digest.hexdigest():
        raise DownloadError(
            f"{subject} is not the file seen before: SHA-256 {digest.hexdigest()}, recorded {known}; "
            f"delete both {destination} and {record.name} to accept a new one"
        )


def _recorded(record: pathlib.Path) -> str | None:
    with file_errors(record):
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
        logger.warning("%s cannot be written, so the file is not checked: %s", record, one_line(error))
