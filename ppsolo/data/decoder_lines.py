"""Catches the lines that decoders in C write to standard error, for commands that report damage themselves."""

import contextlib
import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Start of the warnings of libjpeg and libpng.
_OF_DECODERS = re.compile(
    r"libpng (warning|error)|Corrupt JPEG data|Premature end of JPEG file|Inconsistent progression sequence"
    r"|Invalid SOS parameters|Unknown Adobe color transform|Unsupported marker type|Warning: unknown JFIF revision"
)


class _Claim:
    """Standard error after a command has claimed it.

    own: the descriptor that Python writes to. caught: a file; descriptor 2 writes to it while a decoder runs.
    """

    def __init__(self) -> None:
        self.own = os.dup(2)
        self.caught = _unnamed_file()
        self.lock = threading.Lock()


_claim: _Claim | None = None


def claim_standard_error() -> None:
    """Give Python's standard error a descriptor of its own, so that `decoder_lines` can catch the output of C code.

    For commands and processes of our own only: a library must not touch the descriptors of its program. Does nothing
    the second time, or if Python's standard error is not descriptor 2.
    """
    global _claim
    stream = sys.stderr
    if _claim is not None or not isinstance(stream, io.TextIOWrapper):
        return
    try:
        if stream.fileno() != 2:
            return
        claim = _Claim()
    except OSError:  # closed, or no room for a file
        return
    stream.flush()
    sys.stderr = lasting_stream(claim.own, stream)
    os.register_at_fork(after_in_child=_renew)
    _claim = claim


def lasting_stream(descriptor: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a text stream on the descriptor that drops what cannot be written.

    A command works on when its standard error is on a full disk, or when nobody reads it any longer.
    """
    raw = io.BufferedWriter(_Lasting(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=like.encoding, errors=like.errors, line_buffering=True)


class _Lasting(io.FileIO):
    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


@contextlib.contextmanager
def decoder_lines() -> Iterator[list[str]]:
    """Yields a list that holds the decoders' lines after the `with`; it stays empty if no command has claimed them.

    Threads wait for each other, because the descriptor belongs to the whole process. Other lines are written to
    standard error.
    """
    lines: list[str] = []
    claim = _claim
    if claim is None:
        yield lines
        return
    with claim.lock:
        os.dup2(claim.caught, 2)
        try:
            yield lines
        finally:
            os.dup2(claim.own, 2)
            lines += _caught(claim)


def _caught(claim: _Claim) -> list[str]:
    length = os.lseek(claim.caught, 0, os.SEEK_CUR)
    if not length:
        return []
    text = os.pread(claim.caught, length, 0)
    os.ftruncate(claim.caught, 0)
    os.lseek(claim.caught, 0, os.SEEK_SET)
    lines = text.decode("utf-8", "replace").splitlines()
    others = [line for line in lines if not _OF_DECODERS.match(line)]
    if others:
        with contextlib.suppress(OSError):
            os.write(claim.own, "".join(f"{line}\n" for line in others).encode())
    return [line for line in lines if _OF_DECODERS.match(line)]


def _unnamed_file() -> int:
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


def _renew() -> None:
    """Renew the claim in a forked process: another thread may have held the lock, and descriptor 2."""
    global _claim
    if _claim is not None:
        os.dup2(_claim.own, 2)
        _claim.lock = threading.Lock()
        try:
            _claim.caught = _unnamed_file()  # the parent goes on with its own
        except OSError:  # no room for a file: the decoders' lines are written to standard error
            _claim = None
