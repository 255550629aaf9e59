"""Places of results, checked before long work: a file needs an existing folder, a folder is made when needed."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ppsolo.atomic import made_folder
from ppsolo.errors import ConfigError


def check_output_file(path: str | os.PathLike[str], flag: str) -> None:
    """Raise ConfigError, before any work, if a file cannot be written there later.

    flag: how the user named it, such as "--report". The folder must exist: a typing error makes no folder.
    """
    place = Path(path)
    _refuse_broken_link(place, path, flag)
    if place.is_dir():
        raise ConfigError(f"{flag} {path}: a folder; give the name of a file")
    if os.path.lexists(place) and not place.is_file():
        raise ConfigError(f"{flag} {path}: not a regular file; give another name")
    if not place.parent.is_dir():
        raise ConfigError(f"{flag} {path}: there is no folder {place.parent}; create it first, or give another place")
    if not _is_writable(place.parent):
        raise ConfigError(f"{flag} {path}: the folder {place.parent} is not writable; give another place")


def check_output_folder(path: str | os.PathLike[str], flag: str) -> None:
    """Raise ConfigError, before any work, if a folder cannot be created there, or not be written to.

    flag: see `check_output_file`. Missing folders above it will be created too.
    """
    place = Path(path)
    _refuse_broken_link(place, path, flag)
    if os.path.lexists(place) and not place.is_dir():
        raise ConfigError(f"{flag} {path}: a file; give a folder")
    there = next(folder for folder in (place, *place.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise ConfigError(f"{flag} {path}: cannot be created, {there} is a file; choose another {flag}")
    if not _is_writable(there):
        raise ConfigError(f"{flag} {path}: {there} is not writable; choose another {flag}")


@contextlib.contextmanager
def output_folder(path: Path, flag: str) -> Iterator[None]:
    """Make the folder for the block; if nothing was written to it, it is not left there.

    flag: see `check_output_file`. Raises ConfigError if it cannot be created or written to.
    """
    check_output_folder(path, flag)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made_folder(path))
        except OSError as error:
            raise ConfigError(f"{flag} {path}: cannot be created ({error.strerror}); choose another {flag}") from None
        yield


def _refuse_broken_link(place: Path, path: str | os.PathLike[str], flag: str) -> None:
    """Refuse links that lead nowhere, and names that are too long for the file system. Raises ConfigError."""
    try:
        os.stat(place)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{flag} {path}: {error.strerror}; give another name") from None
    if place.is_symlink() and not os.path.exists(place):
        raise ConfigError(f"{flag} {path}: a link to {os.readlink(place)}, which does not exist; remove or correct it")


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)
