"""What every command shares: exit codes, the flags for a configuration and a device, Paddle's import, output."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeAlias

from ppsolo.config import load_answering_config
from ppsolo.cpu import available_cores
from ppsolo.data.tiles import DEFAULT_OVERLAP, checked_tiling
from ppsolo.errors import ConfigError
from ppsolo.interface import ENGINES as ALL_ENGINES
from ppsolo.interface import PRECISIONS
from ppsolo.text import one_line, printable

if TYPE_CHECKING:
    from ppsolo.model_source import ModelSource

OK, SOME_FAILED, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], examples: str
) -> argparse.ArgumentParser:
    """Add a command whose help is the docstring of `run`, followed by the examples, one a line."""
    lines = "".join(f"  {line}\n" for line in examples.splitlines())
    command = commands.add_parser(
        name,
        help=run.__doc__,
        description=run.__doc__,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def add_override(command: argparse.ArgumentParser, *aliases: str, help: str) -> None:
    """Add -o, which may be given several times. aliases: other names of the flag."""
    command.add_argument(
        "-o", "--override", *aliases, action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=help
    )


def add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add -c and -o."""
    command.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="FILE",
        help="a configuration file or the name of a shipped one",
    )
    add_override(command, "--opt", help="change the configuration, e.g. -o weights=model.pdparams")
    command.add_argument(
        "--sha256", metavar="HEX", help="what the file of weights from an https address must have as its SHA-256"
    )


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the flags that say which model answers and in which runtime: -c, -o, --model_dir, --engine and more."""
    add_config(command, required=False)
    command.add_argument("--model_dir", metavar="DIR", help="what `ppsolo export` wrote, in place of -c")
    command.add_argument(
        "--engine",
        choices=ALL_ENGINES,
        default="auto",
        help="the runtime: dygraph for a configuration, paddle for an export, onnxruntime or openvino for both; "
        "default: the fastest that is installed and exact",
    )
    command.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="of --model_dir, default: %(default)s")
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="bf16 takes a CPU that has it and the engine openvino or paddle, fp16 an export on a GPU; "
        "default: %(default)s",
    )
    command.add_argument(
        "--class_thresholds",
        metavar="FILE",
        help="what `ppsolo eval --find_thresholds` wrote: the least score of an instance, class by class",
    )


def model_source(options: argparse.Namespace) -> "ModelSource":
    """The model that the flags of `add_model` name; Paddle is imported where it is needed. Raises PpsoloError."""
    from ppsolo.model_source import ModelSource, export_config

    if (options.config is None) == (options.model_dir is None):
        raise ConfigError("which model? Give a configuration (-c) or an exported directory (--model_dir)")
    if options.model_dir is None:
        config, directory = load_answering_config(options.config, options.override), None
    else:
        config, directory = export_config(options.model_dir, options.override), Path(options.model_dir)
    if options.class_thresholds is not None:
        from ppsolo.evaluation.thresholds import with_thresholds

        config = with_thresholds(config, options.class_thresholds)
    source = ModelSource(
        config,
        directory,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        tiling=checked_tiling(options.tile, options.overlap) if hasattr(options, "tile") else None,
    )
    if source.needs_paddle:
        import_paddle()
    return source


def add_tiles(command: argparse.ArgumentParser) -> None:
    """Add --tile and --overlap."""
    command.add_argument(
        "--tile", type=int, metavar="N", help="predict large pictures in squares of N pixels, and join objects at seams"
    )
    command.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="pixels that neighbouring tiles share; take the size of most objects or more; "
        f"default: {DEFAULT_OVERLAP}, or half a tile where that is less",
    )


def import_paddle() -> None:
    """Import Paddle with all cores for its kernels: it takes one unless OMP_NUM_THREADS says otherwise.

    What it prints about that, and about compilers that it will not need, is not for our users.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    os.environ.setdefault("GLOG_minloglevel", "2")  # of its C++ side, errors and worse
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Whoever ends a command wants no trace of Paddle's kernels.
            importlib.import_module("paddle").disable_signal_handler()
        except ModuleNotFoundError as error:
            if error.name != "paddle":
                raise
            raise ConfigError("PaddlePaddle is not installed: pip install 'ppsolo[cpu]' or 'ppsolo[gpu]'") from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # which Paddle gives back to the system


def say(text: str, stream: TextIO | None = None) -> None:
    """Print one line, or several, without characters that would steer the terminal. stream: None: standard output."""
    to = sys.stdout if stream is None else stream
    lines = "\n".join(printable(line) for line in text.split("\n")) + "\n"
    # A terminal that is not told to use UTF-8 shows other letters as "?".
    encoding = to.encoding or "utf-8"
    try:
        to.write(lines.encode(encoding, "replace").decode(encoding))
    except BrokenPipeError:
        stop_output()
    except OSError as error:  # a full disk
        error.filename = "standard output" if stream is None else "standard error"
        raise


def stop_output() -> None:
    """Let the work go on where nobody reads standard output any longer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def say_note(line: str) -> None:
    """Print one line to standard error: something that the user should know and that stops nothing."""
    sys.stderr.write(f"ppsolo: note: {one_line(line)}\n")


def say_error(line: str) -> None:
    """Print one line to standard error, with the program's name."""
    sys.stderr.write(f"ppsolo: error: {one_line(line)}\n")


class LogFormatter(logging.Formatter):
    """Log messages without characters that would steer the terminal; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))
