"""Ctrl-C and SIGTERM while a command runs: both end it in order, and drafts are removed."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: to everything below it is another Ctrl-C."""


@contextlib.contextmanager
def heard_signals() -> Iterator[None]:
    """In the main thread, SIGINT raises KeyboardInterrupt and SIGTERM raises Terminated, where nobody else listens."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, _terminate)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
