"""A lock between processes: a file that one process at a time can hold; the system frees it when that process ends.

Not `filelock`: on Unix it leaves its lock file next to every fetched file.
"""

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
        """Take the lock if it is free. It is on `path` itself, because Windows does not remove an open file."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _take(descriptor: int, path: pathlib.Path) -> bool:
        """Take the lock if it is free; return whether `path` is still the same file."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(descriptor), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            return False


class _Descriptor:
    """The open lock file; a forked process closes its copy, so that it does not hold the lock too."""

    def __init__(self, number: int):
        self.number = number
        multiprocessing.util.register_after_fork(self, _Descriptor.close)

    def close(self) -> None:
        os.close(self.number)


@contextlib.contextmanager
def sole_holder(path: pathlib.Path, *, patience: float = math.inf) -> Iterator[None]:
    """Hold the lock file `path` during the block; wait while another process or thread holds it.

    A file left by a killed process does not block: the system's lock counts, not the file.

    Raises:
        BlockingIOError: Another process or thread still holds it after `patience` seconds.
        OSError: The file cannot be created, or its file system has no locks.
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
        # Remove the file before the release: the next holder notices the removal, and opens a new file.
        with contextlib.suppress(OSError):
            path.unlink()
        held.close()


def _try_to_hold(path: pathlib.Path) -> int | None:
    # Refuse a link, because it could lead to a file of someone else.
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
    held = False
    try:
        held = _take(descriptor, path)
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None
