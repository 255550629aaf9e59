"""HTTP connections whose clients must go on: one that sends no head, or takes no answer, is let go in time."""

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class PatientConnection(H11Protocol):
    """uvicorn's connection with a limit on the two waits that uvicorn leaves open.

    A client has `head_seconds` for the head of a request, from the connection or the first byte of a later request
    on (408); the same for a body that it goes on sending after its answer. It has `answer_seconds` for taking an
    answer off the connection; one that does not is cut off. Bodies are timed by whoever reads them.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_seconds: float,
        answer_seconds: float,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self._head_seconds = head_seconds
        self._answer_seconds = answer_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # any byte that is not taken calls pause_writing
        self._time_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._time_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._answer_timer is None:
            self._answer_timer = self.loop.call_later(self._answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_timer = _cancelled(self._answer_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer = _cancelled(self._head_timer)
        self._answer_timer = _cancelled(self._answer_timer)
        super().connection_lost(exc)

    def _time_head(self) -> None:
        """Start the clock, unless it runs; stop it where a request is being answered, or none has begun since."""
        answering = self.cycle is not None and not self.cycle.response_complete
        unfinished = self.cycle is None or self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        idle = not (answering or unfinished)
        if answering or idle or self.transport.is_closing():
            self._head_timer = _cancelled(self._head_timer)
            if idle and self.timeout_keep_alive_task is None:  # uvicorn starts it with the answer, not after the body
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds, self._let_go)

    def _let_go(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            return
        if self.cycle is None or self.conn.their_state == self.conn.our_state:  # not in the middle of a body
            self.transport.write(_LATE)
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
