"""What every command shares: exit codes, the flags for a configuration and a device, Paddle's import, output."""

import argparse
import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import TypeAlias

from ppsolo.cpu import available_cores
from ppsolo.errors import ConfigError

OK, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

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


def add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add -c and -o."""
    command.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="FILE",
        help="a configuration file or the name of a shipped one",
    )
    command.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change the configuration, e.g. -o weights=model.pdparams",
    )


def add_device(command: argparse.ArgumentParser, what: str) -> None:
    """Add --device and --precision. what: the thing that they apply to, for the help."""
    command.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help=f"of {what}, default: %(default)s")
    command.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help=f"of {what}: fp16 takes a GPU, bf16 a CPU that has it; default: %(default)s",
    )


def refuse_device(options: argparse.Namespace, remedy: str) -> None:
    """Raise ConfigError if the user gave --device or --precision."""
    if (options.device, options.precision) != ("cpu", "fp32"):
        raise ConfigError(f"--device and --precision are for exports: {remedy}")


def import_paddle() -> None:
    """Import Paddle with all cores for its kernels: it takes one unless OMP_NUM_THREADS says otherwise.

    What it prints about that, and about compilers that it will not need, is not for our users.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    os.environ.setdefault("GLOG_minloglevel", "2")  # of its C++ side, errors and worse
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Whoever ends a command wants no trace of Paddle's kernels.
            importlib.import_module("paddle").disable_signal_handler()
        except ModuleNotFoundError as error:
            if error.name != "paddle":
                raise
            raise ConfigError("PaddlePaddle is not installed: pip install 'ppsolo[cpu]' or 'ppsolo[gpu]'") from None


def say(line: str) -> None:
    """Print one line to standard output."""
    sys.stdout.write(line + "\n")


def say_error(line: str) -> None:
    """Print one line to standard error, with the program's name."""
    sys.stderr.write(f"ppsolo: error: {' '.join(line.split())}\n")
