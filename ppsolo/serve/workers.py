"""Worker processes: several services on one socket, each with its own model; a dead worker is replaced."""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from ppsolo.atomic import temporary_folder
from ppsolo.errors import PpsoloError
from ppsolo.processes import end_with_starter, uninterrupted
from ppsolo.serve.prometheus import METRICS_FOLDER

logger = logging.getLogger(__name__)

MOST_DEATHS, DEATHS_SECONDS = 5, 60.0  # if one more death follows within this time, the service ends
STOP_SECONDS = 35.0  # time for workers to answer waiting requests

# Runs in a worker; called with its arguments, the socket, and a function to call with a text once the model is loaded.
Work = Callable[[Any, socket.socket, Callable[[str], None]], int]


class Workers:
    """Worker processes, from `start` to `stop`.

    Each accepts connections on the same socket. Their counters are added up in files of a temporary folder.
    """

    def __init__(self, work: Work, arguments: Any, listener: socket.socket, *, count: int):
        """work: a module-level function to run in each worker. arguments: for it; must be picklable."""
        self._work, self._arguments, self._listener, self._count = work, arguments, listener, count
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[SpawnProcess] = []
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._stopping = threading.Event()

    def run(self, *, ready: Callable[[str], None]) -> int:
        """Run until SIGTERM or Ctrl-C; return the exit code.

        ready: called with the first worker's description of its model, once that worker answers.
        Raises PpsoloError if workers keep dying.
        """
        with _metrics_folder(), _signals(self._stopping):
            try:
                text = self._start()
                if text is None:
                    return 0 if self._stopping.is_set() else self._processes[0].exitcode or 1
                ready(text)
                for _ in range(self._count - 1):
                    self._start(wait_for_it=False)
                while not self._stopping.is_set():
                    wait([process.sentinel for process in self._processes], timeout=0.5)
                    self._replace_dead()
            finally:
                self._stop()
        return 0

    def _start(self, *, wait_for_it: bool = True) -> str | None:
        """Start a worker; return the description of its loaded model, None if it ended before."""
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_run_worker, args=(self._work, self._arguments, self._listener, there), daemon=True
        )
        with uninterrupted():
            process.start()
        there.close()
        self._processes.append(process)
        if not wait_for_it:
            return None
        while not self._stopping.is_set() and process.is_alive() and not here.poll(0.2):
            pass
        try:
            return here.recv() if here.poll() else None
        except EOFError:
            process.join(STOP_SECONDS)
            return None

    def _replace_dead(self) -> None:
        for process in [process for process in self._processes if not process.is_alive()]:
            if self._stopping.is_set():
                return
            self._processes.remove(process)
            _forget_gauges(process.pid)
            now = time.monotonic()
            if len(self._deaths) == MOST_DEATHS and now - self._deaths[0] < DEATHS_SECONDS:
                raise PpsoloError(f"workers keep dying (exit code {process.exitcode}): the log above says why")
            self._deaths.append(now)
            logger.error("a worker died (exit code %s): starting another one", process.exitcode)
            self._start(wait_for_it=False)

    def _stop(self) -> None:
        for process in self._processes:
            if process.is_alive():
                process.terminate()
        until = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()


def _run_worker(work: Work, arguments: Any, listener: socket.socket, parent: Connection) -> None:
    """Run in a worker's process. It ends cleanly when its parent process is gone."""
    end_with_starter()

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # only the first worker's text is read
            parent.send(text)

    raise SystemExit(work(arguments, listener, say))


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """Create a folder for the workers' counters, name it in the environment, and remove it at the end."""
    before = os.environ.get(METRICS_FOLDER)
    with temporary_folder() as folder:
        os.environ[METRICS_FOLDER] = str(folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ[METRICS_FOLDER]
            else:
                os.environ[METRICS_FOLDER] = before


@contextlib.contextmanager
def _signals(stopping: threading.Event) -> Iterator[None]:
    """Inside the block, SIGTERM and Ctrl-C set `stopping`."""
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _forget_gauges(pid: int | None) -> None:
    """Remove the queue length of a dead worker from the sums."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid, os.environ[METRICS_FOLDER])
