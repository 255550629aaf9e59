"""A lock between processes: a file that one at a time can hold, freed by the system when that one ends."""

import contextlib
import errno
import logging
import math
import multiprocessing.util
import os
import pathlib
import sys
import time
from collections.abc import Iterator

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what file systems without locks answer
_POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int, path: pathlib.Path) -> bool:
        """Take the lock if it is free; Windows removes no open file, so it is taken on `path` itself."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _take(descriptor: int, path: pathlib.Path) -> bool:
        """Take the lock if it is free, and tell whether `path` still is the file that it was taken on."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(descriptor), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            return False


class _Descriptor:
    """The open lock file; a process that is forked off closes its copy, so that it does not hold the lock too."""

    def __init__(self, number: int):
        self.number = number
        multiprocessing.util.register_after_fork(self, _Descriptor.close)

    def close(self) -> None:
        os.close(self.number)


@contextlib.contextmanager
def sole_holder(path: pathlib.Path, *, patience: float = math.inf) -> Iterator[None]:
    """Hold the lock file `path` during the block, waiting as long as another process or thread holds it.

    A file left by a killed process holds nobody up: the system's lock on it counts, not that it exists.

    Raises:
        BlockingIOError: Another process or thread still holds it after `patience` seconds.
        OSError: The file cannot be made, or its file system knows no locks.
    """
    descriptor = _try_to_hold(path)
    if descriptor is None:
        logger.info("waiting for the process that holds %s", path)
    deadline = time.monotonic() + patience
    while descriptor is None:
        if time.monotonic() > deadline:
            raise BlockingIOError(errno.EWOULDBLOCK, "held by another process", str(path))
        time.sleep(_POLL_SECONDS)
        descriptor = _try_to_hold(path)
    held = _Descriptor(descriptor)
    try:
        yield
    finally:
        # Removed before it is released: who then gets the lock of the removed file notices, and opens anew.
        with contextlib.suppress(OSError):
            path.unlink()
        held.close()


def _try_to_hold(path: pathlib.Path) -> int | None:
    # Through a link, a stranger could have another file opened: it is refused.
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
    held = False
    try:
        held = _take(descriptor, path)
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None
