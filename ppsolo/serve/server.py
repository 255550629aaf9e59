"""The web server: runs the service on a socket until it is stopped."""

import asyncio
import socket
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from ppsolo.errors import ConfigError
from ppsolo.serve.connections import TimedConnection
from ppsolo.serve.service import Service

STOP_SECONDS = 20  # time to answer waiting requests when the service stops
HEAD_SECONDS = 10.0  # time to send the head of a request
# Clients and proxies close an idle connection earlier (nginx after 60 to 75 s, Go 90 s, Firefox 115 s). So no request
# arrives while the service closes the connection.
IDLE_SECONDS = 120
BACKLOG = 2048  # connections that wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 chooses a free port. Raises ConfigError if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from None


class Server(uvicorn.Server):
    """uvicorn's server for the application of `create_app`; on stop, it empties the service's queue first."""

    def __init__(self, app: FastAPI, *, stop_seconds: float = STOP_SECONDS):
        self._service: Service = app.state.service
        self._stop_seconds = stop_seconds
        timeout = self._service.limits.timeout
        connection: Any = partial(TimedConnection, head_seconds=min(HEAD_SECONDS, timeout), answer_seconds=timeout)
        super().__init__(
            uvicorn.Config(
                app,
                http=connection,
                loop="asyncio",  # its transports let us choose how much to read at once
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
