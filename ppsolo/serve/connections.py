"""HTTP connections with time limits for clients; they read in small steps."""

import asyncio
import logging
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

# Bytes received per step of the event loop: h11 needs 20 microseconds for a chunk, which may have only 6 bytes.
SMALL_STEP, LARGE_STEP = 1 << 12, 1 << 18  # bytes


def _bare_response(status: str, body: bytes = b"") -> bytes:
    kind = b"Content-Type: application/json\r\n" if body else b""
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
    return head + kind + b"\r\n" + body


_LATE = _bare_response("408 Request Timeout")
_MALFORMED = _bare_response("400 Bad Request", b'{"error": "this is not a valid HTTP request"}')


class TimedConnection(H11Protocol):
    """uvicorn's connection with two more time limits.

    A client has `head_seconds` to send the head of a request (408), from the connection or from the first byte of a
    later request. It has the same time to finish a body that it still sends after the answer. It has `answer_seconds`
    to receive an answer; then the connection is closed. The reader of a body limits the time for the body.
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
        transport.set_write_buffer_limits(high=0)  # call pause_writing as soon as a byte waits
        self._choose_step()
        self._time_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._choose_step()
        self._time_head()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with one line, and log one line."""
        logger.warning("%s: refused, not a valid HTTP request", self.client[0] if self.client else "a client")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application may still try to answer, but nothing can be sent
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_MALFORMED)
        self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._choose_step()
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

    def _choose_step(self) -> None:
        """Read large steps of a body with a known length, and small steps of everything that must be parsed."""
        in_body = self.conn.their_state is h11.SEND_BODY
        large = in_body and not any(name == b"transfer-encoding" for name, _ in self.headers)
        self.transport.max_size = LARGE_STEP if large else SMALL_STEP  # type: ignore[attr-defined]

    def _time_head(self) -> None:
        """Start the timer for a head; stop it while a request is answered or none has begun."""
        answering = self.cycle is not None and not self.cycle.response_complete
        unfinished = self.cycle is None or self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        idle = not (answering or unfinished)
        if answering or idle or self.transport.is_closing():
            self._head_timer = _cancelled(self._head_timer)
            if idle and self.timeout_keep_alive_task is None:  # uvicorn starts it with the answer, before the body ends
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
