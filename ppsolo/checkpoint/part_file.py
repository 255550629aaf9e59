"""The part of a file that has been fetched: its bytes, and the note which version of a remote file they belong to."""

import contextlib
import dataclasses
import json
import os
import pathlib
import urllib.error
from collections.abc import Iterator

from ppsolo.errors import DownloadError


@dataclasses.dataclass(frozen=True)
class Version:
    """The version of a remote file: its address, its validators as sent, its size in bytes."""

    url: str
    etag: str | None
    modified: str | None
    size: int | None

    def validator(self) -> str | None:
        """The value for If-Range: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    return path.with_name(path.name + suffix)


def no_link(path: str, flags: int) -> int:
    """Open a file for `open`; OSError for a link, because it could lead to a file of someone else."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def size_of(path: pathlib.Path) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def discard(part: pathlib.Path) -> None:
    with file_errors(part):
        part.unlink(missing_ok=True)
        beside(part, ".json").unlink(missing_ok=True)


def resume_point(url: str, part: pathlib.Path) -> tuple[int, Version | None]:
    """Return how many bytes of `part` can be kept, and which version of the file they are from; else (0, None)."""
    size = size_of(part)
    try:
        note = json.loads(beside(part, ".json").read_text(encoding="utf-8"))
        version = Version(note["url"], note["etag"], note["modified"], note["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None
    known = version.url == url and version.validator() is not None
    fits = isinstance(version.size, int) and 0 < size <= version.size
    return (size, version) if known and fits else (0, None)


@contextlib.contextmanager
def file_errors(path: pathlib.Path) -> Iterator[None]:
    """Turn errors of the disk into one line."""
    try:
        yield
    except OSError as error:
        why = one_line(error)
        raise DownloadError(
            f"cannot use {path}: {why}; solve that, or set PPSOLO_WEIGHTS to another directory"
        ) from None


def one_line(error: object) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())
