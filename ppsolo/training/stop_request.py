"""A request to stop training: Ctrl-C, SIGTERM, or the death of the launcher."""

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REASONS = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}
LAUNCHER_GONE = "stopped because the launcher has ended"
BEFORE_FIRST_STEP = "before the first step: run the same command again"
PEER_STOPPED = "stopped because another process was asked to stop"
LOOK_SECONDS = 1.0  # between checks of the launcher
GRACE_SECONDS = 120.0  # after a request; a longer step waits for a process that is gone
START_GRACE_SECONDS = 5.0  # after a request before the first step, when processes wait for each other
SECOND_PRESS_SECONDS = 0.5  # the same key press may arrive twice


class TrainingInterrupted(KeyboardInterrupt):
    """Training was asked to stop; `str` gives one line that says how to resume.

    exit_code: 130 after Ctrl-C, 143 after SIGTERM or the death of the launcher.
    """

    def __init__(self, line: str, signal_number: int):
        super().__init__(line)
        self.exit_code = 128 + signal_number


class EvaluationStopped(Exception):
    """An evaluation ended early because of a request to stop."""


class StopRequest:
    """Notes a request to stop, so that training can finish its step and write a state.

    Use it as a context manager in the main thread; in other threads it leaves signals alone. Before `defer`, a signal
    raises TrainingInterrupted at once. After it, a signal is only noted: Paddle turns an exception that arrives during
    a backward pass into an OSError with its own text. A second Ctrl-C then ends the process at once.

    A thread watches the launcher; its death counts as a request. The thread also ends the process if no step ends
    within `grace` seconds of a request, or of START_GRACE_SECONDS before the first step. This happens when another
    process of the run does not answer.

    launcher: the process id to watch; None: watch none. grace: seconds. console: gets one line when the request comes;
    None: silent.

    Attributes: signal_number, None before a request; reason, in words.
    """

    def __init__(self, *, launcher: int | None = None, grace: float = GRACE_SECONDS, console: TextIO | None = None):
        self.signal_number: int | None = None
        self.reason = ""
        self._launcher, self._grace, self._console = launcher, grace, console
        self._deferred = self._heard = False
        self._asked_at = 0.0
        self._handlers: dict[int, object] = {}
        self._ended = threading.Event()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self.listen()
            # Python's handlers wait until the main thread leaves C++; the numbers in this pipe do not.
            self._alarm, self._alarm_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._wakeup = signal.set_wakeup_fd(self._alarm_writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, name="stop request", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        if self._handlers:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
            with suppress(OSError):
                os.write(self._alarm_writer, b"\0")

    def listen(self) -> None:
        """Install the signal handlers again: importing Paddle resets the one for SIGTERM."""
        for number in self._handlers:
            signal.signal(number, self._on_signal)

    def defer(self) -> None:
        """From now on only note a request; the caller checks `requested` between steps."""
        self._deferred = True

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal_number is not None

    def hear(self) -> None:
        """Tell the thread that training has noticed the request, so that it may take its time to write the state."""
        self._heard = True
        if self.signal_number is None:
            self.signal_number, self.reason = signal.SIGTERM, PEER_STOPPED

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._deferred:
            self._note(number, REASONS[signal.Signals(number)])
            raise TrainingInterrupted(f"{self.reason} {BEFORE_FIRST_STEP}", number)
        if number == signal.SIGINT == self.signal_number and now - self._asked_at > SECOND_PRESS_SECONDS:
            self._end("stopped at once by the second Ctrl-C; resume from the last training state with -r auto")
        self._note(number, REASONS[signal.Signals(number)])

    def _note(self, number: int, reason: str) -> None:
        if self.signal_number is None:
            self.signal_number, self.reason, self._asked_at = number, reason, time.monotonic()
            if self._console is not None and self._deferred:
                again = "; Ctrl-C again ends it at once" if number == signal.SIGINT else ""
                self._write(f"{reason}: finishing the step, then writing a training state{again}")

    def _watch(self) -> None:
        """Run in the thread until `__exit__`."""
        while not self._ended.is_set():
            ready, _, _ = select.select([self._alarm], [], [], LOOK_SECONDS)
            numbers = os.read(self._alarm, 64) if ready else b""
            for number in SIGNALS:
                if number in numbers and self._asked_at == 0.0:
                    self._asked_at = time.monotonic()
            if self._launcher is not None and os.getppid() != self._launcher and self.signal_number is None:
                self._note(signal.SIGTERM, LAUNCHER_GONE)
            grace = self._grace if self._deferred else min(self._grace, START_GRACE_SECONDS)
            late = self._asked_at and time.monotonic() - self._asked_at > grace
            if late and not self._heard and not self._ended.is_set():
                self._give_up()
        os.close(self._alarm)
        os.close(self._alarm_writer)

    def _give_up(self) -> None:
        reason = self.reason or "asked to stop"
        if not self._deferred:
            self._end(f"{reason} {BEFORE_FIRST_STEP}")
        self._end(
            f"{reason}, and the step did not end within {self._grace:g} s: ended without a new state; resume from the "
            "last one with -r auto"
        )

    def _end(self, line: str) -> None:
        self._write(line)
        os._exit(128 + (self.signal_number or signal.SIGTERM))

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError, RuntimeError):  # a broken pipe, a closed file, a write inside a write
            stream = self._console or sys.stderr
            stream.write(f"\n{line}\n" if stream.isatty() else f"{line}\n")
            stream.flush()


def launcher_id() -> int | None:
    """Return the process id of the launcher that started this process, None without a launcher."""
    return os.getppid() if "PADDLE_LOCAL_RANK" in os.environ else None
