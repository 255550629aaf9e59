"""The command line: `ppsolo <command>`, one file per command."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from ppsolo.cli import (
    benchmark,
    check_data,
    convert,
    demo,
    doctor,
    eval,
    export,
    import_config,
    import_data,
    infer,
    merge,
    serve,
    suggest,
    train,
    zoo,
)
from ppsolo.cli.advice import AdvisingParser, refuse_unknown
from ppsolo.cli.paddledetection import prepare_options
from ppsolo.cli.shared import REFUSED, TERMINATED, say_error, set_up_output, stop_output
from ppsolo.cli.signals import exit_code_of, heard_signals, interruption_in
from ppsolo.cli.streams import set_up_streams
from ppsolo.errors import ConfigError, PpsoloError
from ppsolo.version import __version__

COMMANDS = (
    infer,
    merge,
    serve,
    import_data,
    import_config,
    check_data,
    suggest,
    train,
    eval,
    benchmark,
    demo,
    doctor,
    zoo,
    convert,
    export,
)
# OpenCV reads them when it is imported.
OPENCV_LIMITS = ("OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_IO_MAX_IMAGE_WIDTH", "OPENCV_IO_MAX_IMAGE_HEIGHT")

OUT_OF_MEMORY = ("std::bad_alloc", "(-4:Insufficient memory)")  # in errors of C++ code, such as OpenCV's


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 1 (some inputs failed), 2 (refused), 130 (Ctrl-C), 143 (SIGTERM)."""
    set_up_streams()
    try:
        with heard_signals():
            return _flushed(_run(_options(arguments)))
    except KeyboardInterrupt as interruption:
        code = exit_code_of(interruption)
        say_error("ended by SIGTERM" if code == TERMINATED else "interrupted")
        return code


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments, and prepare the process for the command."""
    top = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        import argcomplete

        argcomplete.autocomplete(top)
    options, unknown = top.parse_known_args(arguments)
    own = vars(options).pop("parser", top)  # options go to other processes, parsers cannot
    if unknown:
        refuse_unknown(own, unknown)
    if options.command is None:
        top.print_help(sys.stderr)
        raise SystemExit(REFUSED)
    set_up_output(options)
    if options.quiet:
        os.environ["PPSOLO_PROGRESS"] = "off"
    # ppsolo reports broken pictures and videos in one line; the libraries' own lines would hide it.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return options


def _run(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    try:
        _check_surroundings()
        prepare_options(options)
        return options.run(options)
    except Exception as error:
        if (interruption := interruption_in(error)) is not None:
            raise interruption from None
        line = _line_of(error)
        if line is None:  # a fault of ours, or an error of Paddle, for example about a GPU: its traceback says more
            raise
        say_error(line)
        return REFUSED


def _line_of(error: Exception) -> str | None:
    """Return the line for an error that the user or the machine caused, None for others."""
    if isinstance(error, PpsoloError):
        return str(error)
    if isinstance(error, MemoryError) or any(word in str(error) for word in OUT_OF_MEMORY):
        return "not enough memory: end other programs, or use smaller pictures, --tile or a smaller batch"
    no_thread = isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")
    if no_thread or (isinstance(error, BlockingIOError) and error.filename is None):  # of a fork
        return "no more threads or processes can be started: end others, or raise the limit (ulimit -u)"
    if isinstance(error, OSError) and error.errno is not None:  # for example a full disk
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    return None


def _check_surroundings() -> None:
    """Refuse a current folder that was removed, and limits in the environment at which OpenCV ends the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the current folder no longer exists: change to another one with cd") from None
    for name in OPENCV_LIMITS:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"[0-9]{1,18}[A-Za-z]*", value):
            raise ConfigError(f"{name} is {value!r} in the environment: give a number, for OpenCV, or unset it")


def _flushed(code: int) -> int:
    """Write what is left of the output; return the exit code."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        stop_output()
    except OSError as error:  # a full disk
        stop_output()
        say_error(f"standard output: {error.strerror}")
        return REFUSED
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = AdvisingParser(prog="ppsolo", description="SOLOv2 instance segmentation, native to PaddlePaddle.")
    top.add_argument("--version", action="version", version=f"ppsolo {__version__}")
    words = top.add_mutually_exclusive_group()
    words.add_argument(
        "-q", "--quiet", action="store_true", help="show only errors and results, no progress and no warnings"
    )
    words.add_argument("-v", "--verbose", action="store_true", help="show what is being done")
    commands = top.add_subparsers(title="commands", dest="command", metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return top
