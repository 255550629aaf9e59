"""`ppsolo serve`: answer over HTTP."""

import argparse
import dataclasses
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ppsolo.cli.shared import OK, REFUSED, Commands, add_command, add_model, model_source, say, say_error, set_up_output
from ppsolo.cpu import default_threads
from ppsolo.errors import ConfigError, PpsoloError

if TYPE_CHECKING:
    from ppsolo.serve.access import AccessRules
    from ppsolo.serve.service import Limits

EXAMPLES = """ppsolo serve --model_dir output/r50_onnx --port 8000"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "serve", run, EXAMPLES)
    add_model(command)
    command.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on, default: %(default)s")
    command.add_argument(
        "--port", type=int, default=8000, metavar="P", help="port to listen on; 0: any free one; default: %(default)s"
    )
    for name, value, meaning in (
        ("batch_size", 4, "pictures predicted together"),
        ("queue", 32, "waiting requests; further ones get 503"),
        ("timeout", 30.0, "seconds to receive a picture (408), to wait (503) and to predict (504)"),
        ("max_bytes", 20 * 2**20, "largest body of a request, in bytes (413)"),
        ("max_pixels", 2**25, "largest picture, in pixels (422)"),
        ("max_tiles", 64, "most tiles of a picture with ?tile= (422)"),
    ):
        command.add_argument(
            f"--{name}", type=type(value), default=value, metavar="N", help=f"{meaning}, default: %(default)s"
        )
    for name, example, meaning in (
        ("host", "NAME", "more names or addresses of this service, such as solo.example, *.example or * (all)"),
        ("origin", "URL", "other web sites that may use it, such as https://app.example or * (all)"),
    ):
        command.add_argument(
            f"--allow_{name}", action="extend", nargs="+", default=[], metavar=example, help=f"{meaning}"
        )
    command.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of processes, each with its own model and a share of the cores; default: %(default)s",
    )
    command.add_argument("--token_file", metavar="FILE", help="a file with one line: the token that clients must send")


def run(options: argparse.Namespace) -> int:
    """Answer over HTTP: POST a picture to /predict, or try the page at /."""
    try:
        from ppsolo.serve.server import listen
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'ppsolo[serve]'") from None
    _limits(options)  # find a wrong one before loading the weights
    _access(options)
    if options.workers < 1:
        raise ConfigError(f"--workers is {options.workers}: give at least 1")
    source = model_source(options)
    listener = listen(options.host, options.port)  # before loading the weights, so that a wrong port is found at once
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def ready(text: str) -> None:
        say(text)
        workers = "" if options.workers == 1 else f" by {options.workers} workers"
        say(f"{source.config.name} answers on {address}{workers}")
        sys.stdout.flush()

    if options.workers == 1:
        return _serve(options, listener, ready)
    from ppsolo.serve.workers import Workers

    return Workers(_worker, options, listener, count=options.workers).run(ready=ready)


def _worker(options: argparse.Namespace, listener: socket.socket, ready: Callable[[str], None]) -> int:
    """Serve in a worker process, with its share of the cores."""
    set_up_output(options)
    try:
        return _serve(options, listener, ready, threads=max(1, default_threads() // options.workers))
    except PpsoloError as error:
        say_error(str(error))
        return REFUSED


def _serve(
    options: argparse.Namespace, listener: socket.socket, ready: Callable[[str], None], *, threads: int | None = None
) -> int:
    """Load the model and answer until stopped. ready: called with a description of the model."""
    from ppsolo.progress import ProgressBar
    from ppsolo.serve.application import create_app
    from ppsolo.serve.server import Server

    with ProgressBar("download", unit="B") as progress:
        predictor = model_source(options).open(threads=threads, keep_memory=False, progress=progress.update)
    ready(f"{predictor.origin}\n{predictor.description}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(OK))  # runs after the server's orderly end
    app = create_app(
        predictor,
        model=predictor.config.name,
        limits=_limits(options),
        access=_access(options),
        pixels=predictor.read.settings,
    )
    Server(app).run(sockets=[listener])
    return OK


def _limits(options: argparse.Namespace) -> "Limits":
    from ppsolo.serve.service import Limits

    return Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)})


def _access(options: argparse.Namespace) -> "AccessRules":
    from ppsolo.serve.access import AccessRules, read_token

    return AccessRules(
        hosts=_names_of(options.host) + options.allow_host,
        origins=options.allow_origin,
        token=None if options.token_file is None else read_token(options.token_file),
    )


def _names_of(host: str) -> list[str]:
    """Return the name in --host, unless it means every address of this machine."""
    return [] if host in ("", "0.0.0.0", "::") else [host]
