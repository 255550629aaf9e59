"""Standard input, output and error of a command: closed ones lead nowhere, and a lost standard error ends no work."""

import contextlib
import io
import os
import sys

from ppsolo.data.decoder_lines import lasting_stream

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def set_up_streams() -> None:
    """Open closed streams on the null device, and let standard error drop what it cannot write.

    Without this, the next opened file would become standard output, and lines of C code would be written into it.
    """
    for descriptor, (name, mode) in enumerate(_STREAMS):
        _open_if_closed(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    with contextlib.suppress(OSError):  # not a file: a program has put something else in its place
        if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr.fileno() == 2:
            sys.stderr = lasting_stream(2, sys.stderr)


def _open_if_closed(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
