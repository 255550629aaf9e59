"""Files and folders that appear under their name whole or not at all."""

import contextlib
import ctypes
import functools
import os
import platform
import secrets
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from ppsolo.errors import ConfigError

_OURS = f".ppsolo-{zlib.crc32(platform.node().encode()):08x}-"  # how the locked drafts of this machine begin

if sys.platform == "win32":

    def _held(descriptor: int) -> bool | None:
        """None: files have no such lock here."""
        return None

else:
    import fcntl

    def _held(descriptor: int) -> bool | None:
        """Take the lock of an open file or folder. The lock ends with this process.

        True if this process has it now, False if another one has it, None if the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True


@overload
def atomic_writer(path: str | os.PathLike[str], mode: Literal["wb"]) -> AbstractContextManager[BinaryIO]: ...


@overload
def atomic_writer(path: str | os.PathLike[str], mode: Literal["w"]) -> AbstractContextManager[TextIO]: ...


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str], mode: Literal["w", "wb"]) -> Iterator[IO[Any]]:
    """Yield a stream, of bytes ("wb") or UTF-8 text ("w"); its content becomes the file `path`.

    The stream writes a hidden file in the same folder. If the block succeeds, that file is flushed to the disk and
    renamed to `path`. After an exception it is removed, and the old file stays. Hidden files of killed processes in the
    folder are removed first. OSError propagates and names `path`.
    """
    path = Path(path).absolute()
    try:
        with _draft(path) as temporary:
            with open(temporary, mode, encoding=None if mode == "wb" else "utf-8") as stream:
                yield stream
                _sync(stream)
            _rename(temporary, path)
    except BaseException as error:
        _name_path(error, path)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError of the block name `path`, such as that of a full disk, unless it names another file.

    For files that grow under their name. OSError propagates.
    """
    try:
        yield
    except OSError as error:
        _name_path(error, path)
        raise


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder next to `path`; anything with its name is removed after the block.

    What processes that were killed left there is removed first. OSError propagates.
    """
    with _draft(path, folder=True) as temporary:
        yield temporary


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder in the system's place for temporary files; it is removed after the block.

    Raises ConfigError, with the remedy, if there is no such place that can be written to, or if its disk is full.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="ppsolo-", ignore_cleanup_errors=True))
            )
        except OSError as error:
            raise _without_temporary(error) from None
        try:
            yield folder
        except OSError as error:
            if error.errno is None or not _is_of(error, folder):
                raise
            raise _without_temporary(error) from None


@contextlib.contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder with its parents; after the block, remove those that it made and that are empty.

    So work that is refused, or finds nothing to write, leaves no folder. OSError propagates.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def temporary_name(path: Path, *, suffix: str = ".part") -> Path:
    """Return a new hidden name in the folder of `path`, so that the later rename to `path` is one step."""
    return path.parent / f".ppsolo-{secrets.token_hex(6)}{suffix}"


def put_in_place(temporary: Path, path: Path) -> None:
    """Do the last steps of `atomic_writer` for a finished file that others wrote under a `temporary_name`.

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
    """Turn a finished folder under a `temporary_name` into the folder `path`.

    `path` may be missing or an empty folder. Another folder there changes places with the new one, in one step if the
    system has it (Linux), and is then at the temporary name. OSError propagates and names `path`.
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


def is_draft(name: str) -> bool:
    """Whether a file or folder of this name is an unfinished one of this module."""
    return name.startswith(".ppsolo-")


def discard(temporary: Path) -> None:
    """Remove the file if it exists and can be removed."""
    with contextlib.suppress(OSError):
        temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove files of killed writers from the folder; no other writer may be at work in it."""
    for temporary in folder.glob(".ppsolo-*.part"):
        discard(temporary)


@contextlib.contextmanager
def _draft(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a new empty file or folder next to `path`; it is locked during the block, and removed after it."""
    _remove_dead(path.parent)
    while True:
        temporary = path.parent / f"{_OURS}{secrets.token_hex(6)}.part"
        with contextlib.ExitStack() as stack:
            if folder:
                temporary.mkdir()
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
                try:
                    descriptor = os.open(temporary, os.O_RDONLY)
                except FileNotFoundError:
                    continue
                stack.callback(os.close, descriptor)
            else:
                descriptor = stack.enter_context(open(temporary, "xb")).fileno()
                stack.callback(discard, temporary)
            # Another process may have taken it for dead, in the moment before it was locked: then once more.
            if _held(descriptor) is not False and temporary.exists():
                yield temporary
                return


@functools.cache
def _remove_dead(folder: Path) -> None:
    """Remove drafts in a folder whose writers were killed, once in the life of a process.

    Only drafts of this machine: a folder may be shared with machines whose locks are not seen here.
    """
    for draft in folder.glob(f"{_OURS}*.part"):
        with contextlib.suppress(OSError):
            descriptor = os.open(draft, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _held(descriptor):
                    shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else discard(draft)
            finally:
                os.close(descriptor)


def _name_path(error: BaseException, path: Path) -> None:
    """Make an OSError name `path`: a full disk names no file, and opening names the hidden file.

    An error that names another file keeps it.
    """
    if isinstance(error, OSError):
        named = "" if error.filename is None else os.fsdecode(str(error.filename))
        if not named or any(map(is_draft, Path(named).parts)):
            error.filename, error.filename2 = str(path), None


def _without_temporary(error: OSError) -> ConfigError:
    place = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
    return ConfigError(
        f"no temporary file can be written{place} ({error.strerror}): make room, or name a folder on another disk "
        "in the variable TMPDIR"
    )


def _is_of(error: OSError, folder: Path) -> bool:
    """Whether an error names nothing, as one of a full disk, or a file in the folder."""
    return error.filename is None or folder in Path(os.fsdecode(str(error.filename))).parents


def _sync(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _rename(temporary: Path, path: Path) -> None:
    """Rename, and sync the folder if the file system can; the content is already safe."""
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
    """Exchange two folders."""
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
