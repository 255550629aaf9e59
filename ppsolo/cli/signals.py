"""Ctrl-C and SIGTERM while a command runs: both end it cleanly and remove drafts."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from ppsolo.cli.shared import INTERRUPTED, TERMINATED

_raised: list[KeyboardInterrupt] = []  # by the handlers below, since a command began


class Terminated(KeyboardInterrupt):
    """SIGTERM came; the code below treats it like Ctrl-C."""

    exit_code = TERMINATED


def exit_code_of(interruption: KeyboardInterrupt) -> int:
    """Return the exit code of a command that was ended so; training has interruptions of its own."""
    return getattr(interruption, "exit_code", INTERRUPTED)


def interruption_in(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption behind an error, None if there is none.

    An extension module that is interrupted while it starts raises ImportError instead. Paddle's keeps the interruption
    as its cause, OpenCV's does not.
    """
    cause: BaseException | None = error
    importing = False
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        importing = importing or isinstance(cause, ImportError)
        cause = cause.__cause__ or cause.__context__
    if cause is None and importing and _raised:
        return _raised[-1]
    return cause


@contextlib.contextmanager
def heard_signals() -> Iterator[None]:
    """In the main thread, raise KeyboardInterrupt on SIGINT and Terminated on SIGTERM, unless others handle them.

    No part of Python shows these interruptions, and those that Python would ignore come again.
    """
    before = {}
    _raised.clear()
    if threading.current_thread() is threading.main_thread():
        for number, handler in ((signal.SIGINT, _interrupt), (signal.SIGTERM, _terminate)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
    hooks = sys.excepthook, sys.unraisablehook
    repeats: list[threading.Timer] = []

    def shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error not in _raised:  # numpy's import shows all exceptions and goes on
            hooks[0](kind, error, trace)

    def ignored(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_value not in _raised:
            hooks[1](lost)
            return
        number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
        repeats.append(threading.Timer(0.01, signal.pthread_kill, (threading.get_ident(), number)))
        repeats[-1].start()

    sys.excepthook, sys.unraisablehook = shown, ignored
    try:
        yield
    finally:
        for repeat in repeats:
            repeat.cancel()
        sys.excepthook, sys.unraisablehook = hooks
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _raise(KeyboardInterrupt())


def _terminate(number: int, frame: FrameType | None) -> None:
    _raise(Terminated())


def _raise(interruption: KeyboardInterrupt) -> None:
    _raised.append(interruption)
    raise interruption
