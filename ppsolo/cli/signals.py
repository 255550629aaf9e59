"""Ctrl-C and SIGTERM while a command runs: both end it cleanly and remove drafts."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

from ppsolo.cli.shared import INTERRUPTED, TERMINATED

_raised: list[KeyboardInterrupt] = []  # by the handlers below, since a command began
_heard: set[int] = set()  # the signals that the handlers below hear now


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
    _heard.update(before)
    hooks = sys.excepthook, sys.unraisablehook

    def shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error not in _raised:  # numpy's import shows all exceptions and goes on
            hooks[0](kind, error, trace)

    def ignored(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_value not in _raised:
            hooks[1](lost)
            return
        _send_again(signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT)

    sys.excepthook, sys.unraisablehook = shown, ignored
    try:
        yield
    finally:
        _heard.clear()
        sys.excepthook, sys.unraisablehook = hooks
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _raise(KeyboardInterrupt(), number, frame)


def _terminate(number: int, frame: FrameType | None) -> None:
    _raise(Terminated(), number, frame)


def _raise(interruption: KeyboardInterrupt, number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if (frame.f_code.co_name, frame.f_code.co_filename) == ("ignored", __file__):
            _send_again(number)  # Python would ignore this one too
            return
        frame = frame.f_back
    _raised.append(interruption)
    raise interruption


def _send_again(number: int) -> None:
    """Send a signal to this thread a moment later, if it is still heard then."""
    thread = threading.get_ident()

    def send() -> None:
        time.sleep(0.01)
        if number in _heard:
            signal.pthread_kill(thread, number)

    _thread.start_new_thread(send, ())  # a Thread waits for its start, and may be interrupted there
