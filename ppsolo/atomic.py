"""Files and folders that appear whole under their name or not at all."""

import contextlib
import ctypes
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload


@overload
def atomic_writer(path: str | os.PathLike[str], mode: Literal["wb"]) -> AbstractContextManager[BinaryIO]: ...


@overload
def atomic_writer(path: str | os.PathLike[str], mode: Literal["w"]) -> AbstractContextManager[TextIO]: ...


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str], mode: Literal["w", "wb"]) -> Iterator[IO[Any]]:
    """Yields a stream, of bytes ("wb") or UTF-8 text ("w"), whose content becomes the file `path`.

    It goes to a hidden file in the same folder. When the `with` ends well, that file is flushed to the disk and
    renamed over what was there; after any exception it is removed, and what was there stays. OSError propagates and
    names `path`.
    """
    path = Path(path).absolute()
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb" if mode == "wb" else "x", encoding=None if mode == "wb" else "utf-8") as stream:
            yield stream
            _sync(stream)
        _rename(temporary, path)
    except BaseException as error:
        discard(temporary)
        _name_path(error, path)
        raise


def temporary_name(path: Path, *, suffix: str = ".part") -> Path:
    """A new hidden name in the folder of `path`: from there a rename to `path` is one step."""
    return path.parent / f".ppsolo-{secrets.token_hex(6)}{suffix}"


def put_in_place(temporary: Path, path: Path) -> None:
    """Ends what `atomic_writer` does for a finished file that others wrote under a `temporary_name`.

    OSError propagates and names `path`.
    """
    try:
        with temporary.open("r+b") as stream:
            _sync(stream)
        _rename(temporary, path)
    except BaseException as error:
        discard(temporary)
        _name_path(error, path)
        raise


def put_folder_in_place(temporary: Path, path: Path) -> None:
    """Makes a finished folder, under a `temporary_name`, the folder `path`.

    Nothing, or an empty folder, may be at `path`; another folder there changes places with the new one, in one step
    where the system has such a step (Linux), and is then found under the temporary name. OSError propagates and names
    `path`.
    """
    try:
        for file in temporary.rglob("*"):
            if file.is_dir():
                continue
            with file.open("r+b") as stream:
                _sync(stream)
        if path.is_dir() and any(path.iterdir()):
            _exchange(temporary, path)
        else:
            os.rename(temporary, path)
    except OSError as error:
        _name_path(error, path)
        raise
    _sync_folder(path.parent)


def discard(temporary: Path) -> None:
    """Removes the file if it is there and can be removed."""
    with contextlib.suppress(OSError):
        temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Removes what writers that were killed left in the folder; no other writer may be at work in it."""
    for temporary in folder.glob(".ppsolo-*.part"):
        discard(temporary)


def _name_path(error: BaseException, path: Path) -> None:
    """Let an OSError name `path`: writing to a full disk names no file, and opening names a hidden one."""
    if isinstance(error, OSError):
        error.filename, error.filename2 = str(path), None


def _sync(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _rename(temporary: Path, path: Path) -> None:
    """Renames, and makes that last where the file system can sync a folder; the content is safe already."""
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchange(one: Path, other: Path) -> None:
    """Two folders change places."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return
    aside = temporary_name(other)
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)
