"""The web server: it runs the service on a socket until it is told to stop."""

import asyncio
import socket
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from ppsolo.errors import ConfigError
from ppsolo.serve.connections import TimedConnection
from ppsolo.serve.service import Service

STOP_SECONDS = 20  # for what waits when the service is told to stop
HEAD_SECONDS = 10.0  # for the head of a request
# Common clients and proxies close an idle connection earlier (nginx after 60 to 75 s, Go 90 s, Firefox 115 s). So no
# request arrives on a connection that the service is closing.
IDLE_SECONDS = 120
BACKLOG = 2048  # connections that wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 chooses a free one. Raises ConfigError if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({reason}); choose another") from None


class Server(uvicorn.Server):
    """uvicorn's server for the application of `create_app`; when told to stop, it empties the service's queue first."""

    def __init__(self, app: FastAPI, *, stop_seconds: float = STOP_SECONDS):
        self._service: Service = app.state.service
        self._stop_seconds = stop_seconds
        timeout = self._service.limits.timeout
        connection: Any = partial(TimedConnection, head_seconds=min(HEAD_SECONDS, timeout), answer_seconds=timeout)
        super().__init__(
            uvicorn.Config(
                app,
                http=connection,
                loop="asyncio",  # whose transports can be told how much to read at once
                ws="none",
                access_log=False,
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=round(stop_seconds) + 5,
                log_level="error",
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stopping = asyncio.create_task(self._service.stop(self._stop_seconds))
        await super().shutdown(sockets)
        await stopping
