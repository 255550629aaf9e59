"""Progress of work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO, TypeAlias

from ppsolo.text import printable

Progress: TypeAlias = Callable[[int, int | None], None]
"""A function that work calls as progress(done, total), in its units; total is None if not known."""


class ProgressBar:
    """Shows the progress of a piece of work.

    label: the name of the work. total: all units, None if not known. done: units done before; the rate ignores them.
    unit: the name of a unit; "B" is shown in MB. stream: the output, standard error if None. On a terminal a bar
    redraws itself, elsewhere a line appears every `interval` seconds.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        *,
        done: int = 0,
        unit: str = "images",
        stream: TextIO | None = None,
        interval: float = 10.0,
    ):
        self.label = label
        self.total = total
        self.done = self._before = done
        self._unit = unit
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.1 if self._live else interval
        self._silent = os.environ.get("PPSOLO_PROGRESS") == "off"  # `ppsolo -q`
        self._start = self._shown = time.monotonic()
        self._shown_done: int | None = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def update(self, done: int, total: int | None) -> None:
        """Report that `done` of `total` units are done."""
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._show()

    def close(self) -> None:
        """Show the end; show nothing if the work never started."""
        if self.done > self._before and not self._silent:
            if self._live or self.done != self._shown_done:
                self._show()
            if self._live:
                self._stream.write("\n")
                self._stream.flush()

    def line(self) -> str:
        """The text to show now."""
        seconds = max(time.monotonic() - self._start, 1e-6)
        rate = (self.done - self._before) / seconds
        amount = self._amount(self.done)
        if self.total is not None:
            amount += f"/{self._amount(self.total)}"
        unit = "MB" if self._unit == "B" else self._unit
        text = f"{printable(self.label)}: {amount} {unit}, {self._amount(rate, 1 if rate >= 1 else 2)}/s"
        if self.total and self._before < self.done < self.total:
            left = (self.total - self.done) / rate
            text += f", {int(left) // 60}:{int(left) % 60:02d} left"
        return text

    def _amount(self, value: float, digits: int = 0) -> str:
        if self._unit == "B":
            return f"{value / 1e6:.1f}"
        return f"{value:.{digits}f}"

    def _show(self) -> None:
        if self._silent:
            return
        if self._live:
            filled = int(20 * self.done / self.total) if self.total else 0
            bar = f"[{'#' * filled}{'.' * (20 - filled)}] " if self.total else ""
            self._stream.write(f"\r\x1b[K{bar}{self.line()}")
        else:
            self._stream.write(self.line() + "\n")
            self._shown_done = self.done
        self._stream.flush()
